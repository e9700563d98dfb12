//! Records that nobody can read, and outages in the middle of a batch: the
//! stream goes on, in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use logstream_core::message::MAX_FRAME_BYTES;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use super::world::{Fault, Part, Plan, Storm, World};
use super::{Received, Written, connect, history, post};
use crate::functions::{Function, invoke};
use crate::sockets::Outbox;
use crate::{App, MESSAGES_TABLE, Options, in_process, sdk_config};

/// Longer than anything that is tested may take.
const PATIENCE: Duration = Duration::from_secs(300);

struct Stage {
    app: Arc<App>,
    world: Arc<World>,
    log: Written,
    _log: tracing::subscriber::DefaultGuard,
}

impl Stage {
    async fn new(plan: Plan) -> Self {
        let (log, guard) = Written::capture();
        let world = World::new(1, plan);
        let app = App::new(Options::default(), |client| world.around(client));
        let app = app.await.unwrap();
        app.start().await.unwrap();
        Self {
            app,
            world,
            log,
            _log: guard,
        }
    }

    /// A client of the site that has been connected for a while.
    async fn viewer(&self, id: &str, site: &str) -> Outbox {
        let outbox = connect(&self.app, id, site).await.unwrap();
        sleep(Duration::from_secs(3)).await;
        outbox
    }

    async fn send(&self, site: &str, number: usize) {
        let body = json!({"site": site, "log_message": number.to_string(), "timestamp": number});
        assert_eq!(post(&self.app, body.to_string()).await, 200);
    }

    /// Writes a row of the messages table, as somebody else might.
    async fn write(&self, site: &str, key: usize, attributes: &[(&str, AttributeValue)]) {
        let client = Client::new(&sdk_config(in_process::client(self.app.database.api())));
        let mut item: HashMap<_, _> = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        item.insert("site".to_owned(), AttributeValue::S(site.to_owned()));
        item.insert("timestamp".to_owned(), AttributeValue::N(key.to_string()));
        let put = client.put_item().table_name(MESSAGES_TABLE);
        put.set_item(Some(item)).send().await.unwrap();
    }

    fn given_up(&self) -> u64 {
        self.app.progress.given_up.load(Ordering::Relaxed)
    }
}

