//! The faulty world: an HTTP client between the functions and the two parts
//! that they call. What it does to a call follows from a seed.
//!
//! Its clock is tokio's paused one. The process's own clock stands still
//! beside it, so the rows of connections are given the age that they would
//! have.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use fastrand::Rng;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::{Instant, sleep};

use crate::CONNECTIONS_TABLE;

/// Longer than any caller waits for one answer.
const TOO_LATE: Duration = Duration::from_millis(2500);

/// What the functions call: the two tables and the management API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    Messages,
    Connections,
    Management,
}

impl Part {
    fn of(request: &HttpRequest) -> Self {
        let is_of_connections = || {
            let body = request.body().bytes().unwrap_or_default();
            String::from_utf8_lossy(body).contains(CONNECTIONS_TABLE)
        };
        match request.headers().get("x-amz-target") {
            None => Self::Management,
            Some(_) if is_of_connections() => Self::Connections,
            Some(_) => Self::Messages,
        }
    }
}

/// What becomes of one call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// An answer of this status instead of the call.
    Status(u16),
    /// DynamoDB's two errors for too many requests: 400 with a name.
    Throttling,
    Throughput,
    /// The connection ends before the call arrives.
    CutBefore,
    /// The call is carried out, then the connection ends.
    CutAfter,
    /// The call is carried out, and half of its answer comes.
    CutMidAnswer,
    /// It takes up to 200 ms longer.
    Delay,
    /// It is carried out, and the answer comes after the caller gave up.
    LateAnswer,
    /// It is carried out after the caller gave up.
    LateCall,
    /// Neither.
    Silence,
}

use Fault::{
    CutAfter, CutBefore, CutMidAnswer, Delay, LateAnswer, LateCall, Silence, Status, Throttling,
    Throughput,
};

const DATABASE_FAULTS: [Fault; 12] = [
    Status(429),
    Status(500),
    Status(503),
    Throttling,
    Throughput,
    CutBefore,
    CutAfter,
    CutMidAnswer,
    Delay,
    LateAnswer,
    LateCall,
    Silence,
];

/// Those that say nothing about the connection, and end at once. One that
/// waits is a silent client's, and closes its connection.
const QUICK_POST_FAULTS: [Fault; 6] = [
    Status(429),
    Status(500),
    Status(503),
    CutBefore,
    CutAfter,
    Delay,
];

const POST_FAULTS: [Fault; 10] = [
    Status(429),
    Status(500),
    Status(503),
    Status(403),
    CutBefore,
    CutAfter,
    Delay,
    LateAnswer,
    LateCall,
    Silence,
];

/// How a connection takes posts by its own fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sickness {
    Silent,
    Throttled,
    /// It fails every second time.
    Flapping,
    /// It may not be posted to for a while, which is never its own fault.
    Forbidden,
}

/// A time in which a part fails for everybody.
#[derive(Clone, Debug)]
pub struct Storm {
    pub part: Part,
    pub from: Duration,
    pub to: Duration,
    /// The part of its calls that fail.
    pub odds: f64,
    pub faults: Vec<Fault>,
}

/// What happens when, by the time since the start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The part of the calls that fail outside storms.
    pub database: f64,
    pub management: f64,
    pub storms: Vec<Storm>,
    /// Whether clients break, stop reading or fall silent.
    pub has_sick_clients: bool,
    /// From then on nothing fails.
    pub calm_at: Duration,
    /// What each call takes, in milliseconds.
    pub database_takes: RangeInclusive<u64>,
    pub management_takes: RangeInclusive<u64>,
}

impl Plan {
    /// Without a fault.
    pub fn calm() -> Self {
        Self {
            database: 0.0,
            management: 0.0,
            storms: Vec::new(),
            has_sick_clients: false,
            calm_at: Duration::MAX,
            database_takes: 1..=4,
            management_takes: 5..=20,
        }
    }

