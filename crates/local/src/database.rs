//! The tables: DynamoDB inside this process, on SQLite, called by the same SDK
//! as on AWS.

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dynoxide::actions::delete_table::DeleteTableRequest;
use dynoxide::actions::get_records::GetRecordsRequest;
use dynoxide::actions::get_shard_iterator::GetShardIteratorRequest;
use dynoxide::actions::list_streams::ListStreamsRequest;
use dynoxide::errors::DynoxideError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Expired rows are deleted every minute; DynamoDB takes up to two days.
const SWEEP: Duration = Duration::from_secs(60);

/// How long a record is done with before the next process does not send it
/// again. Until then its frames may still be in the queues of this one.
const SETTLED: Duration = Duration::from_secs(1);

/// dynoxide has no index on stream records and never deletes one, so each write
/// is slower than the last. Sequence numbers are microseconds; a day of them is
/// kept, as by DynamoDB.
const STREAM_INDEX: &str = "
    CREATE INDEX IF NOT EXISTS stream_order
        ON _stream_records (table_name, CAST(sequence_number AS INTEGER));
    CREATE TRIGGER IF NOT EXISTS stream_trim AFTER INSERT ON _stream_records BEGIN
        DELETE FROM _stream_records
        WHERE table_name = NEW.table_name
          AND CAST(sequence_number AS INTEGER) < CAST(NEW.sequence_number AS INTEGER) - 86400000000;
    END;";

/// The database.
#[derive(Clone)]
pub struct Database {
    tables: dynoxide::Database,
    calls: Calls,
    /// Signalled after each write, so that the stream is read at once.
    pub written: Arc<Notify>,
    /// The lock of the folder. It ends with this value and with the process,
    /// however that ends.
    folder: Option<Arc<File>>,
}

impl Database {
    /// Opens the database of a folder, or one in memory.
    pub async fn open(data_dir: Option<&Path>) -> Result<Self, String> {
        let data_dir = data_dir.map(Path::to_owned);
        let (tables, folder) = blocking(move || match data_dir {
            Some(folder) => open_file(&folder),
            None => Ok((open_in_memory()?, None)),
        })
        .await?;
        Ok(Self {
            tables,
            calls: Calls::default(),
            written: Arc::default(),
            folder: folder.map(Arc::new),
        })
    }

    /// DynamoDB's API: what the SDK sends, as far as it is used.
    pub fn api(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    pub fn has_table(&self, name: &str) -> Result<bool, String> {
        let tables = self.tables.list_tables(Default::default()).map_err(text)?;
        Ok(tables.table_names.iter().any(|table| table == name))
    }

    pub fn delete_table(&self, name: &str) -> Result<(), String> {
        let table_name = name.to_owned();
        let request = DeleteTableRequest { table_name };
        self.tables.delete_table(request).map_err(text)?;
        Ok(())
    }

    /// Lets the next server have the folder, even if a call still runs.
    pub fn release(&self) {
        if let Some(folder) = &self.folder {
            // Then it has ended with the process at the latest.
            let _ = folder.unlock();
        }
    }

    /// A table's stream: from where it was saved, else from now on.
    pub async fn stream(&self, table: &str) -> Result<Stream, String> {
        let tables = self.tables.clone();
        let calls = self.calls.clone();
        let table = table.to_owned();
        blocking(move || {
            let streams = ListStreamsRequest {
                table_name: Some(table.clone()),
                ..Default::default()
            };
            let streams = tables.list_streams(streams).map_err(text)?.streams;
            let stream = streams
                .into_iter()
                .next()
                .ok_or("the table has no stream")?;
            let position = position::open(&tables)?;
            let is_resumed = position.is_some();
            let iterator = match position {
                Some(position) => position,
                None => {
                    let latest = GetShardIteratorRequest {
                        stream_arn: stream.stream_arn.clone(),
                        shard_id: dynoxide::streams::shard_id(&table),
                        shard_iterator_type: "LATEST".to_owned(),
                        sequence_number: None,
                    };
                    let latest = tables.get_shard_iterator(latest).map_err(text)?;
                    let latest = latest.shard_iterator.ok_or("the stream has no iterator")?;
                    position::save(&tables, &latest)?;
                    latest
                }
            };
            Ok(Stream {
                tables,
                calls,
                arn: stream.stream_arn,
                done: [(Instant::now(), iterator.clone())].into(),
                iterator,
                is_resumed,
            })
        })
        .await
    }
}

/// Carries out one call of DynamoDB's API.
async fn answer(State(database): State<Database>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target");
    let target = target.and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.rsplit('.').next());
    let operation = operation.unwrap_or_default().to_owned();
    let tables = database.tables.clone();
    let written = database.written.clone();
    let work = move || {
        let answer = call(&tables, &operation, &body);
        // Here, because the write goes on if its caller gives up.
        if !matches!(operation.as_str(), "Query" | "Scan") {
            written.notify_one();
        }
        answer
    };
    match database.calls.run(work).await {
        Some(Ok(answer)) => answer.into_response(),
        Some(Err(error)) => {
            let status = StatusCode::from_u16(error.status_code());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, error.to_json()).into_response()
        }
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The calls of the database, one after another on one thread. The database has
/// one lock, so more threads would only wait for it; and a thread for each call
/// would be woken for each, which takes as long as the call.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Box<dyn FnOnce() + Send>>,
    /// Whether a thread takes them.
    is_served: bool,
}

