//! The server as a process: its one line, its signals, its exit codes. Here
//! and not with the other tests because Cargo tells only a package's own
//! tests where its binary is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server's process, killed at the end whatever happens.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).spawn().unwrap();
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

    fn in_folder(folder: &Path) -> Self {
        Self::start(&["--port", "0", "--data-dir", folder.to_str().unwrap()])
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
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(stream, "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn log(&self, text: &str) {
        let body = format!(r#"{{"site":"tst","log_message":"{text}","timestamp":1}}"#);
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

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logstream"));
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn interrupt_and_terminate_end_it_cleanly_with_a_socket_open() {
    for signal in ["INT", "TERM"] {
        let mut process = Process::start(&["--port", "0"]);
        assert!(
            process.address.starts_with("127.0.0.1:"),
            "{}",
            process.address
        );
        let mut socket = TcpStream::connect(&process.address).unwrap();
        let handshake = "GET /?site=tst HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        socket.write_all(handshake.as_bytes()).unwrap();
        let mut answer = BufReader::new(&socket);
        let mut line = String::new();
        answer.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 101"), "{line}");
        while line != "\r\n" {
            line.clear();
            answer.read_line(&mut line).unwrap();
        }

        process.signal(signal);
        let mut close = [0; 4];
        answer.read_exact(&mut close).unwrap();
        // A close frame (RFC 6455, section 5.5.1) with the code 1001.
        assert_eq!(close[0], 0x88);
        assert_eq!(u16::from_be_bytes([close[2], close[3]]), 1001);
        drop(socket);
        let status = process.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{signal}");
    }
}

#[test]
fn a_port_in_use_is_one_clear_line_and_exit_code_1() {
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
fn a_folder_that_cannot_be_used_is_one_clear_line() {
    let output = command(&["--port", "0", "--data-dir", "/dev/null/x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("/dev/null/x"), "{error}");
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
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

// What listens is read from where Linux tells it.
#[cfg(target_os = "linux")]
#[test]
fn only_the_apis_listen_on_the_address_that_is_given() {
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
