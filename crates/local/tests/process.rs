//! Tests of the server as a process: its one line, its signals, its exit codes.
//! They are here because Cargo tells only a package's own tests where its
//! binary is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server's process, killed when dropped.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut command(arguments))
    }

    fn in_folder(folder: &Path) -> Self {
        Self::start(&["--port", "0", "--data-dir", folder.to_str().unwrap()])
    }

    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line
            .trim_end()
            .strip_prefix("listening on http://")
            .unwrap();
        Self {
            address: address.to_owned(),
            child,
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Sends one request and returns the whole answer.
    fn request(&self, head: &str, body: &str) -> String {
        let mut stream = connect(&self.address);
        let length = body.len();
        write!(stream, "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn log(&self, text: &str) {
        self.log_at(text, "info");
    }

    fn log_at(&self, text: &str, level: &str) {
        let body = format!(r#"{{"site":"tst","log_message":"{text}","log_level":"{level}"}}"#);
        let answer = self.request("POST /newlog", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A viewer of the site `tst`.
struct Viewer(BufReader<TcpStream>);

impl Viewer {
    /// Sends the handshake; [`Self::opened`] reads its answer.
    fn open(mut stream: TcpStream) -> Self {
        let handshake = "GET /?site=tst HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(handshake.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    fn opened(mut self) -> Self {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 101"), "{line}");
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
        }
        self
    }

    /// The first byte of the next frame, and its payload (RFC 6455, section
    /// 5.2).
    fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let mut length = u64::from(head[1]);
        let bytes = match head[1] {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if bytes > 0 {
            let mut extended = [0; 8];
            self.0.read_exact(&mut extended[8 - bytes..]).unwrap();
            length = u64::from_be_bytes(extended);
        }
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        (head[0], payload)
    }

    /// Reads the next frame, which must be a message with this text.
    fn reads(&mut self, text: &str) {
        let (kind, payload) = self.next();
        let payload = String::from_utf8_lossy(&payload).into_owned();
        assert_eq!(kind, 0x81, "{payload}");
        assert!(payload.contains(&format!("\"{text}\"")), "{payload}");
    }
}

/// A connection whose reads wait at most [`PATIENCE`].
fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logstream"));
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A pipe whose reader is gone.
fn broken_pipe() -> Stdio {
    let (_, writer) = pipe().unwrap();
    writer.into()
}

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

#[test]
fn acknowledged_messages_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::in_folder(folder.path());
    for index in 0..20 {
        process.log(&format!("message {index}"));
    }
    process.child.kill().unwrap();
    process.child.wait().unwrap();

    let process = Process::in_folder(folder.path());
    let answer = process.request("GET /recent-logs?site=tst", "");
    for index in 0..20 {
        assert!(answer.contains(&format!("\"message {index}\"")), "{answer}");
    }
}

// Reads Linux's own list of listening sockets.
#[cfg(target_os = "linux")]
#[test]
fn only_the_apis_listen_on_the_given_address() {
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
    assert_eq!(listening, ["00000000", "0100007F", "0100007F"]);
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
fn the_server_runs_and_ends_cleanly_with_a_closed_stdout() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let address = port.unwrap().to_string();
    let (_, port) = address.rsplit_once(':').unwrap();
    let mut command = command(&["--port", port]);
    let child = command.stdout(broken_pipe()).spawn().unwrap();
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

// Besides the viewers' sockets, each frame and each call of a function needs
// sockets of the server's own.
#[test]
fn with_1024_descriptors_400_viewers_get_each_message() {
    let process = Process::spawn(&mut with_descriptors(1024));
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
fn the_server_recovers_from_running_out_of_descriptors() {
    let process = Process::spawn(&mut with_descriptors(200));
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    let sockets: Vec<_> = (0..300).map(|_| connect(&process.address)).collect();
    // Waits in the system's queue until descriptors are free again.
    let waiting = Viewer::open(connect(&process.address));
    drop(sockets);
    let mut waiting = waiting.opened();
    process.log("x");
    viewer.reads("x");
    waiting.reads("x");
}

/// A server that may have `limit` files and sockets open.
fn with_descriptors(limit: u32) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {limit}; exec \"$0\" --port 0")])
        .arg(env!("CARGO_BIN_EXE_logstream"))
        .stdout(Stdio::piped());
    command
}
