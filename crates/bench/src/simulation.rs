//! The fan-out under the limits of accounts, beyond what one machine can
//! measure. Seeded, so that it says the same every time.

use comfy_table::Table;
use comfy_table::presets;
use fastrand::Rng;

/// Requests/s of an account and region, for everything, and the burst
/// ("Amazon API Gateway quotas": account-level throttling).
const RATE: f64 = 10_000.0;
const BURST: f64 = 5_000.0;

/// What clients' connects and scripts' posts leave of it.
const SHARE: f64 = 0.9;

/// Seconds from a post to its answer: most take 10 ms, one in a hundred 60.
const POST: (f64, f64) = (0.010, 0.060);

/// Posts in flight, of one broadcaster.
const SIDE_BY_SIDE: f64 = 128.0;

/// The longest time that is simulated, in seconds.
const SECONDS: f64 = 120.0;

/// Viewers of one site, which gets messages at random times.
struct Case {
    viewers: u64,
    /// A second.
    messages: f64,
    /// Accounts, each with an API of its own and a broadcaster.
    accounts: u64,
}

pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "viewers",
        "messages/s",
        "accounts",
        "stored to last viewer, p50",
        "p99",
        "after 2 min",
    ]);
    for (viewers, messages) in [
        (1_000, 1.0),
        (10_000, 0.2),
        (10_000, 1.0),
        (100_000, 0.05),
        (100_000, 1.0),
        (1_000_000, 1.0),
    ] {
        for accounts in [1, 16, 160] {
            let case = Case {
                viewers,
                messages,
                accounts,
            };
            let (p50, p99, is_behind) = delays(&case);
            table.add_row([
                viewers.to_string(),
                messages.to_string(),
                accounts.to_string(),
                format!("{p50:.2} s"),
                format!("{p99:.2} s"),
                if is_behind {
                    "falls behind"
                } else {
                    "keeps up"
                }
                .to_owned(),
            ]);
        }
    }
    table
}

/// The delays of the messages of two minutes, and whether they grow.
fn delays(case: &Case) -> (f64, f64, bool) {
    let mut rng = Rng::with_seed(1);
    let viewers = case.viewers.div_ceil(case.accounts) as f64;
    // A token bucket, and when it was last looked at.
    let (mut tokens, mut looked) = (BURST, 0.0);
    let (mut stored, mut free) = (0.0, 0.0_f64);
    let mut delays = Vec::new();
    loop {
        // Times between messages are exponential.
        stored += -(1.0 - rng.f64()).ln() / case.messages;
        if stored > SECONDS {
            break;
        }
        // A broadcaster sends one batch after another.
        let begin = free.max(stored);
        tokens = (tokens + (begin - looked) * RATE * SHARE).min(BURST);
        let post = if rng.u8(0..100) == 0 { POST.1 } else { POST.0 };
        let by_places = viewers / SIDE_BY_SIDE * POST.0;
        let by_rate = (viewers - tokens).max(0.0) / (RATE * SHARE);
        let end = begin + by_places.max(by_rate) + post;
        tokens = (tokens + (end - begin) * RATE * SHARE - viewers).clamp(0.0, BURST);
        (looked, free) = (end, end);
        delays.push(end - stored);
    }
    let half = delays.len() / 2;
    let mean = |delays: &[f64]| delays.iter().sum::<f64>() / delays.len().max(1) as f64;
    let is_behind = mean(&delays[half..]) > 2.0 * mean(&delays[..half]) + 1.0;
    delays.sort_by(f64::total_cmp);
    let at = |part: f64| {
        delays
            .get((delays.len() as f64 * part) as usize)
            .copied()
            .unwrap_or_default()
    };
    (at(0.5), at(0.99), is_behind)
}
