//! The event source mapping: feeds the messages table's stream to the
//! broadcaster.
//!
//! As on AWS ("Process DynamoDB records with Lambda"): batches, only INSERTs,
//! after a partial failure again from the lowest failed record, after a
//! failure of the function each half on its own, and in the end a log entry
//! for what is given up, so that one record never stops the stream.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::streams::DynamoDbEventResponse;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::App;
use crate::database::Stream;
use crate::functions::{Function, invoke};

/// How often the stream is read when nobody told of a new row.
const POLL: Duration = Duration::from_millis(20);

/// How often a batch is tried again.
const MAX_RETRIES: u32 = 5;

/// How old a record may become before it is given up.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The wait before the first retry, doubled with each.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

pub async fn run(app: Arc<App>, mut stream: Stream) {
    while !app.stop.is_cancelled() {
        let records = match stream.next(broadcaster::BATCH_SIZE).await {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(error, "the stream could not be read");
                Vec::new()
            }
        };
        if records.is_empty() {
            tokio::select! {
                () = app.functions.stored.notified() => {}
                () = sleep(POLL) => {}
                () = app.stop.cancelled() => {}
            }
            continue;
        }
        let inserts = records
            .into_iter()
            .filter(|record| record.get("eventName").is_some_and(|name| name == "INSERT"))
            .collect();
        deliver(&app, inserts).await;
    }
}

/// Delivers a batch or gives it up.
async fn deliver(app: &Arc<App>, records: Vec<Value>) {
    // Behind a record that is given up, or in the second half of a batch that
    // was split, others may wait; the last of the list is next.
    let read_at = Instant::now();
    let mut batches = vec![records];
    while let Some(mut batch) = batches.pop() {
        let mut retries = 0;
        while !batch.is_empty() && !app.stop.is_cancelled() {
            match invoke(app, Function::Broadcaster, &json!({"Records": batch})).await {
                Ok(answer) => {
                    let Some(first) = lowest_failure(&batch, answer) else {
                        break;
                    };
                    batch.drain(..first);
                }
                Err(_) if batch.len() > 1 => {
                    let second_half = batch.split_off(batch.len() / 2);
                    batches.push(second_half);
                    continue;
                }
                Err(_) => {}
            }
            if retries == MAX_RETRIES || read_at.elapsed() > MAX_AGE {
                let sequence_numbers: Vec<_> = batch.iter().filter_map(sequence_number).collect();
                tracing::error!(
                    ?sequence_numbers,
                    "records given up: their messages were not delivered to every client"
                );
                break;
            }
            let backoff = FIRST_BACKOFF * 2_u32.pow(retries);
            app.stop.run_until_cancelled(sleep(backoff)).await;
            retries += 1;
        }
    }
}

/// The place of the lowest failed record; an answer that cannot be read, or
/// names a record that is not in the batch, fails all of it.
fn lowest_failure(batch: &[Value], answer: Value) -> Option<usize> {
    let Ok(answer) = serde_json::from_value::<DynamoDbEventResponse>(answer) else {
        return Some(0);
    };
    answer
        .batch_item_failures
        .into_iter()
        .map(|failure| {
            let failed = failure.item_identifier;
            batch
                .iter()
                .position(|record| sequence_number(record) == failed.as_deref())
                .unwrap_or(0)
        })
        .min()
}

fn sequence_number(record: &Value) -> Option<&str> {
    record.pointer("/dynamodb/SequenceNumber")?.as_str()
}
