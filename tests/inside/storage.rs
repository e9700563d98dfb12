//! What is stored: the rows of both tables.

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use local::{CONNECTIONS_TABLE, MESSAGES_TABLE};
use logstream_core::message::{Level, Message};
use logstream_core::{Connections, Messages, SortKey, Subscription};
use serde_json::{Value, json};

use super::deployment_and_tables;
use super::recorder::Recorder;
use super::tables::{Row, Tables, n, s};
use crate::support::{Deployment, eventually, invoke, now, server, texts};

#[tokio::test]
async fn a_messages_row_has_the_attributes_of_the_contract_and_lives_seven_days() {
    let (deployment, tables) = deployment_and_tables().await;
    let body = json!({"site": "tst", "log_message": "x", "log_level": "WARN", "timestamp": 1604514063.418301, "TimeToLive": 5});
    let earliest = now() + 604_800;
    assert_eq!(deployment.post(body.to_string()).await.status, 200);
    let mut row = tables.rows(MESSAGES_TABLE).await.remove(0);
    let mut number = |name: &str| row.remove(name).unwrap().as_n().unwrap().clone();
    let stored_at: f64 = number("StoredAt").parse().unwrap();
    assert!((stored_at - now() as f64).abs() < 60.0, "{stored_at}");
    let expires: u64 = number("TimeToLive").parse().unwrap();
    assert!((earliest..=earliest + 60).contains(&expires), "{expires}");
    assert_eq!(
        row,
        Row::from([
            ("site".to_owned(), s("tst")),
            ("timestamp".to_owned(), n("1604514063.418301")),
            ("message".to_owned(), s("x")),
            ("log_level".to_owned(), s("warning")),
        ])
    );
}

#[tokio::test]
async fn a_connections_row_has_the_attributes_of_the_contract_and_outlives_the_connection() {
    let (deployment, tables) = deployment_and_tables().await;
    let earliest = now() + 7800;
    let _client = deployment.connect("tst").await;
    let rows = tables.rows(CONNECTIONS_TABLE).await.into_iter();
    let (mut own, mut rows): (Vec<_>, Vec<_>) = rows.partition(|row| row.contains_key("Sites"));
    assert_eq!([own.len(), rows.len()], [1, 1]);
    let (own, row) = (own.remove(0), rows.remove(0));
    assert_eq!(row.len(), 4);
    assert_eq!(row["site"].as_s().unwrap(), "tst");
    let started = row["ConnectionStartedUTC"].as_s().unwrap();
    assert_eq!(
        started.len(),
        "2020-11-04 11:05:58.123456".len(),
        "{started}"
    );
    let expires: u64 = row["ExpiresAt"].as_n().unwrap().parse().unwrap();
    assert!((earliest..=earliest + 60).contains(&expires), "{expires}");
    // API Gateway's ids hold characters that a URL must encode.
    let id = row["ConnectionID"].as_s().unwrap();
    assert_eq!(id.len(), 16);
    assert!(id.ends_with('='), "{id}");

    // Beside it, the connection's own row.
    assert_eq!(own["site"], row["ConnectionID"]);
    assert_eq!(own["Sites"], AttributeValue::L(vec![s("tst")]));
    let chosen_at: u64 = own["ChosenAt"].as_n().unwrap().parse().unwrap();
    assert!(chosen_at.abs_diff(now() * 1000) < 60_000, "{chosen_at}");
    for name in ["ConnectionID", "ConnectionStartedUTC", "ExpiresAt"] {
        assert_eq!(own[name], row[name]);
    }
    assert_eq!(own.len(), 6);
}

#[tokio::test]
async fn an_expired_message_is_neither_returned_nor_overwritten_nor_taken_for_a_retry() {
    let (deployment, tables) = deployment_and_tables().await;
    let mut client = deployment.connect("tst").await;
    tables.put_message("tst", "100", "old", now() - 10).await;
    tables
        .put_message("tst", "100.000001", "kept", now() + 1000)
        .await;
    assert_eq!(client.next().await["id"], "100.000000");
    assert_eq!(client.next().await["id"], "100.000001");
    assert_eq!(deployment.recent_texts("tst").await, ["kept"]);

    deployment.log("tst", "old", json!(100)).await;
    assert_eq!(client.next().await["id"], "100.000002");
    assert_eq!(deployment.recent_texts("tst").await, ["old", "kept"]);
    assert_eq!(tables.rows(MESSAGES_TABLE).await.len(), 3);
}

#[tokio::test]
async fn a_page_of_expired_messages_does_not_hide_older_ones() {
    let (deployment, tables) = deployment_and_tables().await;
    tables.put_message("tst", "1", "live", now() + 1000).await;
    // More than a 1 MB page of DynamoDB, all expired, comes first.
    let text = "x".repeat(100_000);
    for key in 10..25 {
        tables
            .put_message("tst", &key.to_string(), &text, now() - 10)
            .await;
    }
    assert_eq!(deployment.recent_texts("tst").await, ["live"]);
}

