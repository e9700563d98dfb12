//! The stream between the table and the broadcaster.

use aws_sdk_dynamodb::types::AttributeValue;
use local::MESSAGES_TABLE;
use serde_json::json;

use super::deployment_and_tables;
use super::tables::{n, s};
use crate::support::now;

// In the original, a level of NULL stopped broadcasts for up to a day.
#[tokio::test]
async fn an_unreadable_row_does_not_block_others() {
    let (deployment, tables) = deployment_and_tables().await;
    let mut client = deployment.connect("tst").await;
    for (key, level) in [("1", AttributeValue::Null(true)), ("2", n(5))] {
        let row = [
            ("site", s("tst")),
            ("timestamp", n(key)),
            ("message", s("x")),
            ("log_level", level),
            ("TimeToLive", n(now() + 1000)),
        ];
        tables.put(MESSAGES_TABLE, row).await;
    }
    deployment.no_frame_until_now("tst", &mut client).await;
}

#[tokio::test]
async fn changed_or_deleted_rows_are_not_broadcast() {
    let (deployment, tables) = deployment_and_tables().await;
    let mut client = deployment.connect("tst").await;
    tables.put_message("tst", "1", "first", now() + 1000).await;
    assert_eq!(client.next().await["message"], "first");
    tables
        .put_message("tst", "1", "changed", now() + 1000)
        .await;
    let delete = tables.client.delete_item().table_name(MESSAGES_TABLE);
    delete
        .key("site", s("tst"))
        .key("timestamp", n(1))
        .send()
        .await
        .unwrap();
    deployment.no_frame_until_now("tst", &mut client).await;
}

// The row is stored before the gateway finishes the handshake; until then a
// post is answered with 410.
#[tokio::test]
async fn a_row_whose_connection_is_not_open_yet_survives_a_broadcast() {
    let (deployment, tables) = deployment_and_tables().await;
    tables
        .put_connection("tst", "L0SM9cOFvHcCIhw=", 0, now() + 1000)
        .await;
    let mut client = deployment.connect("tst").await;
    deployment.log("tst", "x", json!(1)).await;
    deployment.frames_until_now("tst", &mut client).await;
    assert_eq!(deployment.online("tst").await.len(), 2);
}