impl Calls {
    /// Carries out a call, unless its caller has given up by then. `None` if it
    /// panics.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.add(Box::new(move || {
            if !answer.is_closed() {
                // Nobody has to wait for it.
                let _ = answer.send(work());
            }
        }));
        answered.await.ok()
    }

    fn add(&self, call: Box<dyn FnOnce() + Send>) {
        let mut queue = self.lock();
        queue.waiting.push_back(call);
        if !std::mem::replace(&mut queue.is_served, true) {
            let calls = self.clone();
            tokio::task::spawn_blocking(move || {
                while let Some(call) = calls.next() {
                    // A panic costs one call.
                    let _ = catch_unwind(AssertUnwindSafe(call));
                }
            });
        }
    }

    fn next(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut queue = self.lock();
        let next = queue.waiting.pop_front();
        queue.is_served = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn call(
    tables: &dynoxide::Database,
    operation: &str,
    body: &[u8],
) -> Result<Vec<u8>, DynoxideError> {
    fn run<Q: DeserializeOwned, A: Serialize>(
        body: &[u8],
        call: impl FnOnce(Q) -> Result<A, DynoxideError>,
    ) -> Result<Vec<u8>, DynoxideError> {
        let unreadable =
            |error: serde_json::Error| DynoxideError::SerializationException(error.to_string());
        let answer = call(serde_json::from_slice(body).map_err(unreadable)?)?;
        serde_json::to_vec(&answer).map_err(unreadable)
    }
    match operation {
        "PutItem" => run(body, |request| tables.put_item(request)),
        "Query" => run(body, |request| tables.query(request)),
        "GetItem" => run(body, |request| tables.get_item(request)),
        "DeleteItem" => run(body, |request| tables.delete_item(request)),
        "BatchWriteItem" => run(body, |request| tables.batch_write_item(request)),
        "TransactWriteItems" => run(body, |request| tables.transact_write_items(request)),
        "CreateTable" => run(body, |request| tables.create_table(request)),
        "UpdateTimeToLive" => run(body, |request| tables.update_time_to_live(request)),
        // The tests'.
        "Scan" => run(body, |request| tables.scan(request)),
        _ => Err(DynoxideError::ValidationException(format!(
            "{operation} is not served"
        ))),
    }
}

/// A position in a table's stream.
pub struct Stream {
    tables: dynoxide::Database,
    calls: Calls,
    arn: String,
    iterator: String,
    /// Whether an earlier process has read up to here.
    pub is_resumed: bool,
    /// The positions up to which the records are done with, and since when.
    /// The first of them is saved.
    done: VecDeque<(Instant, String)>,
}

impl Stream {
    /// Returns the next records, at most `limit`, in the shape that Lambda
    /// gets, and moves past them. The records before them must be done with.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Value>, String> {
        let tables = self.tables.clone();
        if self
            .done
            .back()
            .is_none_or(|(_, last)| *last != self.iterator)
        {
            self.done.push_back((Instant::now(), self.iterator.clone()));
        }
        let mut saved = None;
        // The last one stays, so that it is neither added nor saved again.
        while let Some((since, _)) = self.done.get(1)
            && since.elapsed() >= SETTLED
        {
            self.done.pop_front();
            saved = self.done.front().map(|(_, position)| position.clone());
        }
        let request = GetRecordsRequest {
            shard_iterator: self.iterator.clone(),
            limit: Some(limit),
        };
        let page = self.calls.run(move || {
            if let Some(position) = saved {
                position::save(&tables, &position)?;
            }
            tables.get_records(request).map_err(text)
        });
        let page = page.await.unwrap_or_else(|| Err("it panicked".to_owned()));
        let page = page.map_err(|error| format!("the stream cannot be read: {error}"))?;
        let mut records = Vec::with_capacity(page.records.len());
        for record in page.records {
            let mut record = serde_json::to_value(record).map_err(text)?;
            if let Some(record) = record.as_object_mut() {
                record.insert("eventSourceARN".to_owned(), self.arn.clone().into());
                record.insert("awsRegion".to_owned(), "local".into());
            }
            records.push(record);
        }
        if let Some(next) = page.next_shard_iterator {
            self.iterator = next;
        }
        Ok(records)
    }

    /// When the next position is to be saved, if one has not been saved.
    pub fn settles(&self) -> Option<Instant> {
        self.done.get(1).map(|(since, _)| *since + SETTLED)
    }

    /// Saves the position at a stop: behind the records of the last page, or
    /// before them if they are not done with.
    pub async fn save(&self, is_done: bool) -> Result<(), String> {
        let last = self.done.back().filter(|_| !is_done);
        let position = last.map_or(&self.iterator, |(_, position)| position);
        let (tables, position) = (self.tables.clone(), position.clone());
        blocking(move || position::save(&tables, &position)).await
    }
}

