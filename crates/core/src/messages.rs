//! The messages table: all its keys, items and queries.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, ReturnValuesOnConditionCheckFailure, ScalarAttributeType,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::three_times;
use crate::config::{self, ConfigError};
use crate::metrics;
use crate::placement::{Placement, Row, Step};
use crate::table::{Key, TableDefinition};
use crate::{Error, Level, Message, SortKey, backoff};

/// The environment variable with the table's name.
const TABLE_VARIABLE: &str = "MESSAGES_TABLE";
/// The environment variable with the days for which messages are kept.
const RETENTION_VARIABLE: &str = "RETENTION_DAYS";

/// Partition key: the site as sent.
const SITE: &str = "site";
/// Sort key: [`SortKey`], seconds with a fraction.
const TIMESTAMP: &str = "timestamp";
/// The text.
const MESSAGE: &str = "message";
/// The [`Level`]'s name.
const LOG_LEVEL: &str = "log_level";
/// When the row was written, in Unix seconds with a fraction. A record of the
/// stream knows it in whole seconds only.
const STORED_AT: &str = "StoredAt";
/// When the row expires, in whole Unix seconds.
const TIME_TO_LIVE: &str = "TimeToLive";

/// The table's definition.
pub const TABLE: TableDefinition = TableDefinition {
    key: Key {
        partition: (SITE, ScalarAttributeType::S),
        sort: (TIMESTAMP, ScalarAttributeType::N),
    },
    index: None,
    time_to_live: TIME_TO_LIVE,
    stream: true,
};

/// How long a message is kept unless the deployment says otherwise: seven
/// days.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How long newlog keeps trying; its callers give up after 5 s.
const PATIENCE: Duration = Duration::from_secs(3);

/// The shortest and the longest wait between two attempts.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// The most rows in the first page of a placement: some 100 KB of short
/// messages.
const PLACEMENT_PAGE: usize = 1_000;

/// How long after a message's arrival its retry is looked for beyond the first
/// page. Callers give up after 5 s and send again.
const RETRY_TIME: Duration = Duration::from_secs(60);

/// The most rows in a page of recent messages. DynamoDB ends a page earlier, at
/// 1 MB, since the smallest row takes some 58 bytes. Set only because the local
/// database reads the whole partition without a limit.
pub const RECENT_PAGE: usize = 20_000;

/// An item in the SDK's form.
pub type Item = HashMap<String, AttributeValue>;

/// The messages table.
#[derive(Clone, Debug)]
pub struct Messages {
    client: Client,
    table: String,
    retention: Duration,
}

/// A page of recent messages, newest first.
#[derive(Debug)]
pub struct Page {
    /// The messages, none of which has expired.
    pub messages: Vec<Message>,
    /// The highest key of the next page; `None` if this was the last.
    pub next: Option<SortKey>,
}

impl Messages {
    /// The table of this name.
    pub fn new(config: &SdkConfig, table: String) -> Self {
        // One attempt a call: the SDK waits up to 3 s between its attempts, as
        // long as a message may wait for all of them.
        let config = Builder::from(config)
            .retry_config(RetryConfig::disabled())
            .build();
        Self {
            client: Client::from_conf(config),
            table,
            retention: RETENTION,
        }
    }

    /// The table that the function's environment names.
    ///
    /// # Errors
    /// [`ConfigError`] when the variable is not set.
    pub fn from_env(config: &SdkConfig) -> Result<Self, ConfigError> {
        Ok(Self::new(config, config::variable(TABLE_VARIABLE)?))
    }

    /// The same table; its new messages are kept for as many days as the
    /// function's environment says.
    ///
    /// # Errors
    /// [`ConfigError`] when the variable is not set or not a number of days.
    pub fn with_retention_from_env(self) -> Result<Self, ConfigError> {
        let retention = config::days(RETENTION_VARIABLE)?;
        Ok(Self { retention, ..self })
    }

    /// Opens the connection to the table ([`config::warm_up`]), with a query
    /// that finds nothing.
    pub async fn warm_up(&self) {
        let nothing = self.downwards("-", SortKey::MIN, SortKey::MIN, 1);
        config::warm_up(nothing.send()).await;
    }

