//! The time from a script's POST to the frame at a client, over 200 messages,
//! and of reading them back: `cargo bench --workspace --bench latency`. With
//! `LOGSTREAM_HTTP_URL` and `LOGSTREAM_WS_URL` it measures that deployment. A
//! measurement, not a test: it passes whatever it finds.

#[allow(dead_code)]
mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Deployment, unique};

const MESSAGES: usize = 200;
const WARM_UP: usize = 20;

#[tokio::main]
async fn main() {
    let deployment = Deployment::start().await;
    let site = unique("bench");
    let mut client = deployment.connect(&site).await;
    let mut acknowledged = Vec::new();
    let mut delivered = Vec::new();
    for index in 0..WARM_UP + MESSAGES {
        let sent = Instant::now();
        let (answered, framed) = tokio::join!(
            async {
                deployment
                    .log(&site, &format!("{index}"), Value::Null)
                    .await;
                sent.elapsed()
            },
            async {
                client.next().await;
                sent.elapsed()
            }
        );
        if index >= WARM_UP {
            acknowledged.push(answered);
            delivered.push(framed);
        }
    }
    let mut read = Vec::new();
    for _ in 0..MESSAGES {
        let sent = Instant::now();
        deployment.recent(&site).await;
        read.push(sent.elapsed());
    }
    print("POST to 200", acknowledged);
    print("POST to frame", delivered);
    print("recent-logs", read);
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100];
    println!(
        "{what}: p50 {:?}, p99 {:?}, over {}",
        at(50),
        at(99),
        times.len()
    );
}