/// The place in the stream, as Lambda keeps it for an event source mapping: an
/// item of a table of its own, so that no crash can tear it.
mod position {
    use dynoxide::actions::get_item::GetItemRequest;
    use dynoxide::actions::put_item::PutItemRequest;
    use dynoxide::types::{AttributeValue, Item};

    use super::text;

    const TABLE: &str = "photonranch-logstream-event-source-local";
    const NAME: &str = "name";
    const ITERATOR: &str = "iterator";

    fn key() -> Item {
        [(NAME.to_owned(), AttributeValue::S("broadcaster".to_owned()))].into()
    }

    /// Creates the table if it is missing, and returns the saved iterator.
    pub fn open(tables: &dynoxide::Database) -> Result<Option<String>, String> {
        let names = tables.list_tables(Default::default()).map_err(text)?;
        if !names.table_names.iter().any(|name| name == TABLE) {
            let definition = serde_json::json!({
                "TableName": TABLE,
                "BillingMode": "PAY_PER_REQUEST",
                "KeySchema": [{"AttributeName": NAME, "KeyType": "HASH"}],
                "AttributeDefinitions": [{"AttributeName": NAME, "AttributeType": "S"}],
            });
            let definition = serde_json::from_value(definition).map_err(text)?;
            tables.create_table(definition).map_err(text)?;
        }
        let request = GetItemRequest {
            table_name: TABLE.to_owned(),
            key: key(),
            ..Default::default()
        };
        let item = tables.get_item(request).map_err(text)?.item;
        Ok(item.and_then(|mut item| match item.remove(ITERATOR) {
            Some(AttributeValue::S(iterator)) => Some(iterator),
            _ => None,
        }))
    }