    /// Stores a message at the key it asks for or the first free one above it,
    /// unless it is a retry of a stored message; see [`Placement`]. Returns
    /// once the message is durable, within 3 s of the call.
    ///
    /// # Errors
    /// [`Error::Unavailable`] after 3 s of attempts. The message may be stored
    /// nevertheless; a retry is recognised.
    pub async fn put(&self, message: &Message) -> Result<(), Error> {
        self.put_until(message, Instant::now() + PATIENCE).await
    }

    /// Stores messages as [`Self::put`] does, within the same 3 s for all. One
    /// after another, because the stream has the messages of a site in the
    /// order in which they were stored.
    ///
    /// # Errors
    /// [`Error::Unavailable`] after 3 s. Some messages may be stored, and a
    /// retry of all is recognised.
    pub async fn put_all(&self, messages: &[Message]) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        for message in messages {
            self.put_until(message, deadline).await?;
        }
        Ok(())
    }

    async fn put_until(&self, message: &Message, deadline: Instant) -> Result<(), Error> {
        let mut placement = Placement::new(message.key, PLACEMENT_PAGE);
        let mut waits = backoff(FIRST_WAIT, LONGEST_WAIT);
        // The failure to report if the time runs out during a call.
        let mut failure = Error::Unavailable {
            operation: "PutItem",
            cause: format!("no answer within {PATIENCE:?}"),
        };
        loop {
            let step = placement.step();
            if step == Step::Done {
                metrics::stored();
                return Ok(());
            }
            let attempt = async {
                match step {
                    Step::Put(key) => self.put_at(message, key, &mut placement).await,
                    Step::Read { from, to, limit } => {
                        let (rows, more) = self.rows(message, from, to, limit).await?;
                        placement.read(&rows, more);
                        Ok(())
                    }
                    Step::Search { from, to, limit } => {
                        let is_there = self.search(message, from, to, limit).await?;
                        placement.searched(is_there);
                        Ok(())
                    }
                    Step::Done => Ok(()),
                }
            };
            match timeout_at(deadline, attempt).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    failure = error;
                    let wait = waits.next().unwrap_or(LONGEST_WAIT);
                    if timeout_at(deadline, sleep(wait)).await.is_err() {
                        return Err(failure);
                    }
                }
                Err(_) => return Err(failure),
            }
        }
    }

    /// One conditional put, usually the only call for a message.
    async fn put_at(
        &self,
        message: &Message,
        key: SortKey,
        placement: &mut Placement,
    ) -> Result<(), Error> {
        let stored_at = SortKey::now();
        let expires = stored_at.seconds() + self.retention.as_secs();
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(to_item(message, key, stored_at, expires)))
            .condition_expression("attribute_not_exists(#key)")
            .expression_attribute_names("#key", SITE)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match put {
            Ok(_) => placement.stored(),
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                let row = match error.err() {
                    PutItemError::ConditionalCheckFailedException(failed) => failed.item(),
                    _ => None,
                };
                placement.lost(row.is_some_and(|row| is_same(row, message)));
            }
            Err(error) => return Err(Error::aws("PutItem", &error)),
        }
        Ok(())
    }

    /// A page of the rows around a message, and whether more are left.
    async fn rows(
        &self,
        message: &Message,
        from: SortKey,
        to: SortKey,
        limit: usize,
    ) -> Result<(Vec<Row>, bool), Error> {
        let page = self
            .downwards(&message.site, from, to, limit)
            .send()
            .await
            .map_err(|error| Error::aws("Query", &error))?;
        // The arrival is not stored, but it follows from the expiry.
        let recent = now() + self.retention.as_secs() - RETRY_TIME.as_secs();
        let rows = page.items().iter().filter_map(|row| {
            Some(Row {
                key: stored_key(row)?,
                is_same: is_same(row, message),
                is_recent: expiry(row).is_some_and(|expires| expires >= recent),
            })
        });
        Ok((rows.collect(), page.last_evaluated_key().is_some()))
    }

    /// Whether the same message is in a page of rows. The filter spares the
    /// transport of the page, by far the largest part of a put's time.
    async fn search(
        &self,
        message: &Message,
        from: SortKey,
        to: SortKey,
        limit: usize,
    ) -> Result<bool, Error> {
        let page = self
            .downwards(&message.site, from, to, limit)
            .filter_expression("#message = :message")
            .expression_attribute_names("#message", MESSAGE)
            .expression_attribute_values(":message", AttributeValue::S(message.text.clone()))
            .send()
            .await
            .map_err(|error| Error::aws("Query", &error))?;
        Ok(page.items().iter().any(|row| is_same(row, message)))
    }

    /// A consistent query of a site's rows with keys from `low` to `high`,
    /// both included, newest first.
    fn downwards(
        &self,
        site: &str,
        low: SortKey,
        high: SortKey,
        limit: usize,
    ) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .scan_index_forward(false)
            .key_condition_expression("#site = :site AND #timestamp BETWEEN :low AND :high")
            .expression_attribute_names("#site", SITE)
            .expression_attribute_names("#timestamp", TIMESTAMP)
            .expression_attribute_values(":site", AttributeValue::S(site.to_owned()))
            .expression_attribute_values(":low", number(low))
            .expression_attribute_values(":high", number(high))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
    }

    /// One page of a site's messages with keys from `low` to `high`, both
    /// included, newest first, read consistently. Reads at most `rows` rows and
    /// leaves out the expired ones.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the query failed three times.
    pub async fn newest_first(
        &self,
        site: &str,
        low: SortKey,
        high: SortKey,
        rows: usize,
    ) -> Result<Page, Error> {
        self.newest_first_from_level(site, low, high, rows, Level::Debug)
            .await
    }

    /// The same, and leaves out messages below a level.
    ///
    /// # Errors
    /// As for [`Self::newest_first`].
    pub async fn newest_first_from_level(
        &self,
        site: &str,
        low: SortKey,
        high: SortKey,
        rows: usize,
        least: Level,
    ) -> Result<Page, Error> {
        // DynamoDB refuses a BETWEEN whose bounds are reversed.
        if low > high {
            return Ok(Page {
                messages: Vec::new(),
                next: None,
            });
        }
        // DynamoDB leaves out what bears the name of a lower level, so that it
        // is not transported. What has no name of ours is judged below.
        let lower = Level::ALL.iter().filter(|level| **level < least);
        let lower: HashMap<_, _> = lower
            .enumerate()
            .map(|(index, level)| (format!(":level{index}"), level.name()))
            .map(|(name, level)| (name, AttributeValue::S(level.to_owned())))
            .collect();
        let mut filter = "#expires > :now".to_owned();
        if !lower.is_empty() {
            let names: Vec<_> = lower.keys().map(String::as_str).collect();
            filter.push_str(&format!(" AND NOT #level IN ({})", names.join(", ")));
        }
        let page = three_times(|| {
            let mut query = self.downwards(site, low, high, rows.min(RECENT_PAGE));
            for (name, level) in &lower {
                query = query.expression_attribute_values(name, level.clone());
            }
            query
                .filter_expression(&filter)
                .expression_attribute_names("#expires", TIME_TO_LIVE)
                .expression_attribute_values(":now", number(now()))
                // What is not needed costs as much to read as what is.
                .projection_expression("#timestamp, #message, #level")
                .expression_attribute_names("#message", MESSAGE)
                .expression_attribute_names("#level", LOG_LEVEL)
                .send()
        });
        let mut page = page.await.map_err(|error| Error::aws("Query", &error))?;
        let mut rows = page.items.take().unwrap_or_default();
        let mut messages = Vec::with_capacity(rows.len());
        for row in &mut rows {
            match of_site(site.to_owned(), row) {
                Some(message) if message.level < least => {}
                Some(message) => messages.push(message),
                None => tracing::error!(
                    site,
                    timestamp = row.get(TIMESTAMP).and_then(|key| key.as_n().ok()),
                    "stored message cannot be read, left out"
                ),
            }
        }
        let next = page
            .last_evaluated_key()
            .and_then(stored_key)
            .and_then(SortKey::previous)
            .filter(|next| *next >= low);
        Ok(Page { messages, next })
    }
}

