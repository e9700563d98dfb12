//! The server is killed and comes back.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use crate::support::{PATIENCE, Process, Viewer, command, connect};

/// How often the server is killed: more with `CRASH_ROUNDS`.
fn rounds() -> usize {
    let rounds = std::env::var("CRASH_ROUNDS").ok();
    rounds.map_or(4, |rounds| rounds.parse().unwrap())
}

/// Starts a server in a process group of its own.
fn start(folder: &Path) -> Process {
    let mut command = command(&["--port", "0", "--data-dir", folder.to_str().unwrap()]);
    Process::spawn(command.process_group(0))
}

/// Kills it with its whole group, as a closed terminal or a container's end
/// does.
fn kill(process: &mut Process) {
    let group = format!("-{}", process.child.id());
    let kill = Command::new("kill")
        .args(["-s", "KILL", "--", &group])
        .status();
    assert!(kill.unwrap().success());
    process.child.wait().unwrap();
}

/// Half of a page that was being written when the machine lost its power.
fn tear_last_page(folder: &Path) {
    let log = folder.join("tables.sqlite-wal");
    let mut log = OpenOptions::new().append(true).open(log).unwrap();
    log.write_all(&[0xA5; 2048]).unwrap();
}

/// The texts of the frames that a viewer gets until its connection ends.
fn texts(mut viewer: Viewer) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(text) = viewer.try_text() {
        texts.push(text);
    }
    texts
}

#[test]
fn what_was_acknowledged_before_a_kill_is_stored_once_and_reaches_viewers_live() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut process = start(folder);
    let mut acknowledged = HashSet::new();
    let mut left_over = 0;
    for round in 0..rounds() {
        let viewer = Viewer::open(connect(&process.address)).opened();
        let watching = spawn(|| texts(viewer));
        let done = Mutex::new(Vec::new());
        let address = process.address.clone();
        std::thread::scope(|scope| {
            for sender in 0..8 {
                let (done, address) = (&done, &address);
                scope.spawn(move || {
                    for index in 0.. {
                        let text = format!("{round}-{sender}-{index}");
                        if !post(address, &text) {
                            return;
                        }
                        done.lock().unwrap().push(text);
                    }
                });
            }
            let enough = 100 + 37 * (round % 5);
            let deadline = Instant::now() + PATIENCE;
            while done.lock().unwrap().len() < enough {
                assert!(Instant::now() < deadline);
                sleep(Duration::from_millis(1));
            }
            kill(&mut process);
        });
        let seen: HashSet<_> = watching.join().unwrap().into_iter().collect();
        if round % 2 == 1 {
            tear_last_page(folder);
        }

        process = start(folder);
        // Viewers take a moment to come back, in which nothing must be sent.
        sleep(Duration::from_millis(300));
        let started = Instant::now();
        let mut viewer = Viewer::open(connect(&process.address)).opened();
        let done = done.into_inner().unwrap();
        // What the first viewer missed comes live, before what is new.
        let mut missed: HashSet<_> = done.iter().filter(|text| !seen.contains(*text)).collect();
        left_over += missed.len();
        process.log(&format!("marker {round}"));
        loop {
            let text = viewer.try_text().unwrap();
            if text == format!("marker {round}") {
                break;
            }
            missed.retain(|missed| **missed != text);
        }
        assert!(missed.is_empty(), "round {round}: never live: {missed:?}");
        // A second, and more on a slow machine.
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "{:?}",
            started.elapsed()
        );
        acknowledged.extend(done);
    }
    let history = process.request("GET /recent-logs?site=tst", "");
    for text in &acknowledged {
        let stored = history.matches(&format!("\"{text}\"")).count();
        assert_eq!(stored, 1, "{text}");
    }
    println!("{} acknowledged, {left_over} left over", acknowledged.len());
}

/// Posts a message; whether it was acknowledged.
fn post(address: &str, text: &str) -> bool {
    use std::io::Read as _;
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let body = format!(r#"{{"site":"tst","log_message":"{text}"}}"#);
    let length = body.len();
    let request = format!(
        "POST /newlog HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

// They would hold up each broadcast to their site.
#[test]
fn connections_of_a_killed_server_are_gone_after_the_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = start(folder.path());
    let _viewers: Vec<_> = (0..20)
        .map(|_| Viewer::open(connect(&process.address)).opened())
        .collect();
    assert!(
        process
            .request("GET /onlineusers?site=tst", "")
            .contains("ConnectionID")
    );
    kill(&mut process);
    let process = start(folder.path());
    let online = process.request("GET /onlineusers?site=tst", "");
    assert!(online.ends_with("\r\n\r\n[]"), "{online}");
}