    pub fn save(tables: &dynoxide::Database, iterator: &str) -> Result<(), String> {
        let mut item = key();
        item.insert(ITERATOR.to_owned(), AttributeValue::S(iterator.to_owned()));
        let request = PutItemRequest {
            table_name: TABLE.to_owned(),
            item,
            ..Default::default()
        };
        tables.put_item(request).map_err(text)?;
        Ok(())
    }
}

/// Deletes expired rows, every minute and, of a folder, at once. The start does
/// not wait for that: with a million rows it takes seconds.
pub async fn sweep(database: &Database, stop: &CancellationToken) {
    let mut timer = tokio::time::interval(SWEEP);
    if database.folder.is_none() {
        // A new database in memory has nothing to delete.
        timer.reset();
    }
    while stop.run_until_cancelled(timer.tick()).await.is_some() {
        let tables = database.tables.clone();
        if let Err(error) = blocking(move || tables.sweep_ttl().map_err(text)).await {
            tracing::error!(error, "expired rows could not be deleted");
        }
    }
}

fn open_file(folder: &Path) -> Result<(dynoxide::Database, Option<File>), String> {
    let place = folder.display();
    std::fs::create_dir_all(folder).map_err(|error| format!("{place}: {error}"))?;
    let lock = File::create(folder.join("lock")).map_err(|error| format!("{place}: {error}"))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => format!("{place} is in use by another server"),
        TryLockError::Error(error) => format!("{place} cannot be locked: {error}"),
    })?;
    let file = folder.join("tables.sqlite");
    let path = file.to_str().ok_or("the folder's name is not Unicode")?;
    let tables = dynoxide::Database::new(path).map_err(text)?;
    let connection = rusqlite::Connection::open(&file).map_err(text)?;
    connection.execute_batch(STREAM_INDEX).map_err(text)?;
    Ok((tables, Some(lock)))
}

/// No second connection can reach a private database in memory. So the index is
/// made in one that is shared by its name, and copied.
fn open_in_memory() -> Result<dynoxide::Database, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let shared = format!("file:template-{number}?mode=memory&cache=shared");
    let template = dynoxide::Database::new(&shared).map_err(text)?;
    let connection = rusqlite::Connection::open(&shared).map_err(text)?;
    connection.execute_batch(STREAM_INDEX).map_err(text)?;
    let tables = dynoxide::Database::memory().map_err(text)?;
    tables.restore_from(&shared).map_err(text)?;
    drop(template);
    Ok(tables)
}

/// Runs work that waits for SQLite off the workers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(text)?
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_call_that_panics_costs_only_itself() {
        let calls = Calls::default();
        let (first, panics, last) = tokio::join!(
            calls.run(|| 1),
            calls.run(|| panic!("in a call")),
            calls.run(|| 3)
        );
        assert_eq!((first, panics, last), (Some(1), None::<()>, Some(3)));
        assert_eq!(calls.run(|| 4).await, Some(4));
    }

    #[tokio::test]
    async fn a_call_is_not_begun_for_a_caller_that_has_given_up_but_one_that_runs_ends() {
        let calls = Calls::default();
        let (go_on, wait) = mpsc::channel::<()>();
        let (begins, begun) = mpsc::channel();
        let (is_done, done) = mpsc::channel();
        let runs = calls.run({
            let is_done = is_done.clone();
            move || {
                begins.send(()).unwrap();
                wait.recv().unwrap();
                is_done.send("runs").unwrap();
            }
        });
        let mut runs = Box::pin(runs);
        assert!(runs.as_mut().now_or_never().is_none());
        let waits = calls.run(move || is_done.send("waits").unwrap());
        assert!(waits.now_or_never().is_none());
        begun.recv().unwrap();
        drop(runs);
        go_on.send(()).unwrap();
        calls.run(|| ()).await.unwrap();
        assert_eq!(done.try_iter().collect::<Vec<_>>(), ["runs"]);
    }
}
