//! WebSocket frames that no client library sends: each ends its own connection
//! with the close code of RFC 6455, and nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::{Deployment, PATIENCE, eventually, server};

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Bits of a frame's first byte: the last frame of a message, and the reserved
/// ones, of which the first says that the frame is compressed.
const FIN: u8 = 0x80;
const RESERVED: [u8; 3] = [0x40, 0x20, 0x10];

const PROTOCOL_ERROR: u16 = 1002;
const INVALID_TEXT: u16 = 1007;
const TOO_BIG: u16 = 1009;

/// The largest frame that the gateway takes.
const MAX_FRAME: usize = 32 * 1024;

/// A frame with any first byte, masked as a client's must be.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    frame.extend(mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    frame.extend(masked.map(|(byte, mask)| byte ^ mask));
    frame
}

fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame[1] &= !0x80;
    frame.extend(payload);
    frame
}

/// The head of a masked frame, without its mask.
fn header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..126 => header.push(0x80 | length as u8),
        126..0x1_0000 => {
            header.push(0x80 | 126);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header
}

/// Every kind of broken frame, with the code that its connection is closed
/// with.
fn broken() -> Vec<(&'static str, Vec<u8>, u16)> {
    let mut cases = vec![
        (
            "invalid UTF-8",
            frame(FIN | TEXT, b"\"\xff\""),
            INVALID_TEXT,
        ),
        (
            "a surrogate in UTF-8",
            frame(FIN | TEXT, b"\xed\xa0\x80"),
            INVALID_TEXT,
        ),
        (
            "a character cut off by the message's end",
            frame(FIN | TEXT, &"é".as_bytes()[..1]),
            INVALID_TEXT,
        ),
        (
            "invalid UTF-8 in the second frame",
            [frame(TEXT, b"a"), frame(FIN | CONTINUATION, b"\xc0\x80")].concat(),
            INVALID_TEXT,
        ),
        (
            "invalid UTF-8 as the reason of a close",
            frame(FIN | CLOSE, b"\x03\xe8\xff"),
            INVALID_TEXT,
        ),
        ("unmasked", unmasked(FIN | TEXT, b"{}"), PROTOCOL_ERROR),
        ("unmasked ping", unmasked(FIN | PING, b""), PROTOCOL_ERROR),
        (
            "opcode 3",
            frame(FIN | 0x3, b"reserved for data"),
            PROTOCOL_ERROR,
        ),
        (
            "opcode 11",
            frame(FIN | 0xb, b"reserved for control"),
            PROTOCOL_ERROR,
        ),
        (
            "a ping of 126 bytes",
            frame(FIN | PING, &[0; 126]),
            PROTOCOL_ERROR,
        ),
        (
            "a pong of 30,000 bytes",
            frame(FIN | PONG, &[0; 30_000]),
            PROTOCOL_ERROR,
        ),
        (
            "a close of 126 bytes",
            frame(FIN | CLOSE, &[b'x'; 126]),
            PROTOCOL_ERROR,
        ),
        ("a ping in two frames", frame(PING, b"x"), PROTOCOL_ERROR),
        (
            "a close in two frames",
            frame(CLOSE, b"\x03\xe8"),
            PROTOCOL_ERROR,
        ),
        (
            "a close with half a code",
            frame(FIN | CLOSE, b"\x03"),
            PROTOCOL_ERROR,
        ),
        (
            "a close with a code that must not be sent",
            frame(FIN | CLOSE, &1005_u16.to_be_bytes()),
            PROTOCOL_ERROR,
        ),
        (
            "a continuation of nothing",
            frame(FIN | CONTINUATION, b"x"),
            PROTOCOL_ERROR,
        ),
        (
            "a message in the middle of another",
            [frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(),
            PROTOCOL_ERROR,
        ),
        (
            "a frame over 32 KiB",
            frame(FIN | BINARY, &[0; MAX_FRAME + 1]),
            TOO_BIG,
        ),
        (
            "a ping over 32 KiB",
            frame(FIN | PING, &[0; MAX_FRAME + 1]),
            TOO_BIG,
        ),
        (
            "a message over 128 KiB",
            [
                frame(TEXT, &[b'x'; MAX_FRAME]),
                frame(CONTINUATION, &[b'x'; MAX_FRAME]).repeat(3),
                frame(FIN | CONTINUATION, b"x"),
            ]
            .concat(),
            TOO_BIG,
        ),
        (
            "a length of 2^63 - 1",
            [header(FIN | TEXT, i64::MAX as u64), vec![0; 4]].concat(),
            TOO_BIG,
        ),
        (
            "a length of 2^64 - 1",
            [header(FIN | TEXT, u64::MAX), vec![0; 4]].concat(),
            TOO_BIG,
        ),
    ];
    for bit in RESERVED {
        for opcode in [TEXT, PING] {
            let bytes = frame(FIN | bit | opcode, b"{}");
            cases.push(("a reserved bit", bytes, PROTOCOL_ERROR));
        }
    }
    cases
}

/// A connection whose bytes the test writes itself.
struct Raw(TcpStream);

impl Raw {
    async fn open(address: SocketAddr, site: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /?site={site} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        Self(stream)
    }

    /// Reads until the server ends the TCP connection. Returns the code of its
    /// close frame, if one came.
    async fn end(&mut self) -> Option<u16> {
        let mut received = Vec::new();
        // It may end with a reset.
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut received))
            .await
            .expect("an end in time");
        close_code(&received)
    }
}

