//! The connections table: all its keys, items and queries.
//!
//! A connection has a row for each site that it watches, which the broadcaster
//! reads, and one more that lists them: its own row, of the site that is its id.
//! The index may lack what was written a moment ago, so only the own row tells
//! which rows a new subscription replaces.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::error::{BuildError, SdkError};
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, Delete, Put, PutRequest, ScalarAttributeType, TransactWriteItem, WriteRequest,
};
use aws_sdk_dynamodb::{Client, Config};
use futures_util::future::try_join_all;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::backoff::three_times;
use crate::config::{self, ConfigError};
use crate::messages::now;
use crate::subscription::{self, Subscription};
use crate::table::{Key, TableDefinition};
use crate::{Error, Level};

/// The environment variable with the table's name.
const TABLE_VARIABLE: &str = "CONNECTIONS_TABLE";

/// Partition key: the site that the connection watches.
const SITE: &str = "site";
/// Sort key, and partition key of the index: API Gateway's id.
const CONNECTION_ID: &str = "ConnectionID";
/// When `$connect` ran: `2020-11-04 11:05:58.123456`.
const STARTED: &str = "ConnectionStartedUTC";
/// The least level of the messages that it gets; absent for all.
const LEAST_LEVEL: &str = "LeastLevel";
/// The topic under which it gets its messages; absent for the plain frame.
const TOPIC: &str = "Topic";
/// Only in its own row: the sites that it watches.
const SITES: &str = "Sites";
/// Only in its own row: when the request came that chose the sites, in Unix
/// milliseconds.
const CHOSEN_AT: &str = "ChosenAt";
/// When the row expires, in whole Unix seconds.
const EXPIRES_AT: &str = "ExpiresAt";
/// The index that finds a connection's rows by its id.
const INDEX: &str = "ConnectionID";

/// The table's definition.
pub const TABLE: TableDefinition = TableDefinition {
    key: Key {
        partition: (SITE, ScalarAttributeType::S),
        sort: (CONNECTION_ID, ScalarAttributeType::S),
    },
    index: Some((
        INDEX,
        Key {
            partition: (CONNECTION_ID, ScalarAttributeType::S),
            sort: (SITE, ScalarAttributeType::S),
        },
    )),
    time_to_live: EXPIRES_AT,
    stream: false,
};

/// How long a row is kept: API Gateway ends every connection after 2 h, and
/// `$disconnect` is best effort.
const LIFETIME: Duration = Duration::from_secs(2 * 60 * 60 + 10 * 60);

const STARTED_FORMAT: &[BorrowedFormatItem<'_>] = format_description!(
    version = 2,
    "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]"
);

const BATCH_WRITE: &str = "BatchWriteItem";
const TRANSACTION: &str = "TransactWriteItems";

type Item = HashMap<String, AttributeValue>;

/// The connections table.
#[derive(Clone, Debug)]
pub struct Connections {
    client: Client,
    table: String,
}

/// A client's connection to the WebSocket API.
#[derive(Clone, Debug)]
pub struct Connection {
    /// API Gateway's id, such as `L0SM9cOFvHcCIhw=`.
    pub id: String,
    /// When `$connect` ran, as it is stored; `None` if the row does not say.
    pub started: Option<String>,
    /// The least level of the messages that it gets.
    pub level: Level,
    /// Whether it gets [`crate::message::to_userstatus`] of each frame.
    pub is_userstatus: bool,
}

impl Connection {
    /// When `$connect` ran; `None` if the row does not say.
    pub fn started_at(&self) -> Option<OffsetDateTime> {
        let started = PrimitiveDateTime::parse(self.started.as_deref()?, STARTED_FORMAT);
        started.ok().map(PrimitiveDateTime::assume_utc)
    }
}

impl Connections {
    /// The table of this name.
    pub fn new(config: &SdkConfig, table: String) -> Self {
        Self {
            client: Client::new(config),
            table,
        }
    }

