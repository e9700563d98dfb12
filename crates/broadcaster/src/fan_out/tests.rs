//! The rule on a paused clock: the real SDK clients, whose requests are
//! answered in this process by an account that fails as it is told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_config::Region;
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use logstream_core::Level;
use logstream_core::config;
use serde_json::{Value, json};
use time::macros::format_description;
use tokio::time::sleep;

use super::*;

/// What the gateway does with one post.
#[derive(Clone, Copy)]
enum Reply {
    /// Answers with this status, after this many milliseconds.
    Status(u16, u64),
    /// Never answers.
    Hang,
}

use Reply::{Hang, Status};

const OK: Reply = Status(200, 1);

/// Decides by the connection's id and by how many posts it and all
/// connections had before.
type Gateway = Box<dyn Fn(&str, usize, usize) -> Reply + Send + Sync>;

struct World {
    gateway: Gateway,
    /// What closing a connection answers.
    closing: Reply,
    /// Site and id of each row, and the connection's age in seconds.
    rows: Mutex<Vec<(String, String, i64)>>,
    /// A site whose connections cannot be read.
    unreadable: Mutex<Option<&'static str>>,
    posts: Mutex<HashMap<String, usize>>,
    all_posts: AtomicUsize,
    /// What was delivered, and when, by connection.
    delivered: Mutex<HashMap<String, Vec<(String, Instant)>>>,
    closed: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Account(Arc<World>);

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Account")
    }
}

impl HttpClient for Account {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Account {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let world = self.0.clone();
        HttpConnectorFuture::new(async move {
            let (status, body) = world.answer(&request).await;
            let status = status.try_into().unwrap();
            Ok(HttpResponse::new(status, SdkBody::from(body)))
        })
    }
}

impl World {
    async fn answer(&self, request: &HttpRequest) -> (u16, String) {
        let body = request.body().bytes().unwrap();
        match request.headers().get("x-amz-target") {
            Some(target) if target.ends_with(".Query") => self.query(body),
            Some(target) if target.ends_with(".DeleteItem") => (200, self.delete(body)),
            Some(target) => panic!("{target}"),
            None => {
                let (_, id) = request.uri().rsplit_once('/').unwrap();
                let status = match request.method() {
                    "POST" => self.post(id, body).await,
                    _ => self.close(id).await,
                };
                (status, String::new())
            }
        }
    }

    fn query(&self, body: &[u8]) -> (u16, String) {
        let query: Value = serde_json::from_slice(body).unwrap();
        let site = &query["ExpressionAttributeValues"][":site"]["S"];
        if self
            .unreadable
            .lock()
            .unwrap()
            .is_some_and(|name| site == name)
        {
            return (500, "{}".to_owned());
        }
        let format = format_description!(
            version = 2,
            "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]"
        );
        let rows = self.rows.lock().unwrap();
        let items = rows
            .iter()
            .filter(|(row, ..)| site == row)
            .map(|(_, id, age)| {
                let started = OffsetDateTime::now_utc() - time::Duration::seconds(*age);
                let started = started.format(format).unwrap();
                json!({"ConnectionID": {"S": id}, "ConnectionStartedUTC": {"S": started}})
            });
        let items = json!({"Items": items.collect::<Vec<_>>()});
        (200, items.to_string())
    }

    fn delete(&self, body: &[u8]) -> String {
        let delete: Value = serde_json::from_slice(body).unwrap();
        let (site, id) = (
            &delete["Key"]["site"]["S"],
            &delete["Key"]["ConnectionID"]["S"],
        );
        self.rows
            .lock()
            .unwrap()
            .retain(|(s, i, _)| site != s || id != i);
        "{}".to_owned()
    }