#[tokio::test]
async fn few_pages_are_read_however_many_expired_messages_come_first() {
    let server = server().await;
    let tables = Tables::of(&server);
    for (text, key) in [("older", "1"), ("live", "2")] {
        tables.put_message("tst", key, text, now() + 1000).await;
    }
    tables.put_messages("tst", 3, 2_000, now() - 10).await;
    tables.put_message("tst", "4", "newest", now() + 1000).await;
    let (recorder, config) = Recorder::before(&server);
    let messages = Messages::new(&config, MESSAGES_TABLE.to_owned());
    for (query, expected, pages) in [
        ("limit=1", &["newest"][..], 2),
        ("limit=1&before=4", &["live"], 2),
        ("limit=2", &["newest", "live"], 2),
        ("", &["newest", "live", "older"], 1),
    ] {
        let event = json!({
            "version": "2.0",
            "rawQueryString": format!("site=tst&{query}"),
            "isBase64Encoded": false,
            "requestContext": {"http": {"method": "GET"}},
        });
        let handler = |request| recent_logs::handle(&messages, request);
        let answer = invoke(handler, &event).await;
        let recent: Vec<Value> = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        assert_eq!(texts(&recent), expected, "{query}");
        assert_eq!(recorder.take(), vec!["Query"; pages], "{query}");
    }
}

