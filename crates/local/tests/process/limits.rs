//! Limits of time and of open files.

use std::io::{BufRead, Read, Write};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Process, Viewer, connect};

// API Gateway's limit is 30 s, and so long does this test take.
#[test]
fn half_a_request_is_answered_with_408_after_30_s() {
    let process = Process::start(&["--port", "0"]);
    let started = Instant::now();
    let halves = [
        "POST /newlog HTTP/1.1\r\nHost: x\r\n",
        "POST /newlog HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
    ];
    let halves = halves.map(|half| {
        let mut stream = connect(&process.address);
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
        stream
    });
    // Between requests a connection may be silent for longer.
    let mut idle = connect(&process.address);
    idle.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    let get = "GET /metrics HTTP/1.1\r\nHost: x\r\n";
    write!(idle, "{get}\r\n").unwrap();
    for mut half in halves {
        let mut answer = String::new();
        half.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{answer}"
        );
        assert!(
            answer.ends_with("{\"message\":\"Request Timeout\"}"),
            "{answer}"
        );
        assert!(started.elapsed() >= Duration::from_secs(29));
    }
    sleep(Duration::from_secs(31).saturating_sub(started.elapsed()));
    write!(idle, "{get}Connection: close\r\n\r\n").unwrap();
    let mut answers = String::new();
    idle.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
}

#[test]
fn it_raises_its_own_limit_on_open_files() {
    let process = Process::spawn(&mut with_descriptors("-Sn 256"));
    let sockets: Vec<_> = (0..400).map(|_| connect(&process.address)).collect();
    let viewers: Vec<_> = sockets.into_iter().map(Viewer::open).collect();
    let viewers: Vec<_> = viewers.into_iter().map(Viewer::opened).collect();
    process.log("one");
    process.log("two");
    for mut viewer in viewers {
        viewer.reads("one");
        viewer.reads("two");
    }
}

#[test]
fn with_256_descriptors_190_viewers_get_each_message_and_more_are_refused_clearly() {
    let process = Process::spawn(&mut with_descriptors("-n 256"));
    let mut viewers: Vec<_> = (0..190)
        .map(|_| Viewer::open(connect(&process.address)).opened())
        .collect();
    let crowd: Vec<_> = (0..200).map(|_| connect(&process.address)).collect();
    let crowd: Vec<_> = crowd.into_iter().map(Viewer::open).collect();
    let mut refused = 0;
    for Viewer(mut answer) in crowd {
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        if line.starts_with("HTTP/1.1 101") {
            continue;
        }
        assert!(line.starts_with("HTTP/1.1 503"), "{line}");
        let mut rest = String::new();
        answer.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("Too many connections"), "{rest}");
        refused += 1;
    }
    // Places become free while the crowd goes.
    assert!(refused >= 150, "{refused}");
    let mut answer = String::new();
    // The last places are free again when the server has seen them go.
    let deadline = Instant::now() + PATIENCE;
    while !answer.starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "{answer}");
        answer = process.request("POST /newlog", r#"{"site":"tst","log_message":"x"}"#);
    }
    for viewer in &mut viewers {
        viewer.reads("x");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn when_all_viewers_leave_at_once_their_descriptors_are_given_back() {
    let process = Process::start(&["--port", "0"]);
    let folder = format!("/proc/{}/fd", process.child.id());
    let open = || std::fs::read_dir(&folder).unwrap().count();
    let before = open();
    let sockets: Vec<_> = (0..400).map(|_| connect(&process.address)).collect();
    let viewers: Vec<_> = sockets.into_iter().map(Viewer::open).collect();
    let viewers: Vec<_> = viewers.into_iter().map(Viewer::opened).collect();
    process.log("x");
    // One each: the server's own parts need none.
    assert!(open() <= before + 405, "{before}, {}", open());
    drop(viewers);
    let deadline = Instant::now() + PATIENCE;
    while open() > before + 5 {
        assert!(Instant::now() < deadline, "{before}, {}", open());
        sleep(Duration::from_millis(10));
    }
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    process.log("y");
    viewer.reads("y");
}

#[test]
fn the_server_recovers_from_running_out_of_descriptors() {
    let process = Process::spawn(&mut with_descriptors("-n 200"));
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    let sockets: Vec<_> = (0..300).map(|_| connect(&process.address)).collect();
    drop(sockets);
    let deadline = Instant::now() + PATIENCE;
    let mut late = loop {
        assert!(Instant::now() < deadline, "no place is free");
        let mut late = Viewer::open(connect(&process.address));
        if late.0.fill_buf().unwrap().starts_with(b"HTTP/1.1 101") {
            break late.opened();
        }
    };
    process.log("x");
    viewer.reads("x");
    late.reads("x");
}

#[cfg(target_os = "linux")]
#[test]
fn large_bodies_take_bounded_memory_however_many_come_and_it_is_given_back() {
    let process = Process::start(&["--port", "0"]);
    let megabytes = |name: &str| {
        let status = format!("/proc/{}/status", process.child.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            / 1024
    };
    let before = megabytes("VmRSS");
    let body = format!(
        r#"{{"site":"tst","log_message":"x","more":"{}"}}"#,
        "x".repeat(9_000_000)
    );
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = process.request("POST /newlog", &body);
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            });
        }
    });
    // One at a time, a few times over: read, encoded, decoded.
    let most = megabytes("VmHWM");
    assert!(most < before + 150, "{before}, {most}");
    let deadline = Instant::now() + PATIENCE;
    while megabytes("VmRSS") > before + 50 {
        assert!(
            Instant::now() < deadline,
            "{before}, {}",
            megabytes("VmRSS")
        );
        process.request("GET /metrics", "");
        sleep(Duration::from_millis(10));
    }
}

/// A server started with a limit on open files, in the words of `ulimit`.
fn with_descriptors(limit: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit {limit}; exec \"$0\" --port 0")])
        .arg(env!("CARGO_BIN_EXE_logstream"))
        .stdout(Stdio::piped());
    command
}