    /// The seed's plan for about this time. By turns: nothing fails, only the
    /// database, only single posts and clients, the whole management API, and
    /// everything.
    pub fn new(seed: u64, time: Duration) -> Self {
        let mut rng = Rng::with_seed(seed);
        let kind = seed % 8;
        let (is_database, is_management) = (matches!(kind, 1 | 2 | 5..), kind >= 3);
        let has_storms = kind != 0 && kind != 3;
        let mut storms = Vec::new();
        let mut storm = |parts: &[Part], faults: &[Fault]| {
            // One in eight lasts until records are given up.
            let length = match rng.u8(..8) {
                0 => 20.0 + 20.0 * rng.f64(),
                _ => 0.5 + 5.0 * rng.f64(),
            };
            let from = time.mul_f64(rng.f64() * 0.8);
            let mut faults = faults.to_vec();
            rng.shuffle(&mut faults);
            faults.truncate(rng.usize(1..=3));
            let odds = [0.5, 0.8, 1.0][rng.usize(..3)];
            // One of the parts, or all of them.
            let only = rng.usize(..=parts.len());
            for (number, part) in parts.iter().enumerate() {
                if only == number || only == parts.len() {
                    storms.push(Storm {
                        part: *part,
                        from,
                        to: from + Duration::from_secs_f64(length),
                        odds,
                        faults: faults.clone(),
                    });
                }
            }
        };
        if has_storms && is_database {
            for _ in 0..2 {
                storm(&[Part::Messages, Part::Connections], &DATABASE_FAULTS);
            }
        }
        if has_storms && is_management {
            storm(&[Part::Management], &POST_FAULTS);
        }
        let ends = storms.iter().map(|storm| storm.to);
        let calm_at = ends.chain([time]).max().unwrap_or_default();
        Self {
            database: if is_database { 0.1 * rng.f64() } else { 0.0 },
            management: if is_management { 0.05 * rng.f64() } else { 0.0 },
            storms,
            has_sick_clients: is_management,
            calm_at,
            ..Self::calm()
        }
    }

    /// Whether nothing fails at all.
    pub fn is_calm(&self) -> bool {
        self.database == 0.0 && self.management == 0.0 && self.storms.is_empty()
    }

    /// The longest storm.
    pub fn longest_storm(&self) -> Duration {
        let lengths = self.storms.iter().map(|storm| storm.to - storm.from);
        lengths.max().unwrap_or_default()
    }

    /// Whether the management API failed for everybody before this time.
    pub fn has_stormed(&self, part: Part, until: Duration) -> bool {
        let mut storms = self.storms.iter();
        storms.any(|storm| storm.part == part && storm.from <= until)
    }
}

/// The world of one run.
pub struct World {
    pub plan: Plan,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    /// Whether calls fail yet.
    is_on: bool,
    sick: HashMap<String, Sickness>,
    /// When each attempt of `$connect` was, by the time that its row says.
    attempts: HashMap<String, Instant>,
    /// The time that a row says, by the one that was shown instead.
    shown: HashMap<String, String>,
    posts: HashMap<String, u32>,
    counts: BTreeMap<(Part, Fault), u64>,
    log: Vec<String>,
}

impl World {
    pub fn new(seed: u64, plan: Plan) -> Arc<Self> {
        Arc::new(Self {
            plan,
            started: Instant::now(),
            state: Mutex::new(State {
                rng: Rng::with_seed(seed ^ 0x5eed),
                is_on: false,
                sick: HashMap::new(),
                attempts: HashMap::new(),
                shown: HashMap::new(),
                posts: HashMap::new(),
                counts: BTreeMap::new(),
                log: Vec::new(),
            }),
        })
    }

    /// Puts this world in front of a client.
    pub fn around(self: &Arc<Self>, client: SharedHttpClient) -> SharedHttpClient {
        SharedHttpClient::new(Faulty {
            world: self.clone(),
            client,
        })
    }

