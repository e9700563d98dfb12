//! The functions that answer requests.

use serde_json::json;

use crate::endpoint::{self, Transport};
use crate::lambda::Function;
use crate::process::Process;
use crate::raw::{self, Client, pause};
use crate::report::{Report, Times};
use crate::{Plan, Result, events, tables};

/// The messages that recent-logs answers with.
const RECENT: usize = 1000;

const WARM_UP: usize = 20;

/// A function, and the event that its warm calls get.
pub struct Work {
    pub binary: &'static str,
    pub event: fn(usize) -> String,
    /// What DynamoDB is asked, for the floor.
    pub operation: Option<&'static str>,
    warm_calls: usize,
}

pub const WORKS: [Work; 6] = [
    Work {
        binary: "newlog",
        event: |number| events::http("POST", "/newlog", "", Some(&events::message("put", number))),
        operation: Some("PutItem"),
        warm_calls: 500,
    },
    Work {
        binary: "recent-logs",
        event: |_| events::http("GET", "/recent-logs", "site=recent", None),
        operation: Some("Query"),
        warm_calls: 100,
    },
    Work {
        binary: "connect",
        event: |number| {
            let query = json!({"site": "connect"});
            events::websocket("$connect", "CONNECT", &format!("c{number}="), &query, None)
        },
        operation: Some("BatchWriteItem"),
        warm_calls: 500,
    },
    Work {
        binary: "disconnect",
        event: |number| {
            let query = serde_json::Value::Null;
            events::websocket(
                "$disconnect",
                "DISCONNECT",
                &format!("c{number}="),
                &query,
                None,
            )
        },
        operation: Some("Query"),
        warm_calls: 300,
    },
    Work {
        binary: "online-users",
        event: |_| events::http("GET", "/onlineusers", "site=online", None),
        operation: Some("Query"),
        warm_calls: 300,
    },
    Work {
        binary: "default",
        event: |_| {
            let query = serde_json::Value::Null;
            events::websocket(
                "$default",
                "MESSAGE",
                "c1=",
                &query,
                Some("{\"action\": \"x\"}"),
            )
        },
        operation: None,
        warm_calls: 300,
    },
];

/// The tables and the management API that the functions call.
pub struct World {
    pub tables: String,
    pub gateway: String,
    pub client: Client,
    certificates: tempfile::TempDir,
    _processes: [Process; 2],
}

impl World {
    pub async fn start(transport: Transport, table_delay: u64, gateway_delay: u64) -> Result<Self> {
        let certificates = tempfile::tempdir()?;
        endpoint::certificates(certificates.path())?;
        let folder = certificates.path().display();
        let name = format!("{transport:?}").to_lowercase();
        let start = async |role: &str, delay: u64| {
            let arguments = [
                role,
                "--transport",
                &name,
                "--certificates",
                &folder.to_string(),
                "--delay",
                &delay.to_string(),
            ];
            Process::role(&arguments.map(str::to_owned), None).await
        };
        let (tables_process, tables) = start("tables", table_delay).await?;
        let (gateway_process, gateway) = start("gateway", gateway_delay).await?;
        Ok(Self {
            tables,
            gateway,
            client: Client::trusting(&endpoint::authority(certificates.path()))?,
            certificates,
            _processes: [tables_process, gateway_process],
        })
    }

    /// The environment of a function.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", self.tables.clone()),
            (
                "AWS_ENDPOINT_URL_APIGATEWAYMANAGEMENTAPI",
                format!("{}/dev", self.gateway),
            ),
            ("MESSAGES_TABLE", local::MESSAGES_TABLE.to_owned()),
            ("CONNECTIONS_TABLE", local::CONNECTIONS_TABLE.to_owned()),
            ("RETENTION_DAYS", "7".to_owned()),
            ("METRICS_NAMESPACE", "bench".to_owned()),
            ("PUBLISHER_KEYS", String::new()),
            ("SSL_CERT_FILE", self.trust().display().to_string()),
        ]
    }

    /// How many posts the gateway has taken.
    pub async fn posts(&self) -> Result<usize> {
        let posts = self.client.get(&format!("{}/posts", self.gateway)).await?;
        Ok(std::str::from_utf8(&posts)?.parse()?)
    }

    pub fn trust(&self) -> std::path::PathBuf {
        endpoint::authority(self.certificates.path())
    }
}

pub async fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    for transport in [Transport::Plain, Transport::Http1] {
        let world = World::start(transport, 0, 0).await?;
        if transport == Transport::Plain {
            tables::add_messages(&world, "recent", RECENT).await?;
            tables::add_connections(&world, "online", 10).await?;
        }
        for run in 0..plan.runs {
            eprintln!("functions, {transport:?}, run {} of {}", run + 1, plan.runs);
            for (index, work) in WORKS.iter().enumerate() {
                // TLS matters for the start.
                if transport != Transport::Plain && work.operation.is_none() {
                    continue;
                }
                for build in 0..plan.builds.len() {
                    // Numbers that no other run of this function has.
                    let first = (run as usize * 10 + build) * 100_000 + index * 10_000;
                    call(plan, report, &world, transport, build, work, first).await?;
                }
                if transport == Transport::Plain {
                    floor(plan, report, &world, work, run).await?;
                }
            }
        }
    }
    Ok(())
}

