//! The open WebSocket connections, as the management API sees them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::interval;
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

impl Details {
    /// The connection's age by the wall clock.
    pub fn age(&self) -> Duration {
        self.connected_at.elapsed().unwrap_or_default()
    }
}

/// The connection's end of the queue.
pub struct Outbox {
    queue: UnboundedReceiver<String>,
    queued: Arc<AtomicUsize>,
    /// Cancelled when the connection is to be closed: by the management API, or
    /// because it is too old.
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

    /// Closes, each second, the connections that are too old by the wall clock.
    /// That clock decides when their rows expire, and it jumps: when a laptop
    /// wakes, when NTP corrects it.
    pub async fn close_too_old(&self, max_age: Duration, stop: &CancellationToken) {
        let mut second = interval(Duration::from_secs(1));
        while stop.run_until_cancelled(second.tick()).await.is_some() {
            let sockets = self.lock();
            let too_old = sockets
                .values()
                .filter(|socket| socket.details.age() > max_age);
            too_old.for_each(|socket| socket.close.cancel());
        }
    }

    /// The number of open connections.
    pub fn len(&self) -> usize {
        self.lock().len()
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

    /// A further frame, if it waits already.
    pub fn try_next(&mut self) -> Option<String> {
        self.queue.try_recv().ok()
    }

    /// Frames of this many bytes were written.
    pub fn sent(&self, bytes: usize) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }
}
