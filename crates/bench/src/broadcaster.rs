//! The broadcaster.

use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::endpoint::Transport;
use crate::functions::World;
use crate::lambda::Function;
use crate::process::Share;
use crate::raw::{self, pause};
use crate::report::{Report, Times};
use crate::{Plan, Result, events, tables};

/// A whole core: 1,769 MB of memory ("Configure Lambda function memory").
const WHOLE: f64 = 1.0;

/// What Lambda gives to 512 MB.
const OF_512_MB: f64 = 512.0 / 1769.0;

/// Posts of the floor's loop at the same time, as in the first broadcasters.
const SIDE_BY_SIDE: &str = "64";

struct Case {
    connections: usize,
    messages: usize,
    /// Milliseconds that the gateway takes for a post.
    delay: u64,
    transport: Transport,
    cores: f64,
}

const fn case(
    connections: usize,
    messages: usize,
    delay: u64,
    transport: Transport,
    cores: f64,
) -> Case {
    Case {
        connections,
        messages,
        delay,
        transport,
        cores,
    }
}

use Transport::{Http1, Http2, Plain};

const CASES: [Case; 23] = [
    case(1, 1, 0, Plain, WHOLE),
    case(100, 1, 0, Plain, WHOLE),
    case(1000, 1, 0, Plain, WHOLE),
    case(10_000, 1, 0, Plain, WHOLE),
    case(1, 20, 0, Plain, WHOLE),
    case(100, 20, 0, Plain, WHOLE),
    case(1000, 20, 0, Plain, WHOLE),
    case(1, 1, 10, Plain, WHOLE),
    case(100, 1, 10, Plain, WHOLE),
    case(1000, 1, 10, Plain, WHOLE),
    case(10_000, 1, 10, Plain, WHOLE),
    case(1, 20, 10, Plain, WHOLE),
    case(100, 20, 10, Plain, WHOLE),
    case(1000, 20, 10, Plain, WHOLE),
    case(100, 1, 10, Http1, WHOLE),
    case(1000, 1, 10, Http1, WHOLE),
    case(1000, 20, 10, Http1, WHOLE),
    case(1000, 1, 10, Http1, OF_512_MB),
    case(1000, 20, 10, Http1, OF_512_MB),
    case(100, 1, 10, Http2, WHOLE),
    case(1000, 1, 10, Http2, WHOLE),
    case(1000, 1, 10, Http2, OF_512_MB),
    case(1000, 20, 10, Http2, OF_512_MB),
];

impl Case {
    fn name(&self) -> String {
        let transport = match self.transport {
            Plain => "",
            Http1 => ", TLS",
            Http2 => ", TLS and HTTP/2",
        };
        let share = if self.cores < WHOLE {
            ", 0.29 of a core"
        } else {
            ""
        };
        let Self {
            connections,
            messages,
            delay,
            ..
        } = self;
        format!("broadcaster: {messages} to {connections}, {delay} ms{transport}{share}")
    }
}

pub async fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    for case in &CASES {
        if plan.is_short && (case.connections > 100 || case.messages > 1) {
            continue;
        }
        let share = Share::of(case.cores);
        if share.is_none() && case.cores < WHOLE {
            eprintln!("{}: no share of a core can be given here", case.name());
            continue;
        }
        // A whole core is the machine's, not a share of it.
        let share = share.filter(|_| case.cores < WHOLE);
        let world = World::start(case.transport, 0, case.delay).await?;
        let site = format!("site{}", case.connections);
        tables::add_connections(&world, &site, case.connections).await?;
        for run in 0..plan.runs {
            eprintln!("{}, run {} of {}", case.name(), run + 1, plan.runs);
            for build in 0..plan.builds.len() {
                broadcast(plan, report, &world, case, &site, build, share.as_ref()).await?;
            }
            floor(report, &world, case, share.as_ref()).await?;
        }
    }
    if !plan.is_short {
        for run in 0..plan.runs {
            eprintln!(
                "broadcaster: 1,000 messages/s, run {} of {}",
                run + 1,
                plan.runs
            );
            for build in 0..plan.builds.len() {
                sustained(plan, report, build).await?;
            }
        }
    }
    Ok(())
}