// In the original, one row without a text made recent-logs fail.
#[tokio::test]
async fn an_unreadable_row_is_left_out() {
    let server = server().await;
    let tables = Tables::of(&server);
    tables.put_message("tst", "1", "good", now() + 1000).await;
    let row = [
        ("site", s("tst")),
        ("timestamp", n(2)),
        ("message", n(5)),
        ("TimeToLive", n(now() + 1000)),
    ];
    tables.put(MESSAGES_TABLE, row).await;
    let deployment = Deployment::of(server);
    assert_eq!(deployment.recent_texts("tst").await, ["good"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_instant_are_each_stored_once_without_a_gap() {
    let deployment = Deployment::of(server().await);
    // Eight senders. Each sends every message twice at once, like a retry.
    join_all((0..8).map(|sender| {
        let deployment = &deployment;
        async move {
            for index in 0..10 {
                let text = format!("{sender}-{index}");
                let send = || deployment.log_until_taken("tst", &text, json!(7));
                tokio::join!(send(), send());
            }
        }
    }))
    .await;
    let recent = deployment.recent("tst").await;
    let ids: Vec<_> = recent
        .iter()
        .rev()
        .map(|message| message["id"].as_str().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = (0..80).map(|index| format!("7.{index:06}")).collect();
    assert_eq!(ids, expected);
    let mut stored = texts(&recent);
    stored.sort();
    stored.dedup();
    assert_eq!(stored.len(), 80);
}

// A device without a clock sends the timestamp 0 for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_takes_at_most_four_calls_however_many_messages_its_second_holds() {
    let server = server().await;
    let tables = Tables::of(&server);
    let (recorder, config) = Recorder::before(&server);
    let messages = Messages::new(&config, MESSAGES_TABLE.to_owned());
    let (old, recent) = (now() + 1000, now() + 604_800);
    for (site, rows, expires, calls) in [
        ("old", 2_000, old, &["PutItem", "Query", "PutItem"][..]),
        (
            "recent",
            5_000,
            recent,
            &["PutItem", "Query", "Query", "PutItem"],
        ),
    ] {
        tables.put_messages(site, 0, rows, expires).await;
        let message = |text: &str| Message {
            site: site.to_owned(),
            text: text.to_owned(),
            level: Level::Info,
            key: SortKey::MIN,
        };
        messages.put(&message("new")).await.unwrap();
        assert_eq!(recorder.take(), calls, "{site}");
        messages.put(&message("newer")).await.unwrap();
        recorder.take();

        messages.put(&message("new")).await.unwrap();
        assert_eq!(recorder.take(), ["PutItem", "Query"], "{site}");
        let high = SortKey::MIN.end_of_second();
        let page = messages.newest_first(site, SortKey::MIN, high, 3).await;
        let stored = page.unwrap().messages;
        let stored: Vec<_> = stored
            .iter()
            .map(|message| (message.text.as_str(), message.key.to_string()))
            .collect();
        let id = |index: usize| format!("0.{index:06}");
        let expected = [
            ("newer", id(rows + 1)),
            ("new", id(rows)),
            ("x", id(rows - 1)),
        ];
        assert_eq!(stored, expected);
        recorder.take();
    }

    // Behind the first page, where only the second one shows it.
    tables
        .put_message("recent", "0.003500", "found", recent)
        .await;
    let found = Message {
        site: "recent".to_owned(),
        text: "found".to_owned(),
        level: Level::Info,
        key: SortKey::MIN,
    };
    messages.put(&found).await.unwrap();
    assert_eq!(recorder.take(), ["PutItem", "Query", "Query"]);
}

#[tokio::test]
async fn disconnecting_removes_every_row_of_the_connection_and_no_other() {
    let server = server().await;
    let tables = Tables::of(&server);
    for (site, id) in [("one", "a="), ("two", "a="), ("one", "b=")] {
        tables.put_connection(site, id, 60, now() + 1000).await;
    }
    let connections =
        logstream_core::Connections::new(&server.database(), CONNECTIONS_TABLE.to_owned());
    for (id, left) in [("unknown", 3), ("a=", 1), ("a=", 1)] {
        let event = json!({"requestContext": {"connectionId": id, "connectedAt": 1, "requestTimeEpoch": 1}});
        let handler = |request| disconnect::handle(&connections, request);
        let answer = invoke(handler, &event).await;
        assert_eq!(answer["statusCode"], 200);
        assert_eq!(answer["body"], "Disconnect successful.");
        assert_eq!(tables.rows(CONNECTIONS_TABLE).await.len(), left);
    }
}

/// All messages of a site.
fn to_site(site: &str) -> Subscription {
    Subscription {
        sites: vec![site.to_owned()],
        level: Level::Debug,
        is_userstatus: false,
    }
}

// API Gateway may hand over two frames of a client in any order.
#[tokio::test]
async fn of_two_subscriptions_the_one_that_was_sent_later_holds() {
    let server = server().await;
    let tables = Tables::of(&server);
    let connections = Connections::new(&server.database(), CONNECTIONS_TABLE.to_owned());
    connections.add("c=", &to_site("first"), 1).await.unwrap();
    let later = to_site("later");
    assert_eq!(connections.change("c=", &later, 3).await.unwrap(), later);
    let earlier = connections.change("c=", &to_site("earlier"), 2).await;
    assert_eq!(earlier.unwrap(), later);
    let rows = tables.rows(CONNECTIONS_TABLE).await;
    let mut sites: Vec<_> = rows.iter().map(|row| row["site"].as_s().unwrap()).collect();
    sites.sort();
    assert_eq!(sites, ["c=", "later"]);

    // Many at once.
    let names: Vec<_> = (0..8).map(|site| format!("site{site}")).collect();
    let changes = names.iter().map(|name| async {
        let (subscription, at) = (to_site(name), 4);
        eventually("the change is made", async || {
            connections.change("c=", &subscription, at).await.is_ok()
        })
        .await;
    });
    join_all(changes).await;
    let rows = tables.rows(CONNECTIONS_TABLE).await;
    assert_eq!(rows.len(), 2, "{rows:?}");
    let own = rows.iter().find(|row| row.contains_key("Sites")).unwrap();
    let other = rows.iter().find(|row| !row.contains_key("Sites")).unwrap();
    assert_eq!(own["Sites"], AttributeValue::L(vec![other["site"].clone()]));
}

#[tokio::test]
async fn a_subscription_that_comes_after_the_disconnect_leaves_no_row() {
    let server = server().await;
    let tables = Tables::of(&server);
    let connections = Connections::new(&server.database(), CONNECTIONS_TABLE.to_owned());
    connections.add("c=", &to_site("tst"), 1).await.unwrap();
    connections.remove_all("c=").await.unwrap();
    let refusal = connections.change("c=", &to_site("other"), 2).await;
    assert!(matches!(refusal, Err(logstream_core::Error::Invalid(_))));
    assert_eq!(tables.rows(CONNECTIONS_TABLE).await, []);
}

#[tokio::test]
async fn the_next_message_removes_the_row_of_a_dead_client() {
    let server = server().await;
    let tables = Tables::of(&server);
    tables
        .put_connection("tst", "L0SM9cOFvHcCIhw=", 60, now() + 1000)
        .await;
    let deployment = Deployment::of(server);
    assert_eq!(deployment.online("tst").await.len(), 1);
    deployment.log("tst", "x", json!(1)).await;
    eventually("the row goes", || async {
        deployment.online("tst").await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_delete_that_comes_late_leaves_the_row_of_a_later_attempt_of_connect() {
    let server = server().await;
    let connections = Connections::new(&server.database(), CONNECTIONS_TABLE.to_owned());
    let row = async || connections.of_site("tst").await.unwrap().pop();
    connections.add("c=", &to_site("tst"), 1).await.unwrap();
    let first = row().await.unwrap();
    connections.add("c=", &to_site("tst"), 1).await.unwrap();
    let second = row().await.unwrap();
    assert!(first.started_at() < second.started_at());

    let remove = async |started: Option<String>| {
        let removed = connections.remove("tst", "c=", started.as_deref()).await;
        removed.unwrap();
    };
    remove(first.started).await;
    assert!(row().await.is_some());
    remove(second.started).await;
    assert!(row().await.is_none());
}
