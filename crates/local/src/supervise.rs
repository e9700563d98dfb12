//! Keeping the tasks of the server running.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

/// The wait before a task is started again, so that one that fails at once does
/// not spin.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs a task until the server stops. A task that ends early or panics is
/// started again, so what it must not lose is kept outside it.
pub async fn supervise(
    name: &'static str,
    stop: CancellationToken,
    mut task: impl AsyncFnMut() -> Result<(), String>,
) {
    while !stop.is_cancelled() {
        // What a task keeps between its runs must stay valid wherever it
        // panics.
        let ended = AssertUnwindSafe(task())
            .catch_unwind()
            .instrument(tracing::error_span!("task", name))
            .await;
        if stop.is_cancelled() {
            return;
        }
        let cause = match ended {
            Ok(Ok(())) => "it returned".to_owned(),
            Ok(Err(error)) => error,
            Err(_) => "it panicked".to_owned(),
        };
        tracing::error!(task = name, cause, "a task ended and is started again");
        stop.run_until_cancelled(sleep(PAUSE)).await;
    }
}

/// A copy of a listening socket for one run of its task. The original stays
/// open for the next.
pub fn again(listener: &std::net::TcpListener) -> Result<TcpListener, String> {
    let listener = listener.try_clone().and_then(TcpListener::from_std);
    listener.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    /// Supervises a task until it stops the server, and counts its runs.
    async fn runs(mut task: impl AsyncFnMut(u32, &CancellationToken) -> Result<(), String>) -> u32 {
        let stop = CancellationToken::new();
        let mut runs = 0;
        let supervised = supervise("test", stop.clone(), async || {
            runs += 1;
            task(runs, &stop).await
        });
        let patience = Duration::from_secs(60);
        timeout(patience, supervised).await.unwrap();
        runs
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_after_a_pause() {
        let started = Instant::now();
        let runs = runs(async |run, stop| {
            assert!(run > 2, "it panics twice");
            stop.cancel();
            Ok(())
        });
        assert_eq!(runs.await, 3);
        assert_eq!(started.elapsed(), PAUSE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_with_or_without_an_error_is_started_again() {
        let runs = runs(async |run, stop| match run {
            1 => Ok(()),
            2 => Err("it failed".to_owned()),
            _ => {
                stop.cancel();
                Ok(())
            }
        });
        assert_eq!(runs.await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_the_pause() {
        let stop = CancellationToken::new();
        let supervised = supervise("test", stop.clone(), async || Ok(()));
        let stopping = async {
            sleep(PAUSE / 2).await;
            stop.cancel();
        };
        let started = Instant::now();
        tokio::join!(supervised, stopping);
        assert_eq!(started.elapsed(), PAUSE / 2);
    }
}