    /// From now on calls may fail.
    pub fn begin(&self) {
        self.lock().is_on = true;
    }

    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn since_start(&self, at: Instant) -> Duration {
        at - self.started
    }

    pub fn is_calm(&self) -> bool {
        self.now() >= self.plan.calm_at
    }

    /// From now on this connection fails.
    pub fn falls_sick(&self, id: &str, sickness: Sickness) {
        self.note(|| format!("{id} is {sickness:?}"));
        self.lock().sick.insert(id.to_owned(), sickness);
    }

    /// Adds a line to the log of the failure message.
    pub fn note(&self, line: impl Fn() -> String) {
        let line = format!("{:9.3} {}", self.now().as_secs_f64(), line());
        self.lock().log.push(line);
    }

    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// How many faults of each kind there were.
    pub fn counts(&self) -> BTreeMap<(Part, Fault), u64> {
        self.lock().counts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What happens to a call, and how long it takes besides.
    fn fate(&self, part: Part, request: &HttpRequest) -> (Option<Fault>, Duration) {
        let now = self.now();
        let mut state = self.lock();
        let takes = match part {
            Part::Messages | Part::Connections => self.plan.database_takes.clone(),
            Part::Management => self.plan.management_takes.clone(),
        };
        let takes = Duration::from_millis(state.rng.u64(takes));
        if !state.is_on {
            return (None, Duration::ZERO);
        }
        let id = connection_id(request);
        if request.method() == "POST"
            && let Some(sickness) = state.sick.get(id).copied()
        {
            let posts = state.posts.entry(id.to_owned()).or_default();
            *posts += 1;
            let fault = match sickness {
                Sickness::Silent => Some(Silence),
                Sickness::Throttled => Some(Status(429)),
                Sickness::Flapping => (*posts % 2 == 1).then_some(Status(500)),
                // About two attempts of a batch.
                Sickness::Forbidden => (*posts <= 15).then_some(Status(403)),
            };
            return (fault, takes);
        }
        if now >= self.plan.calm_at {
            return (None, takes);
        }
        let mut storms = self.plan.storms.iter();
        let storm =
            storms.find(|storm| storm.part == part && (storm.from..storm.to).contains(&now));
        let (odds, faults): (f64, &[Fault]) = match (storm, part) {
            (Some(storm), _) => (storm.odds, &storm.faults),
            (None, Part::Management) => (self.plan.management, &QUICK_POST_FAULTS),
            (None, _) => (self.plan.database, &DATABASE_FAULTS),
        };
        if state.rng.f64() >= odds {
            return (None, takes);
        }
        let fault = state.rng.choice(faults.iter().copied());
        if let Some(fault) = fault {
            *state.counts.entry((part, fault)).or_default() += 1;
            let target = request.headers().get("x-amz-target").unwrap_or(id);
            let line = format!("{:9.3} {part:?} {target} {fault:?}", now.as_secs_f64());
            state.log.push(line);
        }
        (fault, takes)
    }

    /// Remembers when a connection's row was put, and turns the time in the
    /// condition of a delete back into the one that the row says.
    fn read_started(&self, request: &mut HttpRequest) {
        let body = request.body().bytes().unwrap_or_default();
        let Ok(mut call) = serde_json::from_slice::<Value>(body) else {
            return;
        };
        let mut state = self.lock();
        let writes = &call["RequestItems"][CONNECTIONS_TABLE];
        let row = &writes[0]["PutRequest"]["Item"];
        if let Some(started) = row["ConnectionStartedUTC"]["S"].as_str() {
            state.attempts.insert(started.to_owned(), Instant::now());
        }
        let shown = call.pointer_mut("/ExpressionAttributeValues/:started/S");
        if let Some(shown) = shown {
            *shown = state.shown[shown.as_str().unwrap()].clone().into();
            *request.body_mut() = SdkBody::from(call.to_string());
        }
    }

    /// Gives each row of a connection the age that it has by this world's
    /// clock.
    fn age_rows(&self, response: &mut HttpResponse) {
        let Some(mut answer) = response
            .body()
            .bytes()
            .and_then(|body| serde_json::from_slice::<Value>(body).ok())
        else {
            return;
        };
        let Some(items) = answer.get_mut("Items").and_then(Value::as_array_mut) else {
            return;
        };
        let format = format_description!(
            version = 2,
            "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]"
        );
        let mut state = self.lock();
        let mut is_changed = false;
        for item in items {
            let started = item
                .pointer("/ConnectionStartedUTC/S")
                .and_then(Value::as_str);
            let Some(started) = started.map(str::to_owned) else {
                continue;
            };
            let shown = OffsetDateTime::now_utc() - state.attempts[&started].elapsed();
            let shown = shown.format(format).unwrap();
            item["ConnectionStartedUTC"] = json!({"S": shown});
            state.shown.insert(shown, started);
            is_changed = true;
        }
        if is_changed {
            *response.body_mut() = SdkBody::from(answer.to_string());
        }
    }
}

fn connection_id(request: &HttpRequest) -> &str {
    let path = request.uri().rsplit_once('/');
    path.map_or("", |(_, id)| id)
}

struct Faulty {
    world: Arc<World>,
    client: SharedHttpClient,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl HttpClient for Faulty {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(FaultyConnector {
            world: self.world.clone(),
            connector: self.client.http_connector(settings, components),
        })
    }
}

struct FaultyConnector {
    world: Arc<World>,
    connector: SharedHttpConnector,
}

impl fmt::Debug for FaultyConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyConnector")
    }
}

