//! A server's process and its clients.

use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A server's process, killed when dropped.
pub struct Process {
    pub child: Child,
    pub address: String,
}

impl Process {
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(&mut command(arguments))
    }

    pub fn in_folder(folder: &Path) -> Self {
        Self::start(&["--port", "0", "--data-dir", folder.to_str().unwrap()])
    }

    pub fn spawn(command: &mut Command) -> Self {
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

    pub fn signal(&self, name: &str) {
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
    pub fn request(&self, head: &str, body: &str) -> String {
        self.request_with(head, "", body)
    }

    /// The same with more header lines, each with its end.
    pub fn request_with(&self, head: &str, headers: &str, body: &str) -> String {
        let mut stream = connect(&self.address);
        let length = body.len();
        write!(stream, "{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn log(&self, text: &str) {
        self.log_at(text, "info");
    }

    pub fn log_at(&self, text: &str, level: &str) {
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
pub struct Viewer(pub BufReader<TcpStream>);

impl Viewer {
    /// Sends the handshake; [`Self::opened`] reads its answer.
    pub fn open(mut stream: TcpStream) -> Self {
        let handshake = "GET /?site=tst HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(handshake.as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn opened(mut self) -> Self {
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
    pub fn next(&mut self) -> (u8, Vec<u8>) {
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

    /// The text of the next message, or `None` at the connection's end.
    pub fn try_text(&mut self) -> Option<String> {
        while !self.0.fill_buf().ok()?.is_empty() {
            let (kind, payload) = self.next();
            if kind == 0x81 {
                let text = String::from_utf8(payload).unwrap();
                let (_, text) = text.split_once("\"message\":\"").unwrap();
                return Some(text.split('"').next().unwrap().to_owned());
            }
        }
        None
    }

    /// Reads the next frame, which must be a message with this text.
    pub fn reads(&mut self, text: &str) {
        let (kind, payload) = self.next();
        let payload = String::from_utf8_lossy(&payload).into_owned();
        assert_eq!(kind, 0x81, "{payload}");
        assert!(payload.contains(&format!("\"{text}\"")), "{payload}");
    }
}

/// A connection whose reads wait at most [`PATIENCE`].
pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logstream"));
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A pipe whose reader is gone.
pub fn broken_pipe() -> Stdio {
    let (_, writer) = pipe().unwrap();
    writer.into()
}
