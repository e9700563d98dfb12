//! The connections table: all its keys, items and queries.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ScalarAttributeType};
use aws_sdk_dynamodb::{Client, Config};
use futures_util::future::try_join_all;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::Error;
use crate::backoff::three_times;
use crate::config::{self, ConfigError};
use crate::messages::now;
use crate::table::{Key, TableDefinition};

/// The environment variable with the table's name.
const TABLE_VARIABLE: &str = "CONNECTIONS_TABLE";

/// Partition key: the site that the connection watches.
const SITE: &str = "site";
/// Sort key, and partition key of the index: API Gateway's id.
const CONNECTION_ID: &str = "ConnectionID";
/// When `$connect` ran: `2020-11-04 11:05:58.123456`.
const STARTED: &str = "ConnectionStartedUTC";
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

    /// Opens the connection to the table ([`config::warm_up`]), with a put that
    /// is refused: `$connect` may do nothing else.
    pub async fn warm_up(&self) {
        let refused = self
            .client
            .put_item()
            .table_name(&self.table)
            .item(SITE, AttributeValue::S("-".to_owned()))
            .item(CONNECTION_ID, AttributeValue::S("-".to_owned()))
            .condition_expression("attribute_exists(#id)")
            .expression_attribute_names("#id", CONNECTION_ID);
        config::warm_up(refused.send()).await;
    }

    /// Stores a connection to a site. Each attempt says anew when it began: a
    /// broadcaster that found the row of an earlier one, whose connection was
    /// not open yet, neither takes the connection for an old one nor deletes
    /// the row of this attempt.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the put failed three times.
    pub async fn add(&self, site: &str, connection_id: &str) -> Result<(), Error> {
        three_times(|| self.put(site, connection_id)).await
    }

    /// One attempt.
    async fn put(&self, site: &str, connection_id: &str) -> Result<(), Error> {
        let started = OffsetDateTime::now_utc()
            .format(STARTED_FORMAT)
            .map_err(|error| Error::aws("PutItem", &error))?;
        let expires = now() + LIFETIME.as_secs();
        let once = Config::builder().retry_config(RetryConfig::disabled());
        self.client
            .put_item()
            .table_name(&self.table)
            .item(SITE, AttributeValue::S(site.to_owned()))
            .item(CONNECTION_ID, AttributeValue::S(connection_id.to_owned()))
            .item(STARTED, AttributeValue::S(started))
            .item(EXPIRES_AT, AttributeValue::N(expires.to_string()))
            .customize()
            .config_override(once)
            .send()
            .await
            .map_err(|error| Error::aws("PutItem", &error))?;
        Ok(())
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
    let started = item.get(STARTED).and_then(|started| started.as_s().ok());
    Some(Connection {
        id: item.get(CONNECTION_ID)?.as_s().ok()?.clone(),
        started: started.cloned(),
    })
}