impl HttpConnector for FaultyConnector {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let (world, connector) = (self.world.clone(), self.connector.clone());
        HttpConnectorFuture::new(async move {
            let part = Part::of(&request);
            let target = request.headers().get("x-amz-target");
            let is_query = target.is_some_and(|target| target.ends_with(".Query"));
            if part == Part::Connections {
                world.read_started(&mut request);
            }
            let (fault, takes) = world.fate(part, &request);
            sleep(takes).await;
            let cut = || ConnectorError::io("the connection was cut".into());
            match fault {
                Some(Status(status)) => return Ok(answer(status, "{}".to_owned())),
                Some(Throttling) => return Ok(named("ThrottlingException")),
                Some(Throughput) => return Ok(named("ProvisionedThroughputExceededException")),
                Some(CutBefore) => return Err(cut()),
                Some(Silence) => return std::future::pending().await,
                Some(LateCall) => {
                    let late = async move {
                        sleep(TOO_LATE).await;
                        // Nobody is there to hear the answer.
                        let _ = connector.call(request).await;
                    };
                    tokio::spawn(late);
                    return std::future::pending().await;
                }
                Some(Delay) => {
                    let longer = world.lock().rng.u64(..200);
                    sleep(Duration::from_millis(longer)).await;
                }
                Some(CutAfter | CutMidAnswer | LateAnswer) | None => {}
            }
            let mut response = connector.call(request).await?;
            if is_query {
                world.age_rows(&mut response);
            }
            match fault {
                Some(CutAfter) => Err(cut()),
                Some(CutMidAnswer) => {
                    let body = response.body().bytes().unwrap_or_default();
                    let half = body[..body.len() / 2].to_vec();
                    *response.body_mut() = SdkBody::from(half);
                    Ok(response)
                }
                Some(LateAnswer) => {
                    sleep(TOO_LATE).await;
                    Ok(response)
                }
                _ => Ok(response),
            }
        })
    }
}

fn answer(status: u16, body: String) -> HttpResponse {
    HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body))
}

fn named(error: &str) -> HttpResponse {
    let name = format!("com.amazonaws.dynamodb.v20120810#{error}");
    answer(
        400,
        json!({"__type": name, "message": "Slow down."}).to_string(),
    )
}
