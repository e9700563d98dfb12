//! The event source mapping: feeds the messages table's stream to the
//! broadcaster.
//!
//! As on AWS ("Process DynamoDB records with Lambda"): only INSERTs, in
//! batches. After a partial failure the batch is retried from the lowest failed
//! record; after a failure of the function, each half on its own. A record that
//! keeps failing is given up and logged, so that it never stops the stream.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lambda_events::streams::DynamoDbEventResponse;
use logstream_core::backoff;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::database::Stream;
use crate::functions::FunctionError;
use crate::metrics::Progress;
use crate::sockets::Sockets;

/// The most retries of a batch.
pub const MAX_RETRIES: u32 = 5;

/// The age at which a record is given up.
pub const MAX_AGE: Duration = Duration::from_secs(60);

/// What an earlier process left is held back until its viewers are back: this
/// long after the first one has connected. Without one nobody waits for it, but
/// viewers may take a few seconds.
const RECONNECT: Duration = Duration::from_millis(500);
const LONGEST_RECONNECT: Duration = Duration::from_secs(5);

/// After a batch of several records the next one is read no earlier than this
/// long after it. A batch reads the stream and each site's connections once, so
/// what comes fast is sent in fewer batches. A lone message waits for nothing.
const GATHERING: Duration = Duration::from_millis(5);

/// The wait before the first retry, and the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// The position in the stream, and the records read but neither delivered nor
/// given up. Both outlive a run of the event source.
pub struct EventSource {
    stream: Stream,
    /// A stack: the last batch is next.
    undelivered: Vec<Batch>,
    /// Whether what comes next may have been left by an earlier process.
    is_resumed: bool,
}

struct Batch {
    records: Vec<Value>,
    read_at: Instant,
    /// How many attempts have begun.
    tries: u32,
}

impl EventSource {
    pub fn new(stream: Stream) -> Self {
        Self {
            is_resumed: stream.is_resumed,
            stream,
            undelivered: Vec::new(),
        }
    }

