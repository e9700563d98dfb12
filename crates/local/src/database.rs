//! The tables: DynamoDB inside this process, on SQLite, reached over HTTP by
//! the same SDK as on AWS.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use dynoxide::actions::get_records::GetRecordsRequest;
use dynoxide::actions::get_shard_iterator::GetShardIteratorRequest;
use dynoxide::actions::list_streams::ListStreamsRequest;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::supervise::{again, supervise};

/// Expired rows are deleted every minute; DynamoDB takes up to two days.
const SWEEP: Duration = Duration::from_secs(60);

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

/// The database and its server.
#[derive(Clone)]
pub struct Database {
    tables: dynoxide::Database,
    address: SocketAddr,
    stop: CancellationToken,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Database {
    /// Opens the database of a folder, or one in memory, and serves it on a
    /// port of loopback.
    pub async fn open(data_dir: Option<&Path>) -> Result<Self, String> {
        let data_dir = data_dir.map(Path::to_owned);
        let tables = blocking(move || match data_dir {
            Some(folder) => open_file(&folder),
            None => open_in_memory(),
        })
        .await?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
        listener.set_nonblocking(true).map_err(text)?;
        let address = listener.local_addr().map_err(text)?;
        let stop = CancellationToken::new();

        // The server has its own thread and runtime, because its handlers block
        // a worker for as long as SQLite takes.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(text)?;
        let serve = {
            let (tables, stop) = (tables.clone(), stop.clone());
            supervise("database", stop.clone(), async move || {
                let stopped = stop.clone().cancelled_owned();
                let listener = again(&listener)?;
                dynoxide::server::serve_with_shutdown(listener, tables.clone(), stopped).await
            })
        };
        let thread = std::thread::Builder::new()
            .name("database".to_owned())
            .spawn(move || runtime.block_on(serve))
            .map_err(text)?;
        Ok(Self {
            tables,
            address,
            stop,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// The endpoint for the SDK.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn has_table(&self, name: &str) -> Result<bool, String> {
        let tables = self.tables.list_tables(Default::default()).map_err(text)?;
        Ok(tables.table_names.iter().any(|table| table == name))
    }

    /// A table's stream, starting now.
    pub fn stream(&self, table: &str) -> Result<Stream, String> {
        let streams = ListStreamsRequest {
            table_name: Some(table.to_owned()),
            ..Default::default()
        };
        let streams = self.tables.list_streams(streams).map_err(text)?.streams;
        let arn = streams
            .into_iter()
            .next()
            .ok_or("the table has no stream")?
            .stream_arn;
        let iterator = GetShardIteratorRequest {
            stream_arn: arn.clone(),
            shard_id: dynoxide::streams::shard_id(table),
            shard_iterator_type: "LATEST".to_owned(),
            sequence_number: None,
        };
        let iterator = self
            .tables
            .get_shard_iterator(iterator)
            .map_err(text)?
            .shard_iterator;
        Ok(Stream {
            tables: self.tables.clone(),
            arn,
            iterator: iterator.ok_or("the stream has no iterator")?,
        })
    }

    /// Stops the server without waiting for it.
    pub fn abandon(&self) {
        self.stop.cancel();
    }

    /// Stops the server and closes the files.
    pub async fn close(self) {
        self.stop.cancel();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Only waits: the thread has logged its own errors.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// A position in a table's stream.
pub struct Stream {
    tables: dynoxide::Database,
    arn: String,
    iterator: String,
}

impl Stream {
    /// Returns the next records, at most `limit`, in the shape that Lambda
    /// gets, and moves past them.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Value>, String> {
        let tables = self.tables.clone();
        let request = GetRecordsRequest {
            shard_iterator: self.iterator.clone(),
            limit: Some(limit),
        };
        let page = blocking(move || tables.get_records(request).map_err(text))
            .await
            .map_err(|error| format!("the stream cannot be read: {error}"))?;
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
}

/// Deletes expired rows every minute.
pub async fn sweep(database: &Database, stop: &CancellationToken) {
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    while stop.run_until_cancelled(timer.tick()).await.is_some() {
        let tables = database.tables.clone();
        if let Err(error) = blocking(move || tables.sweep_ttl().map_err(text)).await {
            tracing::error!(error, "expired rows could not be deleted");
        }
    }
}

fn open_file(folder: &Path) -> Result<dynoxide::Database, String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let file = folder.join("tables.sqlite");
    let path = file.to_str().ok_or("the folder's name is not Unicode")?;
    let tables = dynoxide::Database::new(path).map_err(text)?;
    index_stream(&file)?;
    tables.sweep_ttl().map_err(text)?;
    Ok(tables)
}

/// No second connection can reach a database in memory, so the index is made in
/// a file and copied.
fn open_in_memory() -> Result<dynoxide::Database, String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let file = folder.path().join("template.sqlite");
    let path = file
        .to_str()
        .ok_or("the folder for temporary files has a name that is not Unicode")?;
    drop(dynoxide::Database::new(path).map_err(text)?);
    index_stream(&file)?;
    let tables = dynoxide::Database::memory().map_err(text)?;
    tables.restore_from(path).map_err(text)?;
    Ok(tables)
}

fn index_stream(file: &Path) -> Result<(), String> {
    let connection = rusqlite::Connection::open(file).map_err(text)?;
    connection.execute_batch(STREAM_INDEX).map_err(text)
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
