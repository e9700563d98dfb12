//! What a table is made of. The definitions stand beside the queries that
//! need them: [`crate::messages::TABLE`] and [`crate::connections::TABLE`].

use aws_sdk_dynamodb::types::ScalarAttributeType;

/// The keys of a table or of an index.
#[derive(Debug)]
pub struct Key {
    /// Name and type of the partition key.
    pub partition: (&'static str, ScalarAttributeType),
    /// Name and type of the sort key.
    pub sort: (&'static str, ScalarAttributeType),
}

/// An on-demand table with a time to live.
#[derive(Debug)]
pub struct TableDefinition {
    /// The primary key.
    pub key: Key,
    /// Name and key of the global secondary index, which holds keys only.
    pub index: Option<(&'static str, Key)>,
    /// The attribute with the time of expiry, in Unix seconds.
    pub time_to_live: &'static str,
    /// Whether the table has a stream of its new images.
    pub stream: bool,
}