    /// Feeds the function until the server stops. `written` signals new rows.
    /// Fails when the stream cannot be read.
    pub async fn run<Answer>(
        &mut self,
        stop: &CancellationToken,
        written: &Notify,
        sockets: &Sockets,
        progress: &Progress,
        function: impl Fn(Value) -> Answer,
    ) -> Result<(), String>
    where
        Answer: Future<Output = Result<Value, FunctionError>>,
    {
        let mut next_read = None;
        loop {
            let delivered = deliver(&mut self.undelivered, progress, &function);
            stop.run_until_cancelled(delivered).await;
            if stop.is_cancelled() {
                // What is undelivered is read again by the next process.
                return self.stream.save(self.undelivered.is_empty()).await;
            }
            if let Some(at) = next_read.take() {
                stop.run_until_cancelled(sleep_until(at)).await;
            }
            let mut records = self.stream.next(broadcaster::BATCH_SIZE).await?;
            records.retain(|record| record.get("eventName").is_some_and(|name| name == "INSERT"));
            progress.delivering(records.first().and_then(written_at));
            if records.len() > 1 {
                next_read = Some(Instant::now() + GATHERING);
            }
            if records.is_empty() {
                // A position that is not saved yet is saved by the next read.
                let settles = async {
                    match self.stream.settles() {
                        Some(at) => sleep_until(at).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    () = written.notified() => {}
                    () = settles => {}
                    () = stop.cancelled() => {}
                }
            } else {
                if self.is_resumed {
                    stop.run_until_cancelled(viewers(sockets)).await;
                }
                self.undelivered.push(Batch::new(records));
            }
            self.is_resumed = false;
        }
    }
}

/// Waits until viewers are back.
async fn viewers(sockets: &Sockets) {
    let first = async {
        while sockets.len() == 0 {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(RECONNECT).await;
    };
    // Then they find it in the history.
    let _ = timeout(LONGEST_RECONNECT, first).await;
}

/// When a record was written, in Unix seconds.
fn written_at(record: &Value) -> Option<u64> {
    let written = record.pointer("/dynamodb/ApproximateCreationDateTime")?;
    written.as_f64().map(|seconds| seconds as u64)
}

impl Batch {
    fn new(records: Vec<Value>) -> Self {
        Self {
            records,
            read_at: Instant::now(),
            tries: 0,
        }
    }

    fn is_to_be_given_up(&self) -> bool {
        self.tries > MAX_RETRIES || (self.tries > 0 && self.read_at.elapsed() > MAX_AGE)
    }
}

/// Gives batches to the function until all are delivered or given up. A batch
/// stays in the list during its attempts, and an attempt counts when it begins.
/// So a batch whose attempt panics is neither lost nor retried for ever.
async fn deliver<Answer>(
    batches: &mut Vec<Batch>,
    progress: &Progress,
    function: &impl Fn(Value) -> Answer,
) where
    Answer: Future<Output = Result<Value, FunctionError>>,
{
    while let Some(batch) = batches.last_mut() {
        if batch.records.is_empty() {
            batches.pop();
            continue;
        }
        if batch.is_to_be_given_up() {
            log_given_up(&batch.records);
            let given_up = batch.records.len() as u64;
            progress.given_up.fetch_add(given_up, Ordering::Relaxed);
            batches.pop();
            continue;
        }
        let waits = backoff(FIRST_BACKOFF, LONGEST_BACKOFF);
        if let Some(wait) = waits.take(batch.tries as usize).last() {
            sleep(wait).await;
        }
        batch.tries += 1;
        match function(json!({"Records": batch.records})).await {
            Ok(answer) => match lowest_failure(&batch.records, answer) {
                Some(first) => drop(batch.records.drain(..first)),
                None => drop(batches.pop()),
            },
            Err(_) if batch.records.len() > 1 => {
                let read_at = batch.read_at;
                let second_half = batch.records.split_off(batch.records.len() / 2);
                let first_half = std::mem::replace(&mut batch.records, second_half);
                batch.tries = 0;
                batches.push(Batch {
                    records: first_half,
                    read_at,
                    tries: 0,
                });
            }
            Err(_) => {}
        }
    }
}

fn log_given_up(records: &[Value]) {
    let sequence_numbers: Vec<_> = records.iter().filter_map(sequence_number).collect();
    tracing::error!(
        ?sequence_numbers,
        "records given up: their messages were not delivered to every client"
    );
}

/// The index of the lowest failed record. A response that cannot be read, or
/// that names a record outside the batch, fails the whole batch.
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
    use std::sync::atomic::AtomicBool;

    use logstream_core::{Message, Messages, SortKey};
    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;
    use crate::database::Database;
    use crate::supervise::supervise;
    use crate::{MESSAGES_TABLE, tables};

    fn records(numbers: &[&str]) -> Vec<Value> {
        let record = |number| json!({"dynamodb": {"SequenceNumber": number}});
        numbers.iter().map(record).collect()
    }

    /// Delivers 1, 2, 3 and 4 to a function that responds with `answer`, and
    /// returns the batches that it got.
    async fn given(answer: impl Fn(&[String]) -> Result<Value, FunctionError>) -> Vec<String> {
        let batches = RefCell::new(Vec::new());
        let mut undelivered = vec![Batch::new(records(&["1", "2", "3", "4"]))];
        deliver(
            &mut undelivered,
            &Progress::default(),
            &async |event: Value| {
                let batch = event["Records"].as_array().unwrap();
                let batch: Vec<_> = batch
                    .iter()
                    .map(|r| sequence_number(r).unwrap().to_owned())
                    .collect();
                batches.borrow_mut().push(batch.join(" "));
                answer(&batch)
            },
        )
        .await;
        batches.into_inner()
    }

    fn failed(numbers: &[&str]) -> Value {
        let failure = |number| json!({"itemIdentifier": number});
        json!({"batchItemFailures": numbers.iter().map(failure).collect::<Vec<_>>()})
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_without_a_failure_is_delivered_once() {
        assert_eq!(given(|_| Ok(failed(&[]))).await, ["1 2 3 4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_partial_failure_is_retried_from_the_lowest_failed_record() {
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
    async fn the_lowest_failure_is_the_first_in_the_batch_whatever_the_numbers_are() {
        let mut undelivered = vec![Batch::new(records(&["30", "7", "200", "7"]))];
        let batches = RefCell::new(Vec::new());
        deliver(
            &mut undelivered,
            &Progress::default(),
            &async |event: Value| {
                let batch = event["Records"].as_array().unwrap().len();
                batches.borrow_mut().push(batch);
                Ok(failed(if batch == 4 { &["200", "7"] } else { &[] }))
            },
        )
        .await;
        assert_eq!(batches.into_inner(), [4, 3]);
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
        let mut undelivered = vec![Batch::new(records(&["1"]))];
        deliver(&mut undelivered, &Progress::default(), &async |_: Value| {
            *batches.borrow_mut() += 1;
            sleep(Duration::from_secs(25)).await;
            Ok(failed(&["1"]))
        })
        .await;
        assert_eq!(batches.into_inner(), 3);
        assert!(started.elapsed() < Duration::from_secs(80));
    }

    /// The texts of a batch's messages.
    fn texts(event: &Value) -> Vec<String> {
        let records = event["Records"].as_array().unwrap().iter();
        let text = |record: &Value| record["dynamodb"]["NewImage"]["message"]["S"].clone();
        records
            .map(|record| text(record).as_str().unwrap().to_owned())
            .collect()
    }

    #[tokio::test]
    async fn a_panic_repeats_the_batch_and_loses_nothing() {
        let database = Database::open(None).await.unwrap();
        tables::create_missing(&database).await.unwrap();
        let stream = database.stream(MESSAGES_TABLE).await.unwrap();
        let mut source = EventSource::new(stream);
        let aws = crate::sdk_config(crate::in_process::client(database.api()));
        let messages = Messages::new(&aws, MESSAGES_TABLE.to_owned());
        let log = async |text: &str| {
            let body = json!({"site": "tst", "log_message": text}).to_string();
            let message = Message::from_json(body.as_bytes(), SortKey::now()).unwrap();
            messages.put(&message).await.unwrap();
        };
        for text in ["one", "two", "three"] {
            log(text).await;
        }

        let stop = CancellationToken::new();
        let (given, mut batches) = mpsc::unbounded_channel();
        let panicked = AtomicBool::new(false);
        let function = async |event: Value| {
            let batch = texts(&event);
            given.send(batch.join(" ")).unwrap();
            if batch == ["two"] {
                assert!(panicked.swap(true, Ordering::Relaxed), "it panics once");
            }
            match batch.len() {
                3 => Ok(json!({"batchItemFailures": [
                    {"itemIdentifier": event["Records"][1]["dynamodb"]["SequenceNumber"]},
                ]})),
                // The second half waits meanwhile.
                2 => Err(FunctionError),
                _ => Ok(failed(&[])),
            }
        };
        let supervised = supervise("event source", stop.clone(), async || {
            source
                .run(
                    &stop,
                    &database.written,
                    &Sockets::default(),
                    &Progress::default(),
                    &function,
                )
                .await
        });
        let check = async {
            for expected in ["one two three", "two three", "two", "two", "three"] {
                assert_eq!(batches.recv().await.unwrap(), expected);
            }
            // And it goes on from there.
            log("four").await;
            assert_eq!(batches.recv().await.unwrap(), "four");
            stop.cancel();
        };
        let both = async { tokio::join!(supervised, check) };
        timeout(MAX_AGE, both).await.unwrap();
        assert!(panicked.into_inner());
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_whose_every_attempt_panics_is_given_up() {
        let mut undelivered = vec![Batch::new(records(&["2"])), Batch::new(records(&["1"]))];
        let (stop, given) = (CancellationToken::new(), RefCell::new(Vec::new()));
        let progress = Progress::default();
        supervise("test", stop.clone(), async || {
            let function = async |event: Value| {
                let record = sequence_number(&event["Records"][0]).unwrap().to_owned();
                given.borrow_mut().push(record.clone());
                assert_eq!(record, "2");
                Ok(failed(&[]))
            };
            deliver(&mut undelivered, &progress, &function).await;
            stop.cancel();
            Ok(())
        })
        .await;
        let mut expected = vec!["1"; 1 + MAX_RETRIES as usize];
        expected.push("2");
        assert_eq!(given.into_inner(), expected);
        assert_eq!(progress.given_up.into_inner(), 1);
    }
}
