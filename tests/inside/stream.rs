//! The stream between the table and the broadcaster.

use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_dynamodb::types::AttributeValue;
use local::{CONNECTIONS_TABLE, MESSAGES_TABLE};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;

use super::storage::put;
use crate::support::{Deployment, now, server};

// A level of NULL stopped the original's broadcasts for up to a day.
#[tokio::test]
async fn a_row_that_is_no_message_stops_no_other() {
    let server = server().await;
    let database = DynamoDb::new(&server.sdk_config());
    let deployment = Deployment::of(server);
    let mut client = deployment.connect("tst").await;
    for (index, level) in [
        AttributeValue::Null(true),
        AttributeValue::N("5".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        database
            .put_item()
            .table_name(MESSAGES_TABLE)
            .item("site", AttributeValue::S("tst".to_owned()))
            .item("timestamp", AttributeValue::N(index.to_string()))
            .item("message", AttributeValue::S("x".to_owned()))
            .item("log_level", level)
            .item("TimeToLive", AttributeValue::N((now() + 1000).to_string()))
            .send()
            .await
            .unwrap();
    }
    assert!(
        deployment
            .frames_until_now("tst", &mut client)
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn rows_that_are_changed_or_deleted_are_not_broadcast() {
    let server = server().await;
    put(&server, "tst", "1", "first", now() + 1000).await;
    let database = DynamoDb::new(&server.sdk_config());
    let config = server.sdk_config();
    let deployment = Deployment::of(server);
    let mut client = deployment.connect("tst").await;
    deployment.frames_until_now("tst", &mut client).await;
    let messages = || {
        database
            .put_item()
            .table_name(MESSAGES_TABLE)
            .item("site", AttributeValue::S("tst".to_owned()))
            .item("timestamp", AttributeValue::N("1".to_owned()))
    };
    messages()
        .item("message", AttributeValue::S("changed".to_owned()))
        .item("log_level", AttributeValue::S("info".to_owned()))
        .send()
        .await
        .unwrap();
    DynamoDb::new(&config)
        .delete_item()
        .table_name(MESSAGES_TABLE)
        .key("site", AttributeValue::S("tst".to_owned()))
        .key("timestamp", AttributeValue::N("1".to_owned()))
        .send()
        .await
        .unwrap();
    assert!(
        deployment
            .frames_until_now("tst", &mut client)
            .await
            .is_empty()
    );
}

// The row stands before the gateway has finished the handshake; until then
// a post is answered with 410.
#[tokio::test]
async fn a_row_whose_connection_is_not_open_yet_survives_a_broadcast() {
    let server = server().await;
    let format =
        format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]");
    let started = OffsetDateTime::now_utc().format(&format).unwrap();
    DynamoDb::new(&server.sdk_config())
        .put_item()
        .table_name(CONNECTIONS_TABLE)
        .item("site", AttributeValue::S("tst".to_owned()))
        .item(
            "ConnectionID",
            AttributeValue::S("L0SM9cOFvHcCIhw=".to_owned()),
        )
        .item("ConnectionStartedUTC", AttributeValue::S(started))
        .item("ExpiresAt", AttributeValue::N((now() + 1000).to_string()))
        .send()
        .await
        .unwrap();
    let deployment = Deployment::of(server);
    let mut client = deployment.connect("tst").await;
    deployment.log("tst", "x", json!(1)).await;
    deployment.frames_until_now("tst", &mut client).await;
    assert_eq!(deployment.online("tst").await.len(), 2);
}