    /// The table that the function's environment names.
    ///
    /// # Errors
    /// [`ConfigError`] when the variable is not set.
    pub fn from_env(config: &SdkConfig) -> Result<Self, ConfigError> {
        Ok(Self::new(config, config::variable(TABLE_VARIABLE)?))
    }

    /// Opens the connection to the table ([`config::warm_up`]), with a row that
    /// is refused: `$connect` may do nothing else.
    pub async fn warm_up(&self) {
        let without_key = Item::from([(SITE.to_owned(), AttributeValue::S("-".to_owned()))]);
        if let Ok(write) = write(without_key) {
            let refused = self.client.batch_write_item();
            config::warm_up(refused.request_items(&self.table, vec![write]).send()).await;
        }
    }

    /// Stores a connection to the sites of a subscription, which was `chosen_at`
    /// these Unix milliseconds. Each attempt says anew when it began: a
    /// broadcaster that found the row of an earlier one, whose connection was
    /// not open yet, neither takes the connection for an old one nor deletes
    /// the row of this attempt.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the rows could not be put three times.
    pub async fn add(
        &self,
        connection_id: &str,
        subscription: &Subscription,
        chosen_at: i64,
    ) -> Result<(), Error> {
        three_times(|| self.put(connection_id, subscription, chosen_at)).await
    }

    /// One attempt, one call for all rows.
    async fn put(
        &self,
        connection_id: &str,
        subscription: &Subscription,
        chosen_at: i64,
    ) -> Result<(), Error> {
        let failed = |error: &(dyn std::error::Error + 'static)| Error::aws(BATCH_WRITE, error);
        let started = OffsetDateTime::now_utc()
            .format(STARTED_FORMAT)
            .map_err(|error| failed(&error))?;
        let expires_at = (now() + LIFETIME.as_secs()).to_string();
        let own = Own {
            started,
            expires_at,
            chosen_at: chosen_at.to_string(),
        };
        let writes = own
            .rows(connection_id, subscription)
            .map(write)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failed(&error))?;
        let answer = self
            .client
            .batch_write_item()
            .request_items(&self.table, writes)
            .customize()
            .config_override(once())
            .send()
            .await
            .map_err(|error| failed(&error))?;
        if answer
            .unprocessed_items()
            .is_some_and(|left| !left.is_empty())
        {
            return Err(Error::Unavailable {
                operation: BATCH_WRITE,
                cause: "the table did not take all rows".to_owned(),
            });
        }
        Ok(())
    }

    /// Has an open connection watch the sites of another subscription, which
    /// was `chosen_at` these Unix milliseconds, and no others: all its rows
    /// change at once. Returns what it watches now, which is something else if
    /// that was chosen later.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such connection (any more);
    /// [`Error::Unavailable`] when the calls failed three times.
    pub async fn change(
        &self,
        connection_id: &str,
        subscription: &Subscription,
        chosen_at: i64,
    ) -> Result<Subscription, Error> {
        if subscription.sites.iter().any(|site| site == connection_id) {
            // Its row would be the connection's own.
            return Err(Error::Invalid(
                "'site' is the connection's own id; expected the name of a site.".to_owned(),
            ));
        }
        three_times(|| self.try_change(connection_id, subscription, chosen_at))
            .await?
            .ok_or_else(|| {
                Error::Invalid("The connection is not known; expected an open one.".to_owned())
            })
    }

