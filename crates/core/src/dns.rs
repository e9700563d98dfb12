//! The addresses of AWS's endpoints.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long an answer is used. AWS's names are valid for 60 s.
const LIFETIME: Duration = Duration::from_secs(10);

/// Asks the system for a name once, and not once for each connection: a batch
/// opens hundreds at the same time, and each question takes a thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<HashMap<String, Addresses>>>);

#[derive(Debug)]
struct Addresses {
    asked: Instant,
    all: Vec<IpAddr>,
}

impl ResolveDns for Names {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            // Held during the question, so that the others wait for its answer.
            let mut names = self.0.lock().await;
            let known = names.get_mut(name);
            if let Some(known) = known.filter(|known| known.asked.elapsed() < LIFETIME) {
                // A connection takes the first, and each is to be used.
                known.all.rotate_left(1);
                return Ok(known.all.clone());
            }
            let asked = Instant::now();
            let all = lookup_host((name, 0)).await.map_err(ResolveDnsError::new)?;
            let all: Vec<_> = all.map(|address| address.ip()).collect();
            let answer = all.clone();
            if !all.is_empty() {
                names.insert(name.to_owned(), Addresses { asked, all });
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_asked_for_once_and_every_address_is_used() {
        let names = Names::default();
        let first = names.resolve_dns("localhost").await.unwrap();
        assert!(!first.is_empty());
        // What the system would not say.
        let more: [IpAddr; 2] = [[127, 0, 0, 8].into(), [127, 0, 0, 9].into()];
        let mut known = names.0.lock().await;
        known.get_mut("localhost").unwrap().all = more.to_vec();
        drop(known);
        let second = names.resolve_dns("localhost").await.unwrap();
        let third = names.resolve_dns("localhost").await.unwrap();
        assert_eq!([second[0], third[0]], [more[1], more[0]]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_forgotten_after_its_time() {
        let names = Names::default();
        names.resolve_dns("localhost").await.unwrap();
        names.0.lock().await.get_mut("localhost").unwrap().all = vec![[127, 0, 0, 9].into()];
        tokio::time::advance(LIFETIME).await;
        let again = names.resolve_dns("localhost").await.unwrap();
        assert_ne!(again, [IpAddr::from([127, 0, 0, 9])]);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error_and_asked_for_again() {
        let names = Names::default();
        // Too long for a name, which the system says without asking anyone.
        assert!(names.resolve_dns(&"x".repeat(300)).await.is_err());
        assert!(names.0.lock().await.is_empty());
    }
}
