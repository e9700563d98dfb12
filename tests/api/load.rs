//! Many senders and many clients at once.

use std::collections::HashMap;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{Client, Deployment, now, unique};

const SITES: usize = 4;
const SENDERS: usize = 16;
const MESSAGES: usize = 1000;
const CLIENTS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_of_16_senders_reach_50_clients_once_and_in_the_same_order() {
    let deployment = Deployment::start().await;
    let sites: Vec<_> = (0..SITES).map(|_| unique("tst")).collect();
    let mut clients = Vec::new();
    for index in 0..CLIENTS {
        let site = index % SITES;
        clients.push((site, deployment.connect(&sites[site]).await));
    }

    // Half of each site's senders have a whole-second clock that stands still,
    // so that their messages crowd into one second; the others' clock moves on.
    let second = now();
    let send = |sender: usize| {
        let (deployment, site) = (&deployment, &sites[sender % SITES]);
        async move {
            for index in (sender..MESSAGES).step_by(SENDERS) {
                let timestamp = if (sender / SITES).is_multiple_of(2) {
                    json!(second)
                } else {
                    json!(second as f64 + index as f64 / 1000.0)
                };
                let text = format!("{sender} {index}");
                deployment.log_until_taken(site, &text, timestamp).await;
            }
        }
    };
    let receive = |(site, client): (usize, Client)| async move {
        let count = (0..MESSAGES)
            .filter(|index| index % SENDERS % SITES == site)
            .count();
        let mut client = client;
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            frames.push(client.next().await);
        }
        (site, client, frames)
    };
    let (_, received) = tokio::join!(
        join_all((0..SENDERS).map(send)),
        join_all(clients.into_iter().map(receive)),
    );

    let mut orders: HashMap<usize, Vec<Value>> = HashMap::new();
    for (site, mut client, frames) in received {
        assert!(
            deployment
                .frames_until_now(&sites[site], &mut client)
                .await
                .iter()
                .all(|frame| { frame["message"].as_str().unwrap().starts_with("marker") }),
            "a frame came twice"
        );
        let order = orders.entry(site).or_insert_with(|| frames.clone());
        assert!(*order == frames, "two clients of a site differ");
    }
    for (site, order) in orders {
        let sent: Vec<_> = order
            .iter()
            .map(|frame| frame["message"].as_str().unwrap())
            .collect();
        let mut next: HashMap<&str, usize> = HashMap::new();
        for text in &sent {
            let (sender, index) = text.split_once(' ').unwrap();
            let index: usize = index.parse().unwrap();
            let first = sender.parse().unwrap();
            assert_eq!(
                index,
                *next.get(sender).unwrap_or(&first),
                "sender {sender} out of order"
            );
            next.insert(sender, index + SENDERS);
        }
        let stored = deployment.recent(&sites[site]).await;
        let mut stored: Vec<_> = stored.iter().map(|m| m["id"].as_str().unwrap()).collect();
        stored.sort();
        let mut sent: Vec<_> = order
            .iter()
            .map(|frame| frame["id"].as_str().unwrap())
            .collect();
        sent.sort();
        assert!(sent.iter().all(|id| stored.contains(id)));
        assert!(
            sent.windows(2).all(|pair| pair[0] != pair[1]),
            "an id came twice"
        );
    }
}

// The original read only one page of connections: 3,948 of 16,000 got nothing.
#[tokio::test(flavor = "multi_thread")]
async fn each_of_3000_connections_of_one_site_gets_the_message() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let clients: Vec<_> = stream::iter(0..3000)
        .map(|_| deployment.connect(&site))
        .buffer_unordered(32)
        .collect()
        .await;
    assert_eq!(deployment.online(&site).await.len(), 3000);
    deployment.log(&site, "to all", json!(7)).await;
    let frames = join_all(clients.into_iter().map(|mut client| async move {
        let frame = client.next().await;
        (client, frame)
    }))
    .await;
    assert_eq!(frames.len(), 3000);
    assert!(frames.iter().all(|(_, frame)| frame["id"] == "7.000000"));
}