    async fn post(&self, id: &str, body: &[u8]) -> u16 {
        let before = {
            let mut posts = self.posts.lock().unwrap();
            let posts = posts.entry(id.to_owned()).or_default();
            *posts += 1;
            *posts - 1
        };
        let reply = (self.gateway)(id, before, self.all_posts.fetch_add(1, Ordering::Relaxed));
        let status = reply.wait().await;
        if status == 200 {
            let text = String::from_utf8(body.to_vec()).unwrap();
            let mut delivered = self.delivered.lock().unwrap();
            delivered
                .entry(id.to_owned())
                .or_default()
                .push((text, Instant::now()));
        }
        status
    }

    async fn close(&self, id: &str) -> u16 {
        let status = self.closing.wait().await;
        if status < 300 {
            self.closed.lock().unwrap().push(id.to_owned());
        }
        status
    }
}

impl Reply {
    async fn wait(self) -> u16 {
        match self {
            Status(status, milliseconds) => {
                sleep(Duration::from_millis(milliseconds)).await;
                status
            }
            Hang => std::future::pending().await,
        }
    }
}

/// A broadcaster on an account, with viewers of the site `tst` that have been
/// connected for a minute.
struct Stage {
    world: Arc<World>,
    connections: Connections,
    management_api: ManagementApi,
    memory: Memory,
}

