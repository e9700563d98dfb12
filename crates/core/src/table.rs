//! What a table is made of. The definitions stand beside the queries that
//! need them: [`crate::messages::TABLE`] and [`crate::connections::TABLE`].

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, StreamSpecification, StreamViewType,
    TimeToLiveSpecification,
};

use crate::Error;

/// The keys of a table or of an index.
#[derive(Debug)]
pub struct Key {
    /// Name and type of the partition key.
    pub partition: (&'static str, ScalarAttributeType),
    /// Name and type of the sort key.
    pub sort: (&'static str, ScalarAttributeType),
}

/// A table: on demand, with its time to live.
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

impl TableDefinition {
    /// Creates the table and sets its time to live. On AWS the deployment's
    /// template does this.
    ///
    /// # Errors
    /// [`Error::Unavailable`], also when the table exists.
    pub async fn create(&self, client: &Client, name: &str) -> Result<(), Error> {
        let mut request = client
            .create_table()
            .table_name(name)
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(Some(
                self.key
                    .schema()
                    .map_err(|error| Error::aws("CreateTable", &error))?,
            ));
        for (attribute, kind) in self.attributes() {
            request = request.attribute_definitions(
                AttributeDefinition::builder()
                    .attribute_name(*attribute)
                    .attribute_type(kind.clone())
                    .build()
                    .map_err(|error| Error::aws("CreateTable", &error))?,
            );
        }
        if let Some((index, key)) = &self.index {
            let keys_only = Projection::builder()
                .projection_type(ProjectionType::KeysOnly)
                .build();
            request = request.global_secondary_indexes(
                GlobalSecondaryIndex::builder()
                    .index_name(*index)
                    .set_key_schema(Some(
                        key.schema()
                            .map_err(|error| Error::aws("CreateTable", &error))?,
                    ))
                    .projection(keys_only)
                    .build()
                    .map_err(|error| Error::aws("CreateTable", &error))?,
            );
        }
        if self.stream {
            let new_images = StreamSpecification::builder()
                .stream_enabled(true)
                .stream_view_type(StreamViewType::NewImage)
                .build()
                .map_err(|error| Error::aws("CreateTable", &error))?;
            request = request.stream_specification(new_images);
        }
        request
            .send()
            .await
            .map_err(|error| Error::aws("CreateTable", &error))?;

        let time_to_live = TimeToLiveSpecification::builder()
            .attribute_name(self.time_to_live)
            .enabled(true)
            .build()
            .map_err(|error| Error::aws("UpdateTimeToLive", &error))?;
        client
            .update_time_to_live()
            .table_name(name)
            .time_to_live_specification(time_to_live)
            .send()
            .await
            .map_err(|error| Error::aws("UpdateTimeToLive", &error))?;
        Ok(())
    }

    /// Every attribute that is part of a key, once.
    fn attributes(&self) -> Vec<&(&'static str, ScalarAttributeType)> {
        let index_key = self.index.as_ref().map(|(_, key)| key);
        let mut attributes = Vec::new();
        for key in std::iter::once(&self.key).chain(index_key) {
            for attribute in [&key.partition, &key.sort] {
                if !attributes.contains(&attribute) {
                    attributes.push(attribute);
                }
            }
        }
        attributes
    }
}

impl Key {
    fn schema(&self) -> Result<Vec<KeySchemaElement>, BuildError> {
        [
            (self.partition.0, KeyType::Hash),
            (self.sort.0, KeyType::Range),
        ]
        .map(|(name, kind)| {
            KeySchemaElement::builder()
                .attribute_name(name)
                .key_type(kind)
                .build()
        })
        .into_iter()
        .collect()
    }
}
