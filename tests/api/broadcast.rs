//! What every client of a site gets, and when.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Deployment, texts, unique};

#[tokio::test]
async fn every_client_of_the_site_gets_exactly_the_five_fields() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut clients = [
        deployment.connect(&site).await,
        deployment.connect(&site).await,
    ];
    let text = "<b>line one</b>\n\"é 星 🔭\" \\ \u{2028}";
    let body = json!({"site": site, "log_message": text, "log_level": "ERROR", "timestamp": 1604514063.987});
    assert_eq!(deployment.post(body.to_string()).await.status, 200);
    let frame = json!({
        "site": site,
        "message": text,
        "log_level": "error",
        "timestamp": "1604514063",
        "id": "1604514063.987000",
    });
    for client in &mut clients {
        assert_eq!(client.next().await, frame);
    }
}

#[tokio::test]
async fn an_empty_text_is_a_message() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    deployment.log(&site, "", json!(1)).await;
    assert_eq!(client.next().await["message"], "");
}

#[tokio::test]
async fn frames_come_in_the_order_of_acknowledgement_whatever_their_timestamps() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let sent: Vec<String> = (0..30).map(|index| format!("{index}")).collect();
    for (index, text) in sent.iter().enumerate() {
        deployment.log(&site, text, json!(1000 - index)).await;
    }
    let mut received = Vec::new();
    for _ in &sent {
        received.push(client.next().await);
    }
    assert_eq!(texts(&received), sent);
}

#[tokio::test]
async fn clients_that_vanish_delay_nobody_by_more_than_a_second() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let vanishing = join_all((0..20).map(|_| deployment.connect(&site))).await;
    deployment.log(&site, "before", Value::Null).await;
    client.next().await;
    drop(vanishing);
    for index in 0..10 {
        let text = format!("{index}");
        let sent = Instant::now();
        deployment.log(&site, &text, Value::Null).await;
        assert_eq!(client.next().await["message"], text.as_str());
        let took = sent.elapsed();
        // 3 s allow for slow machines; without the bound it takes minutes.
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnects_and_reads_recent_logs_has_no_gap() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let client = deployment.connect(&site).await;
    let send = async {
        for index in 0..60 {
            deployment
                .log(&site, &format!("{index}"), Value::Null)
                .await;
        }
    };
    let watch = async {
        drop(client);
        let mut shown = Vec::new();
        // The socket first, then the history.
        let mut client = deployment.connect(&site).await;
        shown.extend(deployment.recent(&site).await);
        while !shown.iter().any(|message| message["message"] == "59") {
            shown.push(client.next().await);
        }
        shown
    };
    let ((), shown) = tokio::join!(send, watch);
    let mut ids: Vec<_> = shown
        .iter()
        .map(|message| message["id"].as_str().unwrap())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 60);
}
