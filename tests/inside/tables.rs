//! The tests' own access to the tables.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, PutRequest, WriteRequest};
use futures_util::{StreamExt, stream};
use local::{CONNECTIONS_TABLE, MESSAGES_TABLE, Server};
use time::OffsetDateTime;
use time::macros::format_description;

pub type Row = HashMap<String, AttributeValue>;

/// Both tables of a server, which this does not keep running.
pub struct Tables {
    pub client: Client,
}

impl Tables {
    pub fn of(server: &Server) -> Self {
        Self {
            client: Client::new(&server.database()),
        }
    }

    pub async fn put<'a>(
        &self,
        table: &str,
        row: impl IntoIterator<Item = (&'a str, AttributeValue)>,
    ) {
        let row = row.into_iter();
        let row = row.map(|(name, value)| (name.to_owned(), value)).collect();
        let put = self.client.put_item().table_name(table).set_item(Some(row));
        put.send().await.unwrap();
    }

    /// Stores a message under a key, expiring at a Unix second.
    pub async fn put_message(&self, site: &str, key: &str, text: &str, expires: u64) {
        let row = [
            ("site", s(site)),
            ("timestamp", n(key)),
            ("message", s(text)),
            ("log_level", s("info")),
            ("TimeToLive", n(expires)),
        ];
        self.put(MESSAGES_TABLE, row).await;
    }

    /// Stores `count` messages of a site in one second, without a gap.
    pub async fn put_messages(&self, site: &str, second: u64, count: usize, expires: u64) {
        let requests: Vec<_> = (0..count)
            .map(|index| {
                let row = [
                    ("site", s(site)),
                    ("timestamp", n(format!("{second}.{index:06}"))),
                    ("message", s("x")),
                    ("log_level", s("info")),
                    ("TimeToLive", n(expires)),
                ];
                let row = row.map(|(name, value)| (name.to_owned(), value));
                let put = PutRequest::builder().set_item(Some(Row::from(row)));
                let put = put.build().unwrap();
                WriteRequest::builder().put_request(put).build()
            })
            .collect();
        // A batch holds 25 writes at most.
        stream::iter(requests.chunks(25))
            .for_each_concurrent(4, |batch| async {
                let write = self.client.batch_write_item();
                let write = write.request_items(MESSAGES_TABLE, batch.to_vec());
                let left = write.send().await.unwrap().unprocessed_items;
                assert!(left.is_none_or(|left| left.is_empty()));
            })
            .await;
    }

    /// Stores a connection that is `age` seconds old.
    pub async fn put_connection(&self, site: &str, id: &str, age: i64, expires: u64) {
        let format = format_description!(
            "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]"
        );
        let started = OffsetDateTime::now_utc() - time::Duration::seconds(age);
        let row = [
            ("site", s(site)),
            ("ConnectionID", s(id)),
            ("ConnectionStartedUTC", s(&started.format(&format).unwrap())),
            ("ExpiresAt", n(expires)),
        ];
        self.put(CONNECTIONS_TABLE, row).await;
    }

    /// All rows of a table.
    pub async fn rows(&self, table: &str) -> Vec<Row> {
        let scan = self.client.scan().table_name(table).consistent_read(true);
        scan.send().await.unwrap().items().to_vec()
    }
}

/// A string attribute.
pub fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

/// A number attribute.
pub fn n(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}
