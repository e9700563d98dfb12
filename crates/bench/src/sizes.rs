//! What each memory size takes and costs.

use crate::endpoint::Transport;
use crate::functions::{WORKS, World, check};
use crate::lambda::Function;
use crate::process::Share;
use crate::report::{Report, Times};
use crate::{Plan, Result, broadcaster, events, tables};

/// Memory sizes in MB. With 1,769 a function has a whole core.
const SIZES: [u32; 5] = [128, 256, 512, 1024, 1769];
const WHOLE_CORE: f64 = 1769.0;

/// Milliseconds of a call of DynamoDB, and of a post.
const TABLE_DELAY: u64 = 5;
const GATEWAY_DELAY: u64 = 10;

/// Dollars of a second with 1 GB, and of a million calls ("AWS Lambda
/// pricing", arm64, us-east-1).
const GIGABYTE_SECOND: f64 = 0.000_013_333_4;
const MILLION_CALLS: f64 = 0.2;

const RECENT: usize = 1000;
const CONNECTIONS: [usize; 2] = [100, 1000];
const CALLS: usize = 100;

/// Measures the functions over TLS. A function starts with a whole core and has
/// its share from then on, as on Lambda.
pub async fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    if Share::of(1.0).is_none() {
        eprintln!("sizes: no share of a core can be given here");
        return Ok(());
    }
    let world = World::start(Transport::Http1, TABLE_DELAY, GATEWAY_DELAY).await?;
    tables::add_messages(&world, "recent", RECENT).await?;
    for connections in CONNECTIONS {
        tables::add_connections(&world, &format!("site{connections}"), connections).await?;
    }
    for run in 0..plan.runs {
        for (index, size) in SIZES.into_iter().enumerate() {
            // A debug build needs the whole core to finish its batch in time.
            if plan.is_short && index + 1 < SIZES.len() {
                continue;
            }
            eprintln!("sizes: {size} MB, run {} of {}", run + 1, plan.runs);
            let first = (run as usize * SIZES.len() + index) * 1000;
            for work in WORKS.iter().filter(|work| work.operation.is_some()) {
                let event = |number| (work.event)(first + number);
                let check = |answer: &[u8]| check(work.binary, answer);
                let calls = call(plan, &world, size, work.binary, CALLS, event, check).await?;
                calls.add(report, &format!("{}, {size} MB", work.binary));
            }
            for connections in CONNECTIONS {
                let sites = [format!("site{connections}")];
                let event = |number| events::stream(&sites, first + number, 1);
                let check = broadcaster::check;
                let count = CALLS * 10 / connections;
                let calls = call(plan, &world, size, "broadcaster", count, event, check).await?;
                calls.add(report, &format!("broadcaster to {connections}, {size} MB"));
            }
        }
    }
    Ok(())
}

/// What the calls of a function took.
struct Calls {
    /// Start and first call, in milliseconds.
    first: f64,
    warm: Times,
    /// Of a million calls.
    dollars: f64,
}

impl Calls {
    fn add(&self, report: &mut Report, work: &str) {
        report.add(0, work, "start and first call", "ms", self.first);
        report.add(0, work, "warm call, p50", "ms", self.warm.at(0.5));
        report.add(0, work, "warm call, p99", "ms", self.warm.at(0.99));
        report.add(0, work, "a million calls", "dollars", self.dollars);
    }
}

async fn call(
    plan: &Plan,
    world: &World,
    size: u32,
    binary: &str,
    count: usize,
    event: impl Fn(usize) -> String,
    check: impl Fn(&[u8]) -> Result<()>,
) -> Result<Calls> {
    let share = Share::of((f64::from(size) / WHOLE_CORE).min(1.0)).ok_or("no share of a core")?;
    let binary = plan.binary(0, binary);
    let mut function = Function::start(&binary, &world.environment(), None).await?;
    share.take(&function.process)?;
    let (first, answer) = function.call(event(0)).await?;
    check(&answer)?;
    let count = if plan.is_short { 1 } else { count };
    let mut warm = Times::new()?;
    let mut billed = 0.0;
    for number in 1..=count {
        let (time, answer) = function.call(event(number)).await?;
        check(&answer)?;
        warm.add(time)?;
        // In whole milliseconds.
        billed += (time.as_secs_f64() * 1e3).ceil() / 1e3;
    }
    let gigabyte_seconds = billed / count as f64 * 1e6 * f64::from(size) / 1024.0;
    Ok(Calls {
        first: (function.ready + first).as_secs_f64() * 1e3,
        warm,
        dollars: gigabyte_seconds * GIGABYTE_SECOND + MILLION_CALLS,
    })
}
