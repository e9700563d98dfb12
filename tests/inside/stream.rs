//! The stream between the table and the broadcaster.

use aws_sdk_dynamodb::types::AttributeValue;
use local::MESSAGES_TABLE;
use serde_json::json;

use super::deployment_and_tables;
use super::tables::{n, s};
use crate::support::now;

// In the original, a level of NULL stopped broadcasts for up to a day.
#[tokio::test]
async fn a_row_that_lacks_a_level_or_a_text_is_sent_and_an_unreadable_one_blocks_nothing() {
    let (deployment, tables) = deployment_and_tables().await;
    let mut client = deployment.connect("tst").await;
    let null = AttributeValue::Null(true);
    for (key, attributes) in [
        ("1", vec![("message", s("no level"))]),
        (
            "2",
            vec![("message", s("NULL")), ("log_level", null.clone())],
        ),
        ("3", vec![("message", s("number")), ("log_level", n(5))]),
        ("4", vec![("message", n(5)), ("log_level", s("error"))]),
        ("5", vec![("message", null), ("log_level", s("error"))]),
        ("6", vec![("log_level", s("ERR"))]),
    ] {
        let key = [
            ("site", s("tst")),
            ("timestamp", n(key)),
            ("TimeToLive", n(now() + 1000)),
        ];
        let row: Vec<_> = attributes.into_iter().chain(key).collect();
        tables.put(MESSAGES_TABLE, row).await;
    }
    let expected = [
        ["no level", "info", "1"],
        ["NULL", "info", "2"],
        ["number", "info", "3"],
        ["", "error", "5"],
        ["", "error", "6"],
    ];
    for [message, log_level, timestamp] in expected {
        assert_eq!(
            client.next().await,
            json!({
                "site": "tst",
                "message": message,
                "log_level": log_level,
                "timestamp": timestamp,
                "id": format!("{timestamp}.000000"),
            })
        );
    }
    let recent = deployment.recent("tst").await;
    let recent: Vec<_> = recent
        .iter()
        .rev()
        .map(|entry| [&entry["message"], &entry["log_level"]].map(|v| v.as_str().unwrap()))
        .collect();
    assert_eq!(recent, expected.map(|[message, level, _]| [message, level]));
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
