//! How much of the others' faults a healthy client notices.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::world::{Fault, Part, Plan, Sickness, Storm, World};
use super::{Received, connect, post};
use crate::{App, Options};

/// One of them is silent in the faulty world: 2 %.
const CLIENTS: usize = 50;
const MESSAGES: usize = 200;

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(100);

/// The messages of the first second: a silent connection is closed after 0.6 s,
/// and until then its messages hold up those that follow.
const FIRST: usize = 10;

/// The times from POST to frame of all frames to the clients that are healthy,
/// each with the number of its message.
async fn times(plan: Plan) -> Vec<(usize, Duration)> {
    let is_faulty = !plan.is_calm();
    let world = World::new(1, plan);
    let app = App::new(Options::default(), |client| world.around(client));
    let app = app.await.unwrap();
    app.start().await.unwrap();
    let finish = CancellationToken::new();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let id = format!("client{number}");
        let mut outbox = connect(&app, &id, "tst").await.unwrap();
        if is_faulty && number == 0 {
            world.falls_sick(&id, Sickness::Silent);
            continue;
        }
        let finish = finish.clone();
        clients.spawn(async move {
            let mut frames = Vec::new();
            let close = outbox.close.clone();
            loop {
                tokio::select! {
                    Some(frame) = outbox.next() => frames.push(Received::read(&frame, "tst")),
                    () = close.cancelled() => panic!("{id} was closed"),
                    () = finish.cancelled() => return frames,
                }
            }
        });
    }
    // From now on no connection is new.
    sleep(Duration::from_secs(3)).await;
    world.begin();
    let mut posted = Vec::new();
    let mut posts = JoinSet::new();
    for number in 0..MESSAGES {
        posted.push(Instant::now());
        let app = app.clone();
        let body = json!({"site": "tst", "log_message": number.to_string(), "timestamp": number});
        posts.spawn(async move { assert_eq!(post(&app, body.to_string()).await, 200) });
        sleep(PAUSE).await;
    }
    posts.join_all().await;
    sleep(Duration::from_secs(3)).await;
    finish.cancel();
    let mut times = Vec::new();
    for frames in clients.join_all().await {
        let mut is_there = [false; MESSAGES];
        for frame in frames {
            if !std::mem::replace(&mut is_there[frame.number], true) {
                times.push((frame.number, frame.at - posted[frame.number]));
            }
        }
        assert!(is_there.iter().all(|is_there| *is_there));
    }
    app.stop.cancel();
    app.tasks.close();
    app.tasks.wait().await;
    times
}

/// The times of the messages from this one on, sorted.
fn since(first: usize, times: &[(usize, Duration)]) -> Vec<Duration> {
    let times = times.iter().filter(|(number, _)| *number >= first);
    let mut times: Vec<_> = times.map(|(_, time)| *time).collect();
    times.sort();
    times
}

fn at(times: &[Duration], part: f64) -> Duration {
    times[((times.len() - 1) as f64 * part) as usize]
}

#[tokio::test(start_paused = true)]
async fn failing_posts_and_dead_connections_at_most_double_the_time_of_the_healthy() {
    let calm = Plan {
        database_takes: 5..=5,
        management_takes: 20..=20,
        ..Plan::calm()
    };
    let faulty = Plan {
        storms: vec![Storm {
            part: Part::Management,
            from: Duration::ZERO,
            to: Duration::MAX,
            odds: 0.05,
            faults: [429, 500, 503].map(Fault::Status).into(),
        }],
        ..calm.clone()
    };
    let calm = times(calm).await;
    let faulty = times(faulty).await;
    // A post that fails twice is one of 400, and takes longer.
    for (what, first, most) in [("all", 0, 0.95), ("after the first second", FIRST, 0.99)] {
        let (calm, faulty) = (since(first, &calm), since(first, &faulty));
        println!("{what}:");
        for part in [0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
            let (calm, faulty) = (at(&calm, part), at(&faulty, part));
            println!(
                "{:6.1} %: {calm:?} without faults, {faulty:?} with",
                100.0 * part
            );
        }
        let mean = |times: &[Duration]| times.iter().sum::<Duration>() / times.len() as u32;
        let (calm_mean, faulty_mean) = (mean(&calm), mean(&faulty));
        println!("    mean: {calm_mean:?} without faults, {faulty_mean:?} with");
        assert!(faulty_mean <= 2 * calm_mean);
        assert!(at(&faulty, most) <= 2 * at(&calm, most));
    }
}