impl Stage {
    fn new(
        viewers: &[String],
        gateway: impl Fn(&str, usize, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::closing(viewers, Status(204, 1), gateway)
    }

    fn closing(
        viewers: &[String],
        closing: Reply,
        gateway: impl Fn(&str, usize, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let row = |id: &String| ("tst".to_owned(), id.clone(), 60);
        let world = Arc::new(World {
            gateway: Box::new(gateway),
            closing,
            rows: Mutex::new(viewers.iter().map(row).collect()),
            unreadable: Mutex::default(),
            posts: Mutex::default(),
            all_posts: AtomicUsize::default(),
            delivered: Mutex::default(),
            closed: Mutex::default(),
        });
        let credentials = Credentials::new("test", "test", None, None, "test");
        let config = config::builder()
            .region(Region::from_static("test"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url("http://account")
            .http_client(SharedHttpClient::new(Account(world.clone())))
            .build();
        Self {
            connections: Connections::new(&config, "connections".to_owned()),
            management_api: ManagementApi::new(&config),
            memory: Memory::default(),
            world,
        }
    }

    fn add(&self, site: &str, id: &str, age: i64) {
        let row = (site.to_owned(), id.to_owned(), age);
        self.world.rows.lock().unwrap().push(row);
    }

    /// Broadcasts these messages of the site `tst` within 25 s. Returns the
    /// failed sequence numbers and how long it took.
    async fn broadcast(&self, messages: std::ops::Range<usize>) -> (BTreeSet<String>, Duration) {
        let messages: Vec<_> = messages.map(|number| ("tst", number)).collect();
        self.broadcast_of(&messages).await
    }

    async fn broadcast_of(&self, messages: &[(&str, usize)]) -> (BTreeSet<String>, Duration) {
        let records = messages.iter().map(|(site, number)| {
            let number = format!("{number:04}");
            Record::new((*site).into(), number.clone(), Level::Info, None, number)
        });
        let started = Instant::now();
        let end = started + Duration::from_secs(25);
        let fan_out = FanOut::new(
            &self.connections,
            &self.management_api,
            &self.memory,
            records.collect(),
            end,
        );
        let failed = fan_out.broadcast(&self.memory).await;
        (failed, started.elapsed())
    }

    fn delivered(&self, id: &str) -> Vec<String> {
        let delivered = self.world.delivered.lock().unwrap();
        let delivered = delivered.get(id).into_iter().flatten();
        delivered.map(|(text, _)| text.clone()).collect()
    }

    /// When the last of these connections had its last frame.
    fn done(&self, ids: &[String], started: Instant) -> Duration {
        let delivered = self.world.delivered.lock().unwrap();
        let last = ids
            .iter()
            .map(|id| delivered[id].last().unwrap().1 - started);
        last.max().unwrap()
    }

    fn posts(&self, id: &str) -> usize {
        self.world
            .posts
            .lock()
            .unwrap()
            .get(id)
            .copied()
            .unwrap_or(0)
    }

    fn closed(&self) -> Vec<String> {
        let mut closed = self.world.closed.lock().unwrap().clone();
        closed.sort();
        closed
    }

    fn is_online(&self, id: &str) -> bool {
        self.world
            .rows
            .lock()
            .unwrap()
            .iter()
            .any(|(_, row, _)| row == id)
    }

    /// Checks that each of these has the first messages, in order and once.
    fn have(&self, ids: &[String], messages: usize) {
        let all: Vec<_> = (0..messages).map(|number| format!("{number:04}")).collect();
        for id in ids {
            assert_eq!(self.delivered(id), all, "{id}");
        }
    }
}

fn ids(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{name}{index}")).collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_gateway_that_is_slow_for_all_closes_nobody_and_fails_nothing() {
    for delay in [1, 20, 60, 150, 400] {
        for (count, messages) in [
            (1, 1),
            (1, 20),
            (1, 60),
            (3, 20),
            (3, 60),
            (50, 1),
            (50, 20),
        ] {
            let viewers = ids("v", count);
            let stage = Stage::new(&viewers, move |_, _, _| Status(200, delay));
            let (failed, took) = stage.broadcast(0..messages).await;
            assert!(failed.is_empty(), "{delay} ms, {count} viewers: {failed:?}");
            assert!(stage.closed().is_empty());
            stage.have(&viewers, messages);
            let least = Duration::from_millis(delay * messages as u64);
            assert!(took <= least + Duration::from_millis(50), "{took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_the_deadline_cuts_off_is_reported_and_the_retry_goes_on_from_there() {
    let viewers = ids("v", 3);
    let stage = Stage::new(&viewers, |_, _, _| Status(200, 400));
    let (failed, _) = stage.broadcast(0..crate::BATCH_SIZE).await;
    assert_eq!(failed.first().map(String::as_str), Some("0062"));
    assert!(stage.closed().is_empty());
    let (failed, _) = stage.broadcast(62..crate::BATCH_SIZE).await;
    assert!(failed.is_empty(), "{failed:?}");
    stage.have(&viewers, crate::BATCH_SIZE);
}

#[tokio::test(start_paused = true)]
async fn connections_that_cannot_be_served_are_closed_and_delay_the_others_by_a_second_at_most() {
    for (count, reply) in [
        (1, Status(429, 1)),
        (11, Status(429, 1)),
        (40, Status(429, 1)),
        (1, Status(500, 1)),
        (40, Status(503, 20)),
        (1, Hang),
        (40, Hang),
    ] {
        let (healthy, bad) = (ids("v", 50), ids("bad", count));
        let stage = Stage::new(
            &[healthy.clone(), bad.clone()].concat(),
            move |id, before, _| {
                if id.starts_with("bad") && before > 0 {
                    reply
                } else {
                    OK
                }
            },
        );
        let started = Instant::now();
        let (failed, took) = stage.broadcast(0..20).await;
        assert!(failed.is_empty(), "{failed:?}");
        stage.have(&healthy, 20);
        stage.have(&bad, 1);
        let mut all = bad.clone();
        all.sort();
        assert_eq!(stage.closed(), all);
        assert!(!bad.iter().any(|id| stage.is_online(id)));
        assert!(took < SECOND, "{count}: {took:?}");
        let done = stage.done(&healthy, started);
        assert!(done < SECOND, "{count}: {done:?}");
        // Nothing is left of them for the next batch.
        let (_, took) = stage.broadcast(20..40).await;
        assert!(took < Duration::from_millis(60), "{count}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_connections_among_a_thousand_are_closed_while_most_are_healthy() {
    // The hundred that are looked at are a sample, which is as far from one
    // half as this by no chance.
    let (healthy, bad) = (ids("v", 700), ids("bad", 300));
    let stage = Stage::new(&[healthy.clone(), bad].concat(), |id, _, _| {
        if id.starts_with("bad") {
            Status(429, 1)
        } else {
            OK
        }
    });
    let (failed, took) = stage.broadcast(0..1).await;
    assert!(failed.is_empty(), "{failed:?}");
    stage.have(&healthy, 1);
    assert_eq!(stage.closed().len(), 300);
    assert!(took < 2 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_gone_is_forgotten_at_once_and_a_new_one_is_left_alone() {
    let healthy = ids("v", 50);
    let stage = Stage::new(&healthy, |id, before, _| match id {
        "gone" | "new" => Status(410, 1),
        "opening" if before < 3 => Status(410, 1),
        _ => OK,
    });
    stage.add("tst", "gone", 60);
    stage.add("tst", "new", 1);
    stage.add("tst", "opening", 0);
    let (failed, took) = stage.broadcast(0..20).await;
    assert!(failed.is_empty());
    stage.have(&healthy, 20);
    assert_eq!(stage.delivered("opening").len(), 20);
    assert_eq!(stage.posts("gone"), 1);
    assert!(!stage.is_online("gone"));
    assert!(stage.posts("new") > 2 && stage.is_online("new"));
    assert!(stage.closed().is_empty());
    assert!(took < Duration::from_millis(350), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_row_older_than_two_seconds_is_not_new() {
    let stage = Stage::new(&[], |_, _, _| Status(410, 1));
    stage.add("tst", "gone", 3);
    stage.broadcast(0..1).await;
    assert_eq!(stage.posts("gone"), 1);
    assert!(!stage.is_online("gone"));
}

#[tokio::test(start_paused = true)]
async fn an_account_that_throttles_every_second_post_closes_nobody() {
    for (count, messages) in [(50, 1), (50, 20), (200, 5)] {
        let viewers = ids("v", count);
        let stage = Stage::new(&viewers, |_, _, all| {
            Status(if all % 2 == 0 { 429 } else { 200 }, 1)
        });
        let (failed, _) = stage.broadcast(0..messages).await;
        assert!(failed.is_empty(), "{failed:?}");
        assert!(stage.closed().is_empty());
        stage.have(&viewers, messages);
    }
}

/// A gateway with a token bucket, like API Gateway's. A post takes 10 ms.
fn limited(rate: f64, burst: f64) -> impl Fn() -> Reply + Send + Sync {
    let bucket = Mutex::new((burst, Instant::now()));
    move || {
        let (tokens, looked) = &mut *bucket.lock().unwrap();
        *tokens = (*tokens + looked.elapsed().as_secs_f64() * rate).min(burst);
        *looked = Instant::now();
        if *tokens >= 1.0 {
            *tokens -= 1.0;
            Status(200, 10)
        } else {
            Status(429, 10)
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_that_the_account_limits_is_found_and_nearly_used_up() {
    for (rate, burst, count, messages) in [
        (200.0, 100.0, 100, 10),
        (500.0, 50.0, 700, 3),
        (1_000.0, 100.0, 400, 5),
        (4_000.0, 400.0, 200, 20),
        (8_000.0, 800.0, 4_000, 1),
    ] {
        let viewers = ids("v", count);
        let reply = limited(rate, burst);
        let stage = Stage::new(&viewers, move |_, _, _| reply());
        let (failed, took) = stage.broadcast(0..messages).await;
        assert!(failed.is_empty(), "{rate}/s: {failed:?}");
        assert_eq!(stage.closed(), Vec::<String>::new(), "{rate}/s");
        stage.have(&viewers, messages);
        let posts = (count * messages) as f64;
        let throttled = stage.world.all_posts.load(Ordering::Relaxed) as f64 - posts;
        // The least that may be in flight, 16, are 1,600 posts/s.
        if rate >= 2_000.0 {
            assert!(throttled < posts / 5.0, "{rate}/s: {throttled} throttled");
        }
        let least = Duration::from_secs_f64((posts - burst) / rate);
        let most = least.mul_f64(1.3) + SECOND;
        assert!(took < most, "{rate}/s: {took:?} of {least:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_throttled_for_itself_is_closed_while_the_account_is_at_its_limit() {
    let viewers = ids("v", 500);
    let reply = limited(4_000.0, 400.0);
    let stage = Stage::new(
        &[&viewers[..], &["bad".to_owned()]].concat(),
        move |id, _, _| {
            if id == "bad" {
                Status(429, 10)
            } else {
                reply()
            }
        },
    );
    stage.broadcast(0..20).await;
    assert_eq!(stage.closed(), ["bad"]);
    stage.have(&viewers, 20);
}

#[tokio::test(start_paused = true)]
async fn a_batch_to_a_thousand_takes_few_round_trips_once_the_pace_is_known() {
    let stage = Stage::new(&ids("v", 1000), |_, _, _| Status(200, 10));
    stage.broadcast(0..1).await;
    let (_, took) = stage.broadcast(1..2).await;
    // Eight round trips of 128 posts.
    assert!(took <= Duration::from_millis(85), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_account_that_throttles_at_random_closes_nobody() {
    for seed in 0..20 {
        let viewers = ids("v", 50);
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        let stage = Stage::new(&viewers, move |_, _, _| {
            Status(
                if random.lock().unwrap().bool() {
                    429
                } else {
                    200
                },
                1,
            )
        });
        let (failed, _) = stage.broadcast(0..3).await;
        assert!(failed.is_empty(), "{failed:?}");
        assert!(stage.closed().is_empty(), "seed {seed}");
        stage.have(&viewers, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_posts_that_fail_at_random_close_nobody() {
    for seed in 0..3 {
        let viewers = ids("v", 30);
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        let stage = Stage::new(&viewers, move |_, _, _| {
            Status(
                if random.lock().unwrap().u8(..20) == 0 {
                    500
                } else {
                    200
                },
                20,
            )
        });
        let (failed, _) = stage.broadcast(0..50).await;
        assert!(failed.is_empty(), "{failed:?}");
        assert!(stage.closed().is_empty(), "seed {seed}");
        stage.have(&viewers, 50);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_passes_closes_nobody_and_everything_is_delivered() {
    // The posts of the first 5 s, or those after a start that went well.
    for (from, reply) in [
        (0, Status(429, 1)),
        (0, Hang),
        (300, Status(429, 1)),
        (300, Status(503, 20)),
        (300, Hang),
    ] {
        let viewers = ids("v", 50);
        let started = Instant::now();
        let stage = Stage::new(&viewers, move |_, _, all| {
            if all >= from && started.elapsed() < 5 * SECOND {
                reply
            } else {
                Status(200, 10)
            }
        });
        let (failed, took) = stage.broadcast(0..20).await;
        assert!(failed.is_empty(), "{failed:?}");
        assert!(stage.closed().is_empty());
        stage.have(&viewers, 20);
        assert!(took < 8 * SECOND, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_goes_on_failing_after_an_outage_is_closed_soon() {
    let healthy = ids("v", 20);
    let started = Instant::now();
    let stage = Stage::new(&healthy, move |id, _, _| {
        if id == "bad" || started.elapsed() < 5 * SECOND {
            Status(429, 1)
        } else {
            OK
        }
    });
    stage.add("tst", "bad", 60);
    let (failed, took) = stage.broadcast(0..1).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(stage.closed(), ["bad"]);
    stage.have(&healthy, 1);
    assert!(took < 12 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_account_whose_burst_is_used_up_closes_nobody() {
    let viewers = ids("v", 300);
    let stage = Stage::new(
        &viewers,
        |_, _, all| if all < 150 { OK } else { Status(429, 1) },
    );
    let (failed, took) = stage.broadcast(0..1).await;
    assert_eq!(failed.len(), 1);
    assert!(stage.closed().is_empty());
    assert!(took <= 25 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_permission_or_a_fault_of_the_gateway_closes_nobody() {
    for status in [403, 500] {
        let viewers = ids("v", 30);
        let stage = Stage::new(&viewers, move |_, _, _| Status(status, 1));
        let (failed, took) = stage.broadcast(0..2).await;
        assert_eq!(failed.into_iter().collect::<Vec<_>>(), ["0000"]);
        assert!(stage.closed().is_empty());
        assert!(took > 20 * SECOND && took <= 25 * SECOND, "{took:?}");
        // It slowed down.
        assert!(stage.posts("v0") < 120, "{}", stage.posts("v0"));
    }
}

#[tokio::test(start_paused = true)]
async fn one_connection_that_may_not_be_posted_to_is_reported_and_not_closed() {
    let healthy = ids("v", 50);
    let stage = Stage::new(
        &healthy,
        |id, _, _| if id == "bad" { Status(403, 1) } else { OK },
    );
    stage.add("tst", "bad", 60);
    let (failed, took) = stage.broadcast(0..2).await;
    assert_eq!(failed.len(), 1);
    assert!(stage.closed().is_empty() && stage.is_online("bad"));
    assert!(took < SECOND, "{took:?}");
    stage.have(&healthy, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lone_viewers_silence_and_429_are_its_own_and_other_failures_are_not() {
    for (reply, is_own) in [
        (Status(429, 1), true),
        (Hang, true),
        (Status(500, 1), false),
        (Status(403, 1), false),
    ] {
        let stage = Stage::new(
            &ids("v", 1),
            move |_, before, _| if before == 0 { OK } else { reply },
        );
        let (failed, took) = stage.broadcast(0..3).await;
        assert_eq!(stage.closed().len(), usize::from(is_own));
        assert_eq!(failed.is_empty(), is_own, "{failed:?}");
        assert_eq!(took < SECOND, is_own, "{took:?}");
        stage.have(&ids("v", 1), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fails_two_of_three_times_is_closed_before_it_holds_up_a_batch() {
    let healthy = ids("v", 10);
    let stage = Stage::new(&healthy, |id, before, _| {
        if id == "bad" && before % 3 < 2 {
            Status(429, 1)
        } else {
            OK
        }
    });
    stage.add("tst", "bad", 60);
    let (_, took) = stage.broadcast(0..crate::BATCH_SIZE).await;
    assert_eq!(stage.closed(), ["bad"]);
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_watches_many_sites_has_one_budget_and_one_order() {
    let sites = ids("site", 20);
    let stage = Stage::new(&[], |id, _, _| if id == "bad" { Hang } else { OK });
    for site in &sites {
        stage.add(site, "good", 60);
        stage.add(site, "bad", 60);
    }
    let messages = sites.iter().cycle().take(60).map(String::as_str);
    let messages: Vec<_> = messages.zip(0..).collect();
    let (failed, took) = stage.broadcast_of(&messages).await;
    assert!(failed.is_empty(), "{failed:?}");
    stage.have(&["good".to_owned()], 60);
    assert_eq!(stage.closed(), ["bad"]);
    assert!(!stage.is_online("bad"), "its rows of all sites are deleted");
    assert!(took < SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_retry_of_a_batch_sends_nobody_a_frame_twice() {
    let healthy = ids("v", 50);
    let stage = Stage::closing(&healthy, Status(500, 1), |id, before, _| {
        if id == "bad" && (1..30).contains(&before) {
            Status(429, 1)
        } else {
            OK
        }
    });
    stage.add("tst", "bad", 60);
    let (mut failed, _) = stage.broadcast(0..5).await;
    assert_eq!(failed.iter().collect::<Vec<_>>(), ["0001"]);
    let mut attempts = 1;
    while let Some(lowest) = failed.pop_first() {
        (failed, _) = stage.broadcast(lowest.parse().unwrap()..5).await;
        attempts += 1;
        assert!(attempts < 6);
    }
    assert!(attempts > 2);
    stage.have(&healthy, 5);
    stage.have(&["bad".to_owned()], 5);
}

#[tokio::test(start_paused = true)]
async fn a_slow_gateway_is_given_the_time_to_close_a_connection() {
    let healthy = ids("v", 10);
    let stage = Stage::closing(&healthy, Status(204, 400), |id, before, _| {
        Status(if id == "bad" && before > 0 { 429 } else { 200 }, 400)
    });
    stage.add("tst", "bad", 60);
    let (failed, _) = stage.broadcast(0..5).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(stage.closed(), ["bad"]);
    stage.have(&healthy, 5);
}

#[tokio::test(start_paused = true)]
async fn a_post_that_the_deadline_cuts_off_closes_nobody() {
    let viewers = ids("v", 1);
    let stage = Stage::new(
        &viewers,
        |_, before, _| {
            if before < 60 { Status(200, 400) } else { Hang }
        },
    );
    let (failed, _) = stage.broadcast(0..crate::BATCH_SIZE).await;
    assert_eq!(failed.into_iter().collect::<Vec<_>>(), ["0060"]);
    assert!(stage.closed().is_empty());
    stage.have(&viewers, 60);
}

// The connection has the later record of the site that could be read.
#[tokio::test(start_paused = true)]
async fn a_site_that_could_not_be_read_is_sent_by_the_retry_to_a_connection_that_watches_two() {
    let stage = Stage::new(&[], |_, _, _| OK);
    stage.add("one", "v0", 60);
    stage.add("two", "v0", 60);
    *stage.world.unreadable.lock().unwrap() = Some("one");
    let messages = [("one", 0), ("two", 1), ("one", 2)];
    let (failed, _) = stage.broadcast_of(&messages).await;
    assert_eq!(failed.into_iter().collect::<Vec<_>>(), ["0000"]);
    assert_eq!(stage.delivered("v0"), ["0001"]);
    *stage.world.unreadable.lock().unwrap() = None;
    let (failed, _) = stage.broadcast_of(&messages).await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(stage.delivered("v0"), ["0001", "0000", "0002"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_cannot_be_closed_is_kept_and_its_record_reported() {
    for closing in [Status(500, 1), Status(429, 1), Hang] {
        let healthy = ids("v", 10);
        let stage = Stage::closing(&healthy, closing, |id, before, _| {
            if id == "bad" && before > 0 { Hang } else { OK }
        });
        stage.add("tst", "bad", 60);
        let (failed, took) = stage.broadcast(0..3).await;
        assert_eq!(failed.into_iter().collect::<Vec<_>>(), ["0001"]);
        assert!(stage.is_online("bad"));
        assert!(took < SECOND, "{took:?}");
        stage.have(&healthy, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_slows_down_is_not_silent() {
    let viewers = ids("v", 1);
    let stage = Stage::new(&viewers, |_, before, _| {
        Status(200, [100, 350, 900, 1400][before.min(3)])
    });
    let (failed, _) = stage.broadcast(0..6).await;
    assert!(failed.is_empty() && stage.closed().is_empty());
    stage.have(&viewers, 6);
    // The next batch remembers it.
    stage.broadcast(6..8).await;
    assert!(stage.closed().is_empty());
    stage.have(&viewers, 8);
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_stood_still_does_not_take_the_gateway_for_silent() {
    let viewers = ids("v", 1);
    let stage = Stage::new(&viewers, |_, _, _| Status(200, 1550));
    let broadcast = stage.broadcast(0..1);
    let stall = async {
        sleep(Duration::from_millis(300)).await;
        tokio::time::advance(Duration::from_millis(1200)).await;
    };
    let ((failed, _), ()) = tokio::join!(broadcast, stall);
    assert!(failed.is_empty());
    assert!(stage.closed().is_empty());
    stage.have(&viewers, 1);
}