    async fn try_change(
        &self,
        connection_id: &str,
        subscription: &Subscription,
        chosen_at: i64,
    ) -> Result<Option<Subscription>, Error> {
        let Some((mut own, before)) = self.own_row(connection_id).await? else {
            return Ok(None);
        };
        if own
            .chosen_at
            .parse()
            .is_ok_and(|known: i64| known > chosen_at)
        {
            return Ok(Some(before));
        }
        let mut subscription = subscription.clone();
        subscription.is_userstatus |= before.is_userstatus;

        let known = std::mem::replace(&mut own.chosen_at, chosen_at.to_string());
        let failed = |error: &(dyn std::error::Error + 'static)| Error::aws(TRANSACTION, error);
        let mut writes = Vec::new();
        for row in own.rows(connection_id, &subscription) {
            let is_own = row.contains_key(CHOSEN_AT);
            let mut put = Put::builder().table_name(&self.table).set_item(Some(row));
            if is_own {
                // It is still there, and as it was read: two changes may have
                // been chosen in the same millisecond.
                put = put
                    .condition_expression("#chosen = :chosen AND #sites = :sites")
                    .expression_attribute_names("#chosen", CHOSEN_AT)
                    .expression_attribute_names("#sites", SITES)
                    .expression_attribute_values(":chosen", AttributeValue::N(known.clone()))
                    .expression_attribute_values(":sites", list(&before.sites));
            }
            let put = put.build().map_err(|error| failed(&error))?;
            writes.push(TransactWriteItem::builder().put(put).build());
        }
        let left = before.sites.iter();
        for site in left.filter(|site| !subscription.sites.contains(site)) {
            let delete = Delete::builder()
                .table_name(&self.table)
                .key(SITE, AttributeValue::S(site.clone()))
                .key(CONNECTION_ID, AttributeValue::S(connection_id.to_owned()))
                .build()
                .map_err(|error| failed(&error))?;
            writes.push(TransactWriteItem::builder().delete(delete).build());
        }
        self.client
            .transact_write_items()
            .set_transact_items(Some(writes))
            .customize()
            .config_override(once())
            .send()
            .await
            .map_err(|error| failed(&error))?;
        Ok(Some(subscription))
    }

    /// A connection's own row, read consistently, with its subscription.
    async fn own_row(&self, connection_id: &str) -> Result<Option<(Own, Subscription)>, Error> {
        let id = || AttributeValue::S(connection_id.to_owned());
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .consistent_read(true)
            .key(SITE, id())
            .key(CONNECTION_ID, id())
            .customize()
            .config_override(once())
            .send()
            .await
            .map_err(|error| Error::aws("GetItem", &error))?;
        Ok(answer.item().and_then(Own::from_item))
    }

    /// Deletes every row of a connection, found by the index. The index is
    /// eventually consistent: a row put just before may remain, until a
    /// broadcast finds the connection gone or the row expires.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when a call failed after all retries.
    pub async fn remove_all(&self, connection_id: &str) -> Result<(), Error> {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(INDEX)
            .key_condition_expression("#id = :id")
            .expression_attribute_names("#id", CONNECTION_ID)
            .expression_attribute_values(":id", AttributeValue::S(connection_id.to_owned()));
        let rows = all_pages(query).await?;
        let deletes = rows
            .iter()
            .filter_map(|row| row.get(SITE)?.as_s().ok())
            .map(|site| self.remove(site, connection_id, None));
        try_join_all(deletes).await?;
        Ok(())
    }

    /// Deletes one row of a connection, if it is still the one of the attempt
    /// that `started` then ([`Connection::started`]). A delete that is carried
    /// out late must not take the row of a connection that has opened since.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the delete failed after all retries.
    pub async fn remove(
        &self,
        site: &str,
        connection_id: &str,
        started: Option<&str>,
    ) -> Result<(), Error> {
        let mut delete = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(SITE, AttributeValue::S(site.to_owned()))
            .key(CONNECTION_ID, AttributeValue::S(connection_id.to_owned()));
        if let Some(started) = started {
            delete = delete
                .condition_expression("#started = :started")
                .expression_attribute_names("#started", STARTED)
                .expression_attribute_values(":started", AttributeValue::S(started.to_owned()));
        }
        match delete.send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                Ok(())
            }
            Err(error) => Err(Error::aws("DeleteItem", &error)),
        }
    }

    /// The unexpired connections to a site, in the order of their ids. Read
    /// consistently from the table, because an index could miss a client that
    /// has just connected.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when a query failed after all retries.
    pub async fn of_site(&self, site: &str) -> Result<Vec<Connection>, Error> {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("#site = :site")
            .filter_expression("#expires > :now")
            .expression_attribute_names("#site", SITE)
            .expression_attribute_names("#expires", EXPIRES_AT)
            .expression_attribute_values(":site", AttributeValue::S(site.to_owned()))
            .expression_attribute_values(":now", AttributeValue::N(now().to_string()));
        let rows = all_pages(query).await?;
        Ok(rows.iter().filter_map(from_item).collect())
    }
}

