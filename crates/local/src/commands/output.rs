//! What the commands print.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};

use logstream_core::{Level, SortKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::macros::format_description;

use super::Failure;

/// A message of `recent-logs` or a frame.
#[derive(Deserialize)]
pub struct Message {
    #[serde(default)]
    pub site: String,
    pub id: Option<String>,
    pub message: String,
    pub log_level: String,
    timestamp: serde_json::Value,
}

/// A message with `--json`: the same fields wherever it came from.
#[derive(Serialize)]
struct Line<'a> {
    site: &'a str,
    id: Option<&'a str>,
    message: &'a str,
    log_level: &'a str,
    timestamp: Box<RawValue>,
}

impl Message {
    pub fn level(&self) -> Level {
        Level::from_name(&self.log_level).unwrap_or(Level::Info)
    }

    /// Its place among the messages of its site.
    pub fn key(&self) -> Option<SortKey> {
        self.id.as_deref().and_then(SortKey::from_stored)
    }

    /// The time with its fraction, which a frame has only in the id.
    fn time(&self) -> Option<SortKey> {
        let timestamp = match &self.timestamp {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        self.key().or_else(|| SortKey::from_stored(&timestamp))
    }
}

/// How messages are printed.
pub struct Printer {
    is_json: bool,
    names_sites: bool,
}

impl Printer {
    pub fn new(is_json: bool, sites: &[String]) -> Self {
        Self {
            is_json,
            names_sites: sites.len() > 1,
        }
    }

    /// Prints messages, a line each.
    pub fn print<'a>(
        &self,
        messages: impl IntoIterator<Item = &'a Message>,
    ) -> Result<(), Failure> {
        let mut lines = String::new();
        for message in messages {
            if self.is_json {
                self.add_json(&mut lines, message);
            } else {
                self.add_text(&mut lines, message);
            }
        }
        write(&lines)
    }

    fn add_json(&self, lines: &mut String, message: &Message) {
        let timestamp = message.time().map_or("null".to_owned(), SortKey::to_json);
        let line = RawValue::from_string(timestamp).and_then(|timestamp| {
            serde_json::to_string(&Line {
                site: &message.site,
                id: message.id.as_deref(),
                message: &message.message,
                log_level: &message.log_level,
                timestamp,
            })
        });
        // A number and strings always are JSON.
        for character in line.unwrap_or_default().chars() {
            match character {
                // serde_json escapes only the control characters below.
                '\u{7f}'..='\u{9f}' => {
                    let _ = write!(lines, "\\u{:04x}", u32::from(character));
                }
                _ => lines.push(character),
            }
        }
        lines.push('\n');
    }

    fn add_text(&self, lines: &mut String, message: &Message) {
        let time = message.time().map(time_of).unwrap_or_default();
        let level = printable(&message.log_level);
        let (colour, end) = match message.level() {
            Level::Debug => ("\x1b[2m", "\x1b[0m"),
            Level::Info => ("", ""),
            Level::Warning => ("\x1b[33m", "\x1b[0m"),
            Level::Error => ("\x1b[31m", "\x1b[0m"),
            Level::Critical => ("\x1b[1;31m", "\x1b[0m"),
        };
        lines.push_str(&time);
        if self.names_sites {
            lines.push(' ');
            lines.push_str(&printable(&message.site));
        }
        let text = printable(&message.message);
        // Writing to a string does not fail.
        let _ = writeln!(lines, " {colour}{level:8} {text}{end}");
    }
}

fn time_of(key: SortKey) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let id = key.to_string();
    let micros: Option<i128> = id.replace('.', "").parse().ok();
    micros
        .and_then(|micros| OffsetDateTime::from_unix_timestamp_nanos(micros * 1000).ok())
        .and_then(|time| time.format(&format).ok())
        .unwrap_or(id)
}

/// A text as one line without commands to the terminal, nor characters that
/// change the direction of what follows.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                shown.extend(character.escape_unicode());
            }
            _ if character.is_control() => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    shown
}

/// Writes to stdout at once.
pub fn write(text: &str) -> Result<(), Failure> {
    // anstream takes the colours out for a pipe, a file, a dumb terminal and
    // NO_COLOR, and knows the consoles of Windows.
    let mut stdout = anstream::stdout().lock();
    let result = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Failed(format!("cannot write the output: {error}")),
    })
}