/// The attributes of a message's row. `expires` is in Unix seconds.
pub fn to_item(message: &Message, key: SortKey, stored_at: SortKey, expires: u64) -> Item {
    let level = message.level.name().to_owned();
    [
        (SITE, AttributeValue::S(message.site.clone())),
        (TIMESTAMP, number(key)),
        (MESSAGE, AttributeValue::S(message.text.clone())),
        (LOG_LEVEL, AttributeValue::S(level)),
        (STORED_AT, number(stored_at)),
        (TIME_TO_LIVE, number(expires)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The message of a row of the stream, whose text is taken out.
/// `None` as for [`of_site`], and if the site is not a string.
pub fn from_item(item: &mut Item) -> Option<Message> {
    let site = item.get(SITE)?.as_s().ok()?.clone();
    of_site(site, item)
}

/// The message of a row, whose text is taken out. Somebody else may have
/// written it: a missing or unreadable level is `info`, and a text that is
/// missing or NULL is empty. `None` if the key or the text is of another type.
fn of_site(site: String, item: &mut Item) -> Option<Message> {
    let level = item.get(LOG_LEVEL).and_then(|level| level.as_s().ok());
    let level = level
        .and_then(|name| Level::from_name(name))
        .unwrap_or(Level::Info);
    let key = stored_key(item)?;
    let text = match item.get_mut(MESSAGE) {
        None | Some(AttributeValue::Null(_)) => String::new(),
        Some(AttributeValue::S(text)) => std::mem::take(text),
        Some(_) => return None,
    };
    Some(Message {
        site,
        text,
        level,
        key,
    })
}

/// When a row was written; `None` if somebody else wrote it.
pub fn stored_at(item: &Item) -> Option<SortKey> {
    SortKey::from_stored(item.get(STORED_AT)?.as_n().ok()?)
}

fn stored_key(item: &Item) -> Option<SortKey> {
    SortKey::from_stored(item.get(TIMESTAMP)?.as_n().ok()?)
}

/// When a row expires, in Unix seconds.
fn expiry(item: &Item) -> Option<u64> {
    item.get(TIME_TO_LIVE)?.as_n().ok()?.parse().ok()
}

/// Whether a row is this message, put by an earlier attempt.
fn is_same(row: &Item, message: &Message) -> bool {
    let is = |name, value: &str| {
        row.get(name)
            .and_then(|v| v.as_s().ok())
            .is_some_and(|v| v == value)
    };
    is(MESSAGE, &message.text)
        && is(LOG_LEVEL, message.level.name())
        && expiry(row).is_some_and(|expires| expires > now())
}

fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// The current time in whole Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_its_message_was_and_what_it_lacks_has_a_default() {
        let message = Message {
            site: "tst".into(),
            text: "x".into(),
            level: Level::Error,
            key: SortKey::MAX,
        };
        let row = to_item(&message, message.key, SortKey::MIN, 7);
        assert_eq!(from_item(&mut row.clone()).as_ref(), Some(&message));
        let changed = |name: &str, value: Option<AttributeValue>| {
            let mut row = row.clone();
            match value {
                Some(value) => row.insert(name.to_owned(), value),
                None => row.remove(name),
            };
            from_item(&mut row)
        };
        let null = AttributeValue::Null(true);
        let five = AttributeValue::N("5".into());
        let loud = AttributeValue::S(" CRIT".into());
        for (level, read) in [
            (None, Level::Info),
            (Some(null.clone()), Level::Info),
            (Some(five.clone()), Level::Info),
            (Some(loud), Level::Critical),
        ] {
            assert_eq!(changed(LOG_LEVEL, level).unwrap().level, read);
        }
        for text in [None, Some(null)] {
            assert_eq!(changed(MESSAGE, text).unwrap().text, "");
        }
        for name in [SITE, MESSAGE] {
            assert_eq!(changed(name, Some(five.clone())), None);
        }
        for name in [SITE, TIMESTAMP] {
            assert_eq!(changed(name, None), None);
        }
    }
}