/// For calls that are made three times: without the SDK's own retries.
fn once() -> Builder {
    Config::builder().retry_config(RetryConfig::disabled())
}

async fn all_pages(query: QueryFluentBuilder) -> Result<Vec<Item>, Error> {
    query
        .into_paginator()
        .items()
        .send()
        .collect::<Result<Vec<Item>, _>>()
        .await
        .map_err(|error| Error::aws("Query", &error))
}

fn from_item(item: &Item) -> Option<Connection> {
    let id = text(item, CONNECTION_ID)?;
    if text(item, SITE) == Some(id) {
        // The own row of a connection whose id a site is called by.
        return None;
    }
    Some(Connection {
        id: id.to_owned(),
        started: text(item, STARTED).map(str::to_owned),
        level: level(item),
        is_userstatus: is_userstatus(item),
    })
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?.as_s().ok().map(String::as_str)
}

fn level(item: &Item) -> Level {
    text(item, LEAST_LEVEL)
        .and_then(Level::from_name)
        .unwrap_or(Level::Debug)
}

fn is_userstatus(item: &Item) -> bool {
    text(item, TOPIC) == Some(subscription::USERSTATUS)
}

/// What a connection's own row has beside its subscription.
struct Own {
    started: String,
    expires_at: String,
    chosen_at: String,
}

impl Own {
    fn from_item(item: &Item) -> Option<(Self, Subscription)> {
        let number = |name| item.get(name)?.as_n().ok().cloned();
        let own = Self {
            started: text(item, STARTED)?.to_owned(),
            expires_at: number(EXPIRES_AT)?,
            chosen_at: number(CHOSEN_AT)?,
        };
        let sites = item.get(SITES)?.as_l().ok()?.iter();
        let subscription = Subscription {
            sites: sites.filter_map(|site| site.as_s().ok().cloned()).collect(),
            level: level(item),
            is_userstatus: is_userstatus(item),
        };
        Some((own, subscription))
    }

    /// All rows of the connection: those of its sites, then its own.
    fn rows(&self, connection_id: &str, subscription: &Subscription) -> impl Iterator<Item = Item> {
        let row = |site: &str| {
            let mut row = Item::from([
                (SITE.to_owned(), AttributeValue::S(site.to_owned())),
                (
                    CONNECTION_ID.to_owned(),
                    AttributeValue::S(connection_id.to_owned()),
                ),
                (STARTED.to_owned(), AttributeValue::S(self.started.clone())),
                (
                    EXPIRES_AT.to_owned(),
                    AttributeValue::N(self.expires_at.clone()),
                ),
            ]);
            if subscription.level > Level::Debug {
                let level = subscription.level.name().to_owned();
                row.insert(LEAST_LEVEL.to_owned(), AttributeValue::S(level));
            }
            if subscription.is_userstatus {
                let topic = subscription::USERSTATUS.to_owned();
                row.insert(TOPIC.to_owned(), AttributeValue::S(topic));
            }
            row
        };
        let mut own = row(connection_id);
        own.insert(SITES.to_owned(), list(&subscription.sites));
        own.insert(
            CHOSEN_AT.to_owned(),
            AttributeValue::N(self.chosen_at.clone()),
        );
        let sites: Vec<Item> = subscription.sites.iter().map(|site| row(site)).collect();
        sites.into_iter().chain([own])
    }
}

fn list(sites: &[String]) -> AttributeValue {
    AttributeValue::L(sites.iter().cloned().map(AttributeValue::S).collect())
}

fn write(row: Item) -> Result<WriteRequest, BuildError> {
    let put = PutRequest::builder().set_item(Some(row)).build()?;
    Ok(WriteRequest::builder().put_request(put).build())
}