/// The next frames of a client, as many as are expected.
async fn frames(outbox: &mut Outbox, site: &str, count: usize) -> Vec<usize> {
    let deadline = Instant::now() + PATIENCE;
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let frame = timeout_at(deadline, outbox.next()).await;
        let frame = frame.unwrap_or_else(|_| panic!("only {numbers:?} came"));
        let frame = frame.unwrap();
        outbox.sent(frame.len());
        numbers.push(Received::read(&frame, site).number);
    }
    numbers
}

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// Both tables fail between these seconds.
fn outage(from: u64, to: u64) -> Plan {
    let storm = |part| Storm {
        part,
        from: Duration::from_secs(from),
        to: Duration::from_secs(to),
        odds: 1.0,
        faults: vec![Fault::Status(500)],
    };
    Plan {
        storms: [Part::Messages, Part::Connections].map(storm).into(),
        ..Plan::calm()
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_no_messages_are_logged_and_hold_up_nobody() {
    let stage = Stage::new(Plan::calm()).await;
    let mut viewer = stage.viewer("a", "tst").await;
    let mut other = stage.viewer("b", "oth").await;
    stage.send("tst", 1).await;
    let level = ("log_level", text("info"));
    let number = AttributeValue::N("1".to_owned());
    let poison: [&[_]; 5] = [
        &[("message", AttributeValue::Bool(true))],
        &[("message", number.clone()), level.clone()],
        &[
            ("message", AttributeValue::M(HashMap::new())),
            level.clone(),
        ],
        &[
            ("message", text("x".repeat(MAX_FRAME_BYTES))),
            level.clone(),
        ],
        &[("message", AttributeValue::L(vec![number; 1000])), level],
    ];
    for (key, attributes) in poison.iter().enumerate() {
        stage.write("tst", 100 + key, attributes).await;
        // The same batch goes on with other sites.
        stage.send("oth", 2 + key).await;
    }
    stage.send("tst", 9).await;
    assert_eq!(frames(&mut viewer, "tst", 2).await, [1, 9]);
    assert_eq!(frames(&mut other, "oth", 5).await, [2, 3, 4, 5, 6]);
    let log = stage.log.text();
    let skipped = log
        .lines()
        .filter(|line| line.contains("stream record cannot be read, skipped"));
    assert_eq!(
        skipped.filter(|line| line.contains(" ERROR ")).count(),
        5,
        "{log}"
    );
    assert_eq!(stage.given_up(), 0);
}

#[tokio::test(start_paused = true)]
async fn records_of_unknown_shapes_hold_up_nobody() {
    let stage = Stage::new(Plan::calm()).await;
    let mut viewer = stage.viewer("a", "tst").await;
    let record = |number: usize, sequence_number: &str| {
        json!({"eventName": "INSERT", "eventID": "e", "awsRegion": "local", "dynamodb": {
            "SequenceNumber": sequence_number,
            "ApproximateCreationDateTime": 1_604_514_063,
            "SizeBytes": 1,
            "NewImage": {
                "site": {"S": "tst"}, "timestamp": {"N": "7"}, "TimeToLive": {"N": "99999999999"},
                "message": {"S": number.to_string()}, "log_level": {"S": "info"},
            },
        }})
    };
    let with = |path: &str, value: Value| {
        let mut record = record(0, "1");
        *record.pointer_mut(path).unwrap() = value;
        record
    };
    // The sequence numbers are in no order: that of the batch counts.
    let records = json!([
        null, 7, [], {}, "INSERT", {"eventName": "INSERT"},
        record(1, "900"),
        with("/eventName", json!("MODIFY")),
        with("/eventName", json!("REMOVE")),
        with("/eventName", json!(7)),
        with("/dynamodb", json!([])),
        record(2, "20"),
        with("/dynamodb/SequenceNumber", json!(null)),
        with("/dynamodb/NewImage", json!({"site": {"S": "tst"}})),
        with("/dynamodb/NewImage/site", json!({"X": "tst"})),
        with("/dynamodb/NewImage/timestamp", json!({"N": "never"})),
        with("/dynamodb/NewImage/message", json!({"S": "x".repeat(MAX_FRAME_BYTES)})),
        record(3, "100"),
        record(4, "100"),
    ]);
    for event in [
        json!({"Records": records}),
        json!({"Records": []}),
        json!({}),
    ] {
        let answer = invoke(&stage.app, Function::Broadcaster, &event).await;
        assert_eq!(answer.unwrap(), json!({"batchItemFailures": []}));
    }
    assert_eq!(frames(&mut viewer, "tst", 4).await, [1, 2, 3, 4]);
    let log = stage.log.text();
    let skipped = log.matches("stream record cannot be read, skipped").count();
    assert_eq!(skipped, 7, "{log}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_tables_in_the_middle_of_a_batch_loses_nothing() {
    // What is sent within half a second takes 1.5 s.
    let plan = Plan {
        management_takes: 20..=20,
        ..outage(7, 12)
    };
    let stage = Stage::new(plan).await;
    stage.world.begin();
    let mut viewer = stage.viewer("a", "tst").await;
    let mut other = stage.viewer("b", "oth").await;
    let posts = async {
        for number in 0..150 {
            stage.send(["tst", "oth"][number % 2], number).await;
        }
        assert!(stage.world.now() < Duration::from_secs(7));
    };
    let (.., even, odd) = tokio::join!(
        posts,
        frames(&mut viewer, "tst", 75),
        frames(&mut other, "oth", 75)
    );
    assert!(stage.world.now() > Duration::from_secs(12));
    assert!(even.into_iter().eq((0..150).step_by(2)));
    assert!(odd.into_iter().eq((1..150).step_by(2)));
    assert_eq!(stage.given_up(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_long_outage_makes_undeliverable_is_counted_and_found_in_the_history() {
    let stage = Stage::new(outage(8, 60)).await;
    stage.world.begin();
    let mut viewer = stage.viewer("a", "tst").await;
    stage.send("tst", 1).await;
    assert_eq!(frames(&mut viewer, "tst", 1).await, [1]);
    sleep(Duration::from_secs(5)).await;
    let expires = AttributeValue::N("99999999999".to_owned());
    let attributes = [
        ("message", text("2")),
        ("log_level", text("info")),
        ("TimeToLive", expires),
    ];
    stage.write("tst", 2, &attributes).await;
    sleep(Duration::from_secs(60)).await;
    stage.send("tst", 3).await;
    // The viewer is still connected, and the next message comes.
    assert_eq!(frames(&mut viewer, "tst", 1).await, [3]);
    assert!(!viewer.close.is_cancelled());
    assert_eq!(stage.given_up(), 1);
    assert_eq!(stage.log.given_up().len(), 1);
    let history = history(stage.app.clone(), "tst".to_owned()).await;
    assert_eq!(history.unwrap(), [3, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_stored_through_an_outage_of_two_seconds() {
    let stage = Stage::new(outage(3, 5)).await;
    stage.world.begin();
    sleep(Duration::from_secs(3)).await;
    stage.send("tst", 1).await;
    assert!(stage.world.now() >= Duration::from_secs(5));
}
