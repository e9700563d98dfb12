//! The start, the environment, the output and the end.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Process, Viewer, broken_pipe, command, connect};

#[test]
fn sigint_and_sigterm_end_the_server_cleanly_with_a_socket_open() {
    for signal in ["INT", "TERM"] {
        let mut process = Process::start(&["--port", "0"]);
        assert!(
            process.address.starts_with("127.0.0.1:"),
            "{}",
            process.address
        );
        let mut viewer = Viewer::open(connect(&process.address)).opened();
        process.signal(signal);
        let (kind, payload) = viewer.next();
        // A close frame (RFC 6455, section 5.5.1) with the code 1001.
        assert_eq!(kind, 0x88);
        assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), 1001);
        drop(viewer);
        let status = process.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

#[test]
fn a_port_in_use_gives_one_clear_line_and_exit_code_1() {
    let process = Process::start(&["--port", "0"]);
    let (_, port) = process.address.rsplit_once(':').unwrap();
    let second = command(&["--port", port]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(&process.address), "{error}");
    assert!(second.stdout.is_empty());
}

#[test]
fn an_unusable_folder_gives_one_clear_line() {
    let output = command(&["--port", "0", "--data-dir", "/dev/null/x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("/dev/null/x"), "{error}");
}

// Reads Linux's own list of listening sockets.
#[cfg(target_os = "linux")]
#[test]
fn nothing_but_the_apis_listens() {
    let process = Process::start(&["--port", "0", "--host", "0.0.0.0"]);
    assert!(process.address.starts_with("0.0.0.0:"));
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let descriptors: Vec<_> = std::fs::read_dir(format!("/proc/{}/fd", process.child.id()))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| {
            let link = link.to_str()?.to_owned();
            Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    // Columns: local address, state (0A: listening) and inode.
    let mut listening: Vec<_> = sockets
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| columns[3] == "0A" && descriptors.iter().any(|inode| inode == columns[9]))
        .map(|columns| columns[1].split_once(':').unwrap().0.to_owned())
        .collect();
    listening.sort();
    assert_eq!(listening, ["00000000"]);
}

#[test]
fn an_unwritable_log_fails_no_request_and_no_broadcast() {
    let mut logs = vec![broken_pipe()];
    if cfg!(target_os = "linux") {
        let full = File::options().write(true).open("/dev/full").unwrap();
        logs.push(full.into());
    }
    for log in logs {
        // Everything logs, the broadcast too.
        let mut command = command(&["--port", "0"]);
        let mut process = Process::spawn(command.env("RUST_LOG", "debug").stderr(log));
        let mut viewer = Viewer::open(connect(&process.address)).opened();
        for index in 0..5 {
            let text = format!("message {index}");
            process.log_at(&text, "unknown");
            viewer.reads(&text);
        }
        process.signal("TERM");
        assert_eq!(process.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn an_unread_log_delays_no_request_and_no_broadcast() {
    let mut process = Process::start(&["--port", "0"]);
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    // Each message logs a line: more than the pipe and the kept lines hold.
    let level = "x".repeat(1000);
    for index in 0..1500 {
        let text = format!("message {index}");
        process.log_at(&text, &level);
        viewer.reads(&text);
    }
    process.signal("TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_server_runs_and_ends_cleanly_with_a_stdout_that_cannot_be_written() {
    for stdout in [">&-", ">/dev/full", "| true"] {
        runs_and_ends_cleanly(stdout);
    }
}

fn runs_and_ends_cleanly(stdout: &str) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let address = port.unwrap().to_string();
    let (_, port) = address.rsplit_once(':').unwrap();
    let child = match stdout {
        "| true" => command(&["--port", port]).stdout(broken_pipe()).spawn(),
        _ => Command::new("sh")
            .args(["-c", &format!("exec \"$0\" --port {port} {stdout}")])
            .arg(env!("CARGO_BIN_EXE_logstream"))
            .spawn(),
    };
    let child = child.unwrap();
    let mut process = Process { child, address };
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&process.address).is_err() {
        assert!(Instant::now() < deadline, "it does not listen");
        sleep(Duration::from_millis(10));
    }
    process.log("x");
    process.signal("TERM");
    assert_eq!(process.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_failed_start_gives_exit_code_1_with_a_closed_stderr() {
    let mut command = command(&["--port", "0", "--data-dir", "/dev/null/x"]);
    let status = command.stderr(broken_pipe()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn no_variable_of_the_environment_reaches_the_inside() {
    let nowhere = "http://127.0.0.1:1";
    let mut command = command(&["--port", "0"]);
    for name in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_DYNAMODB",
    ] {
        command.env(name, nowhere);
    }
    command.env("AWS_PROFILE", "none").env("AWS_REGION", "");
    // Nothing has to be written there.
    command.env("TMPDIR", "/dev/null/x");
    let process = Process::spawn(&mut command);
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    process.log("x");
    viewer.reads("x");
}

#[test]
fn a_huge_idle_timeout_means_never() {
    let never = u64::MAX.to_string();
    let process = Process::start(&["--port", "0", "--idle-timeout", &never]);
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    process.log("x");
    viewer.reads("x");
}

#[test]
fn a_connection_age_beyond_that_of_its_row_is_refused_before_the_start() {
    let output = command(&["--max-connection-age", "7201"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--max-connection-age"), "{error}");
}

#[test]
fn a_second_server_on_a_folder_says_in_one_line_that_it_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::in_folder(folder.path());
    let mut viewer = Viewer::open(connect(&first.address)).opened();
    let path = folder.path().to_str().unwrap();
    let second = command(&["--port", "0", "--data-dir", path]).output();
    let second = second.unwrap();
    assert_eq!(second.status.code(), Some(1));
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("is in use by another server"), "{error}");
    first.log("x");
    viewer.reads("x");
}

#[test]
fn the_log_says_who_connected_and_why_a_connection_ended() {
    let mut server = command(&["--port", "0", "--idle-timeout", "1"]);
    let mut process = Process::spawn(server.env("RUST_LOG", "info").stderr(Stdio::piped()));
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    assert_eq!(viewer.try_text(), None);
    let log = BufReader::new(process.child.stderr.take().unwrap());
    let mut lines = log.lines().map(Result::unwrap);
    let opened = lines
        .find(|line| line.contains("connection opened"))
        .unwrap();
    assert!(opened.contains(r#"sites=["tst"]"#) && opened.contains("address=127.0.0.1"));
    let ended = lines
        .find(|line| line.contains("connection ended"))
        .unwrap();
    assert!(ended.contains(r#"cause="idle""#), "{ended}");
    let id = |line: &str| {
        let (_, id) = line.split_once("connection_id=").unwrap();
        id.split(' ').next().unwrap().to_owned()
    };
    assert_eq!(id(&opened), id(&ended));
}