async fn broadcast(
    plan: &Plan,
    report: &mut Report,
    world: &World,
    case: &Case,
    site: &str,
    build: usize,
    share: Option<&Share>,
) -> Result<()> {
    let name = case.name();
    let sites = [site.to_owned()];
    let binary = plan.binary(build, "broadcaster");
    let mut function = Function::start(&binary, &world.environment(), share).await?;
    let (first, answer) = function
        .call(events::stream(&sites, 0, case.messages))
        .await?;
    check(&answer)?;
    pause().await;
    let calls = if case.connections * case.messages < 1000 {
        20
    } else {
        1
    };
    let mut times = Times::new()?;
    let before = world.posts().await?;
    let cpu = function.process.cpu();
    for number in 1..=calls {
        let event = events::stream(&sites, number * case.messages, case.messages);
        let (time, answer) = function.call(event).await?;
        check(&answer)?;
        times.add(time)?;
    }
    let cpu = function.process.cpu().saturating_sub(cpu).as_secs_f64() * 1e3;
    let posts = calls * case.connections * case.messages;
    let came = world.posts().await? - before;
    if came != posts {
        return Err(format!("{name}: {came} posts came of {posts}").into());
    }
    report.add(build, &name, "first batch", "ms", first.as_secs_f64() * 1e3);
    report.add(build, &name, "batch", "ms", times.at(0.5));
    report.add(
        build,
        &name,
        "processor time of a post",
        "ms",
        cpu / posts as f64,
    );
    report.add(
        build,
        &name,
        "most memory",
        "MB",
        function.process.peak_memory() as f64 / 1e6,
    );
    Ok(())
}

/// A bare loop that posts the same bytes to the same endpoint, signed.
async fn floor(
    report: &mut Report,
    world: &World,
    case: &Case,
    share: Option<&Share>,
) -> Result<()> {
    let name = case.name();
    let count = case.connections * case.messages;
    // Too few posts measure only the clock.
    let count = count.max(100);
    let to = format!("{}/dev/@connections/L0SM9c$NFvHcCIhw=", world.gateway);
    let frame = r#"{"log_level": "info", "message": "Slewing to target 17, airmass 1.27, 42 s", "site": "site1000", "timestamp": "1604514063", "id": "1604514063.418301"}"#;
    let count_text = count.to_string();
    let side_by_side = if case.connections == 1 {
        "1"
    } else {
        SIDE_BY_SIDE
    };
    let arguments = [
        "--to",
        &to,
        "--body",
        frame,
        "--count",
        &count_text,
        "--side-by-side",
        side_by_side,
        "--sign",
    ];
    let took = raw::measure(&arguments, &world.trust(), share).await?;
    let posts = (case.connections * case.messages) as f64;
    report.floor(
        &name,
        "batch",
        "ms",
        took.seconds * 1e3 * posts / count as f64,
    );
    report.floor(
        &name,
        "processor time of a post",
        "ms",
        took.cpu * 1e3 / count as f64,
    );
    Ok(())
}

/// What one account may send: 1,000 messages/s over 20 sites with 10 viewers
/// each, so 10,000 posts/s, in batches as the event source mapping makes them.
async fn sustained(plan: &Plan, report: &mut Report, build: usize) -> Result<()> {
    const RATE: usize = 1000;
    const SECONDS: usize = 10;
    /// The event source mapping's.
    const BATCH: usize = 100;
    let world = World::start(Plain, 5, 10).await?;
    let sites: Vec<_> = (0..20).map(|site| format!("busy{site}")).collect();
    for site in &sites {
        tables::add_connections(&world, site, 10).await?;
    }
    let binary = plan.binary(build, "broadcaster");
    let mut function = Function::start(&binary, &world.environment(), None).await?;
    function.call(events::stream(&sites, 0, 20)).await?;
    let started = tokio::time::Instant::now();
    let stored = |number: usize| started + Duration::from_secs_f64(number as f64 / RATE as f64);
    let mut times = Times::new()?;
    let mut next = 0;
    while next < RATE * SECONDS {
        sleep_until(stored(next)).await;
        let there = (started.elapsed().as_secs_f64() * RATE as f64) as usize + 1;
        let count = (there.min(RATE * SECONDS) - next).min(BATCH);
        let (_, answer) = function
            .call(events::stream(&sites, 1000 + next, count))
            .await?;
        check(&answer)?;
        for number in next..next + count {
            times.add(Instant::now() - stored(number).into_std())?;
        }
        next += count;
    }
    let name = "broadcaster: 1,000 messages/s, 20 sites, 10 viewers each, 10 ms, tables 5 ms";
    report.add(
        build,
        name,
        "stored to last viewer, p50",
        "ms",
        times.at(0.5),
    );
    report.add(
        build,
        name,
        "stored to last viewer, p99",
        "ms",
        times.at(0.99),
    );
    report.add(
        build,
        name,
        "messages/s",
        "",
        (RATE * SECONDS) as f64 / started.elapsed().as_secs_f64(),
    );
    Ok(())
}

pub fn check(answer: &[u8]) -> Result<()> {
    let answer: serde_json::Value = serde_json::from_slice(answer)?;
    match answer
        .get("batchItemFailures")
        .and_then(|failures| failures.as_array())
    {
        Some(failures) if failures.is_empty() => Ok(()),
        _ => Err(format!("broadcaster: {answer}").into()),
    }
}