/// The code of the close frame among a server's frames.
fn close_code(mut frames: &[u8]) -> Option<u16> {
    loop {
        let [first, length, rest @ ..] = frames else {
            return None;
        };
        let (length, rest) = match length {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u16::from_be_bytes(*length).into(), rest)
            }
            127 => panic!("the server sent a huge frame"),
            length => (usize::from(*length), rest),
        };
        let (payload, rest) = rest.split_at_checked(length)?;
        if *first == FIN | CLOSE {
            return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        }
        frames = rest;
    }
}

#[tokio::test]
async fn a_broken_frame_closes_its_connection_with_the_code_that_says_why() {
    let server = server().await;
    let address = server.address();
    let ends = broken().into_iter().map(async |(what, bytes, code)| {
        let mut raw = Raw::open(address, "tst").await;
        raw.0.write_all(&bytes).await.unwrap();
        let ended = raw.end().await;
        (ended != Some(code)).then(|| format!("{what}: {ended:?}, expected {code}"))
    });
    let wrong: Vec<_> = join_all(ends).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let deployment = Deployment::of(server);
    eventually("their rows go", || async {
        deployment.online("tst").await.is_empty()
    })
    .await;
}

/// Some 2,500 frames.
const HOSTILE: u64 = 4;
const CONNECTIONS: usize = 60;

/// The bytes of a hostile connection: up to 20 frames, of which some are in
/// order, so that the broken ones meet a connection in every state.
fn attack(random: &mut Rng) -> Vec<u8> {
    let broken = broken();
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..=20) {
        let mut junk = vec![0; random.usize(..200)];
        random.fill(&mut junk);
        match random.u8(..10) {
            0 => bytes.extend(frame(FIN | TEXT, br#"{"action": "newlog"}"#)),
            1 => bytes.extend(frame(FIN | BINARY, &junk)),
            2 => bytes.extend(frame(FIN | PING, &junk[..junk.len().min(125)])),
            3 => bytes.extend(frame(random.choice([TEXT, BINARY]).unwrap(), &junk)),
            4 => bytes.extend(frame(CONTINUATION, &junk)),
            // A frame whose length is not that of what follows.
            5 => {
                bytes.extend(header(FIN | TEXT, random.u64(..70_000)));
                bytes.extend(&junk);
            }
            6 => bytes.extend(frame(random.u8(..), &junk)),
            7 => bytes.extend(&junk),
            _ => bytes.extend(&random.choice(&broken).unwrap().1),
        }
    }
    // Its connection may end in the middle of a frame.
    bytes.truncate(random.usize(1..=bytes.len()));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_hostile_frames_end_their_connections_and_do_no_harm_to_others() {
    let server = server().await;
    let address = server.address();
    let deployment = Deployment::of(server);
    let mut client = deployment.connect("tst").await;

    let hostile = (0..HOSTILE).map(async |seed| {
        let mut random = Rng::with_seed(seed);
        // Half of them watch the same site, and get its frames too.
        let site = if seed.is_multiple_of(2) {
            "tst"
        } else {
            "other"
        };
        for _ in 0..CONNECTIONS {
            let mut raw = Raw::open(address, site).await;
            // The server may have ended it already.
            let _ = raw.0.write_all(&attack(&mut random)).await;
            let _ = raw.0.shutdown().await;
            raw.end().await;
        }
    });
    let mut hostile = std::pin::pin!(join_all(hostile));
    let mut delays = Vec::new();
    let well_behaved = async {
        loop {
            let posted = Instant::now();
            let text = delays.len().to_string();
            deployment.log("tst", &text, Value::Null).await;
            assert_eq!(client.next().await["message"], json!(text));
            delays.push(posted.elapsed());
        }
    };
    tokio::select! {
        _ = &mut hostile => {}
        () = well_behaved => {}
    }

    // The message that was on its way when the last hostile connection ended.
    let frames = deployment.frames_until_now("tst", &mut client).await;
    let last = delays.len().to_string();
    assert!(
        frames.iter().all(|frame| frame["message"] == last.as_str()),
        "{frames:?}"
    );
    // One that died just after it connected costs the others of its site 0.3 s,
    // because it may not be open yet. The rest is for slow machines.
    assert!(
        delays.len() > 10,
        "only {} messages meanwhile",
        delays.len()
    );
    delays.sort();
    let nine_of_ten = delays[delays.len() * 9 / 10];
    assert!(nine_of_ten < Duration::from_secs(3), "{delays:?}");
    eventually("only the client is left", || async {
        deployment.online("tst").await.len() == 1
    })
    .await;
}
