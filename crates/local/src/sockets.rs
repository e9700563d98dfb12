//! The open WebSocket connections, as the management API sees them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// The most bytes queued for a client that does not read, besides the system's
/// own buffers. Beyond them a post is answered with 429.
const MAX_QUEUED: usize = 1024 * 1024;

/// The open connections by their ids.
#[derive(Default)]
pub struct Sockets(Mutex<HashMap<String, Socket>>);

#[derive(Clone)]
struct Socket {
    queue: UnboundedSender<String>,
    queued: Arc<AtomicUsize>,
    close: CancellationToken,
    details: Details,
}

/// What the management API reports about a connection.
#[derive(Clone)]
pub struct Details {
    pub connected_at: SystemTime,
    pub source_ip: String,
    pub user_agent: String,
}

/// The connection's end of the queue.
pub struct Outbox {
    queue: UnboundedReceiver<String>,
    queued: Arc<AtomicUsize>,
    /// Cancelled when the management API closes the connection.
    pub close: CancellationToken,
}

/// What became of a frame.
pub enum Posted {
    Queued,
    Gone,
    Full,
}

impl Sockets {
    /// Adds a connection whose handshake is finished.
    pub fn open(&self, id: &str, details: Details) -> Outbox {
        let (sender, queue) = unbounded_channel();
        let socket = Socket {
            queue: sender,
            queued: Arc::default(),
            close: CancellationToken::new(),
            details,
        };
        let outbox = Outbox {
            queue,
            queued: socket.queued.clone(),
            close: socket.close.clone(),
        };
        self.lock().insert(id.to_owned(), socket);
        outbox
    }

    /// Removes a connection that ends.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Queues a frame for a connection.
    pub fn post(&self, id: &str, frame: String) -> Posted {
        let sockets = self.lock();
        let Some(socket) = sockets.get(id) else {
            return Posted::Gone;
        };
        if socket.queued.load(Ordering::Relaxed) + frame.len() > MAX_QUEUED {
            return Posted::Full;
        }
        socket.queued.fetch_add(frame.len(), Ordering::Relaxed);
        match socket.queue.send(frame) {
            Ok(()) => Posted::Queued,
            Err(_) => Posted::Gone,
        }
    }

    /// Closes a connection; `false` if there is none.
    pub fn close(&self, id: &str) -> bool {
        let socket = self.lock().remove(id);
        if let Some(socket) = &socket {
            socket.close.cancel();
        }
        socket.is_some()
    }

    pub fn details(&self, id: &str) -> Option<Details> {
        self.lock().get(id).map(|socket| socket.details.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// The next frame to send. It counts against the queue until
    /// [`Self::sent`].
    pub async fn next(&mut self) -> Option<String> {
        self.queue.recv().await
    }

    /// A frame of this many bytes was written.
    pub fn sent(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}
