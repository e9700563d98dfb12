//! `GET /metrics`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Process, Viewer, connect};

#[test]
fn the_metrics_count_messages_frames_refusals_and_how_long_delivery_took() {
    let process = Process::start(&["--port", "0"]);
    let metrics = || process.request("GET /metrics", "");
    let has = |line: &str| metrics().lines().any(|found| found == line);
    for line in [
        "logstream_messages_total 0",
        "logstream_frames_total 0",
        "logstream_retried_total 0",
        "logstream_gone_total 0",
        "logstream_closed_total 0",
        "logstream_not_served_total 0",
        "logstream_records_given_up_total 0",
        "logstream_stream_lag_seconds 0",
        "logstream_connections 0",
    ] {
        assert!(has(line), "{line} is not in {}", metrics());
    }

    let open = || Viewer::open(connect(&process.address)).opened();
    let mut viewers = [open(), open()];
    for text in ["one", "two"] {
        process.log(text);
        for viewer in &mut viewers {
            viewer.reads(text);
        }
    }
    let refused = process.request("POST /newlog", "{}");
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    for line in [
        "logstream_connections 2",
        "logstream_messages_total 2",
        "logstream_frames_total 4",
        "logstream_refused_total{reason=\"invalid\"} 1",
        "logstream_delivery_seconds_bucket{le=\"60\"} 2",
        "logstream_delivery_seconds_count 2",
        "# TYPE logstream_delivery_seconds histogram",
    ] {
        // A batch is counted after its frames were sent.
        let until = Instant::now() + PATIENCE;
        while !has(line) {
            assert!(Instant::now() < until, "{line} is not in {}", metrics());
            sleep(Duration::from_millis(10));
        }
    }
}
