//! Creating the tables. On AWS the deployment's template does this.

use aws_sdk_dynamodb::error::{BuildError, DisplayErrorContext};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, StreamSpecification, StreamViewType,
    TimeToLiveSpecification,
};
use aws_sdk_dynamodb::{Client, Error};
use logstream_core::table::{Key, TableDefinition};
use logstream_core::{connections, messages};

use crate::database::Database;
use crate::{CONNECTIONS_TABLE, MESSAGES_TABLE, in_process, sdk_config};

/// Creates the tables that the database lacks, and empties the one of the
/// connections: they ended with the process that had them.
pub async fn create_missing(database: &Database) -> Result<(), String> {
    if database.has_table(CONNECTIONS_TABLE)? {
        database.delete_table(CONNECTIONS_TABLE)?;
    }
    let client = Client::new(&sdk_config(in_process::client(database.api())));
    for (name, definition) in [
        (MESSAGES_TABLE, &messages::TABLE),
        (CONNECTIONS_TABLE, &connections::TABLE),
    ] {
        if !database.has_table(name)? {
            create(&client, name, definition)
                .await
                .map_err(|error| format!("{name}: {}", DisplayErrorContext(error)))?;
        }
    }
    Ok(())
}

/// Creates an on-demand table and sets its time to live.
async fn create(client: &Client, name: &str, definition: &TableDefinition) -> Result<(), Error> {
    let mut request = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(schema(&definition.key)?));
    for (attribute, kind) in attributes(definition) {
        let attribute = AttributeDefinition::builder()
            .attribute_name(*attribute)
            .attribute_type(kind.clone())
            .build()?;
        request = request.attribute_definitions(attribute);
    }
    if let Some((index, key)) = &definition.index {
        let keys_only = Projection::builder()
            .projection_type(ProjectionType::KeysOnly)
            .build();
        let index = GlobalSecondaryIndex::builder()
            .index_name(*index)
            .set_key_schema(Some(schema(key)?))
            .projection(keys_only)
            .build()?;
        request = request.global_secondary_indexes(index);
    }
    if definition.stream {
        let new_images = StreamSpecification::builder()
            .stream_enabled(true)
            .stream_view_type(StreamViewType::NewImage)
            .build()?;
        request = request.stream_specification(new_images);
    }
    request.send().await?;

    let time_to_live = TimeToLiveSpecification::builder()
        .attribute_name(definition.time_to_live)
        .enabled(true)
        .build()?;
    client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(time_to_live)
        .send()
        .await?;
    Ok(())
}

/// Every attribute that is part of a key, once.
fn attributes(definition: &TableDefinition) -> Vec<&(&'static str, ScalarAttributeType)> {
    let index_key = definition.index.as_ref().map(|(_, key)| key);
    let mut attributes = Vec::new();
    for key in std::iter::once(&definition.key).chain(index_key) {
        for attribute in [&key.partition, &key.sort] {
            if !attributes.contains(&attribute) {
                attributes.push(attribute);
            }
        }
    }
    attributes
}

fn schema(key: &Key) -> Result<Vec<KeySchemaElement>, BuildError> {
    [
        (key.partition.0, KeyType::Hash),
        (key.sort.0, KeyType::Range),
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