async fn call(
    plan: &Plan,
    report: &mut Report,
    world: &World,
    transport: Transport,
    build: usize,
    work: &Work,
    first: usize,
) -> Result<()> {
    let name = work.binary;
    let binary = plan.binary(build, name);
    let mut function = Function::start(&binary, &world.environment(), None).await?;
    let (first_call, answer) = function.call((work.event)(first)).await?;
    check(name, &answer)?;
    let first_call = first_call.as_secs_f64() * 1e3;
    let ready = function.ready.as_secs_f64() * 1e3;
    if transport != Transport::Plain {
        report.add(
            build,
            name,
            "start and first call, TLS",
            "ms",
            ready + first_call,
        );
        return Ok(());
    }
    report.add(build, name, "start", "ms", ready);
    report.add(build, name, "first call", "ms", first_call);
    report.add(
        build,
        name,
        "start and first call",
        "ms",
        ready + first_call,
    );
    let count = if plan.is_short { 20 } else { work.warm_calls };
    for number in 1..=WARM_UP {
        function.call((work.event)(first + number)).await?;
    }
    let mut times = Times::new()?;
    let cpu = function.process.cpu();
    for number in 1..=count {
        let (time, answer) = function
            .call((work.event)(first + WARM_UP + number))
            .await?;
        check(name, &answer)?;
        times.add(time)?;
    }
    let cpu = function.process.cpu().saturating_sub(cpu).as_secs_f64() * 1e3 / count as f64;
    report.add(build, name, "warm call, p50", "ms", times.at(0.5));
    report.add(build, name, "warm call, p99", "ms", times.at(0.99));
    report.add(build, name, "processor time of a call", "ms", cpu);
    report.add(
        build,
        name,
        "most memory",
        "MB",
        function.process.peak_memory() as f64 / 1e6,
    );
    report.add(
        build,
        name,
        "size unpacked",
        "MB",
        std::fs::metadata(binary)?.len() as f64 / 1e6,
    );
    Ok(())
}

/// The same call of the tables without a function, and a function that does
/// nothing.
async fn floor(
    plan: &Plan,
    report: &mut Report,
    world: &World,
    work: &Work,
    run: u32,
) -> Result<()> {
    pause().await;
    let mut hello = Function::start(&plan.binary(0, "hello"), &[], None).await?;
    let event = (work.event)(0);
    let (first_call, _) = hello.call(event.clone()).await?;
    let ready = hello.ready.as_secs_f64() * 1e3;
    let first_call = first_call.as_secs_f64() * 1e3;
    report.floor(work.binary, "start", "ms", ready);
    report.floor(work.binary, "first call", "ms", first_call);
    report.floor(
        work.binary,
        "most memory",
        "MB",
        hello.process.peak_memory() as f64 / 1e6,
    );
    let mut hello_times = Times::new()?;
    for _ in 0..100 {
        hello_times.add(hello.call(event.clone()).await?.0)?;
    }
    drop(hello);
    report.add(
        0,
        work.binary,
        "the same of a function that does nothing",
        "ms",
        hello_times.at(0.5),
    );
    let Some(operation) = work.operation else {
        report.floor(
            work.binary,
            "start and first call",
            "ms",
            ready + first_call,
        );
        report.floor(work.binary, "warm call, p50", "ms", hello_times.at(0.5));
        return Ok(());
    };
    let body = world
        .client
        .get(&format!("{}/last/{operation}", world.tables))
        .await?;
    let body = String::from_utf8(body.into())?;
    let count = work.warm_calls.to_string();
    // A key of its own for each put.
    let body = unique(&body, run);
    let target = format!("DynamoDB_20120810.{operation}");
    let arguments = [
        "--to",
        &world.tables,
        "--body",
        &body,
        "--target",
        &target,
        "--count",
        &count,
    ];
    let took = raw::measure(&arguments, &world.trust(), None).await?;
    report.floor(
        work.binary,
        "start and first call",
        "ms",
        ready + first_call + took.p50,
    );
    report.floor(work.binary, "warm call, p50", "ms", took.p50);
    report.floor(work.binary, "warm call, p99", "ms", took.p99);
    report.floor(
        work.binary,
        "processor time of a call",
        "ms",
        took.cpu * 1e3 / work.warm_calls as f64,
    );
    Ok(())
}

/// The body of a put with `$N` in its key.
fn unique(body: &str, run: u32) -> String {
    let Ok(mut put) = serde_json::from_str::<serde_json::Value>(body) else {
        return body.to_owned();
    };
    let row = |number: usize, name: &str| {
        let table = local::CONNECTIONS_TABLE;
        format!("/RequestItems/{table}/{number}/PutRequest/Item/{name}/S")
    };
    let id = format!("{run}-$N");
    for (pointer, value) in [
        ("/Item/timestamp/N", format!("{}.$N", 1_700_000_000 + run)),
        // The row of the site, and the connection's own.
        (&row(0, "ConnectionID"), id.clone()),
        (&row(1, "ConnectionID"), id.clone()),
        (&row(1, "site"), id),
    ] {
        if let Some(key) = put.pointer_mut(pointer) {
            *key = value.into();
        }
    }
    put.to_string()
}

pub fn check(name: &str, answer: &[u8]) -> Result<()> {
    let answer: serde_json::Value = serde_json::from_slice(answer)?;
    let is_right = match name {
        // It always says what was wrong.
        "default" => answer.get("statusCode").is_some(),
        _ => answer.get("statusCode").is_some_and(|status| status == 200),
    };
    if is_right {
        Ok(())
    } else {
        Err(format!("{name}: {answer}").into())
    }
}
