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
use crate::functions::{Function, FunctionError, invoke};

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
        let broadcast = |event: Value| {
            let app = app.clone();
            async move { invoke(&app, Function::Broadcaster, &event).await }
        };
        app.stop
            .run_until_cancelled(deliver(inserts, broadcast))
            .await;
    }
}

/// Gives a batch to the function until all of it is delivered or given up.
async fn deliver<F, Answer>(records: Vec<Value>, function: F)
where
    F: Fn(Value) -> Answer,
    Answer: Future<Output = Result<Value, FunctionError>>,
{
    let read_at = Instant::now();
    // The last of the list is next: the halves of a batch that was split.
    let mut batches = vec![records];
    while let Some(mut batch) = batches.pop() {
        let mut retries = 0;
        while !batch.is_empty() {
            match function(json!({"Records": batch})).await {
                Ok(answer) => match lowest_failure(&batch, answer) {
                    Some(first) => drop(batch.drain(..first)),
                    None => break,
                },
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
            sleep(FIRST_BACKOFF * 2_u32.pow(retries)).await;
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn records(numbers: &[&str]) -> Vec<Value> {
        let record = |number| json!({"dynamodb": {"SequenceNumber": number}});
        numbers.iter().map(record).collect()
    }

    /// Delivers 1, 2, 3 and 4 to a function that answers as `answer` says,
    /// and returns the batches that it was given.
    async fn given(answer: impl Fn(&[String]) -> Result<Value, FunctionError>) -> Vec<String> {
        let batches = RefCell::new(Vec::new());
        deliver(records(&["1", "2", "3", "4"]), async |event: Value| {
            let batch = event["Records"].as_array().unwrap();
            let batch: Vec<_> = batch
                .iter()
                .map(|r| sequence_number(r).unwrap().to_owned())
                .collect();
            batches.borrow_mut().push(batch.join(" "));
            answer(&batch)
        })
        .await;
        batches.into_inner()
    }

    fn failed(numbers: &[&str]) -> Value {
        let failure = |number| json!({"itemIdentifier": number});
        json!({"batchItemFailures": numbers.iter().map(failure).collect::<Vec<_>>()})
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_without_a_failure_is_given_once() {
        assert_eq!(given(|_| Ok(failed(&[]))).await, ["1 2 3 4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_partial_failure_it_goes_on_from_the_lowest_failed_record() {
        let answer = |batch: &[String]| {
            Ok(match batch.len() {
                4 => failed(&["4", "2"]),
                3 => failed(&["3"]),
                _ => failed(&[]),
            })
        };
        assert_eq!(given(answer).await, ["1 2 3 4", "2 3 4", "3 4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_cannot_be_read_fails_the_whole_batch() {
        for wrong in [json!(null), json!({}), failed(&["9"])] {
            let batches = given(|_| Ok(wrong.clone())).await;
            assert_eq!(
                batches,
                vec!["1 2 3 4"; 1 + MAX_RETRIES as usize],
                "{wrong}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_fails_the_function_is_given_up_and_the_others_are_delivered() {
        let answer = |batch: &[String]| {
            if batch.iter().any(|number| number == "3") {
                Err(FunctionError)
            } else {
                Ok(failed(&[]))
            }
        };
        let batches = given(answer).await;
        assert_eq!(batches[..3], ["1 2 3 4", "1 2", "3 4"]);
        assert_eq!(
            batches[3..batches.len() - 1],
            vec!["3"; 1 + MAX_RETRIES as usize]
        );
        assert_eq!(batches.last().unwrap(), "4");
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_is_too_old_is_given_up() {
        let started = Instant::now();
        let batches = RefCell::new(0);
        deliver(records(&["1"]), async |_: Value| {
            *batches.borrow_mut() += 1;
            sleep(Duration::from_secs(25)).await;
            Ok(failed(&["1"]))
        })
        .await;
        assert_eq!(batches.into_inner(), 3);
        assert!(started.elapsed() < Duration::from_secs(80));
    }
}
