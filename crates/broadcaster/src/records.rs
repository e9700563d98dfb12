//! Reading the records of a batch.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use aws_lambda_events::dynamodb::EventRecord;
use aws_sdk_apigatewaymanagement::primitives::Blob;
use logstream_core::message::{MAX_FRAME_BYTES, to_userstatus};
use logstream_core::{Level, SortKey, messages};
use serde::Deserialize;
use serde_json::Value;

/// The event of a DynamoDB stream. The records are read one by one, because a
/// single record of an unknown shape must not fail the batch, and with it the
/// stream.
#[derive(Deserialize, Default)]
pub struct StreamEvent {
    /// The records in the order of the stream.
    #[serde(rename = "Records", default)]
    pub records: Vec<Value>,
}

/// A new message.
pub struct Record {
    /// Shared by all records of the site.
    pub site: Arc<str>,
    pub sequence_number: String,
    pub level: Level,
    /// When it was stored, if its row says so.
    pub stored_at: Option<SortKey>,
    /// When a viewer had it last, in microseconds since the batch began; 0 if
    /// none has it.
    pub delivered: AtomicU64,
    /// The frame, the same for every client.
    frame: Blob,
    /// The frame under the topic of today's frontend, once one needs it.
    userstatus: OnceLock<Blob>,
}

impl Record {
    pub fn new(
        site: Arc<str>,
        sequence_number: String,
        level: Level,
        stored_at: Option<SortKey>,
        frame: String,
    ) -> Self {
        Self {
            site,
            sequence_number,
            level,
            stored_at,
            delivered: AtomicU64::new(0),
            frame: Blob::new(frame),
            userstatus: OnceLock::new(),
        }
    }

    /// The frame as a connection gets it. One that would be too large under its
    /// topic comes as it is: today's frontend then finds the message in the
    /// history.
    pub fn frame(&self, is_userstatus: bool) -> Blob {
        if !is_userstatus {
            return self.frame.clone();
        }
        let under_topic = || to_userstatus(self.frame.as_ref()).map(Blob::new);
        let made = || under_topic().unwrap_or_else(|| self.frame.clone());
        self.userstatus.get_or_init(made).clone()
    }
}

/// The new messages of a batch, in stream order. Anything but an INSERT is
/// passed over. A record that cannot be read is logged and skipped.
pub fn new_messages(event: StreamEvent) -> Vec<Record> {
    let mut sites = HashSet::new();
    let mut records = Vec::with_capacity(event.records.len());
    for record in event.records {
        // The mapping filters too, but not in every place that runs this.
        if record.get("eventName").and_then(Value::as_str) != Some("INSERT") {
            continue;
        }
        let event_id = record.get("eventID").and_then(Value::as_str);
        let event_id = event_id.map(str::to_owned);
        match read(record, &mut sites) {
            Ok(record) => records.push(record),
            Err(cause) => {
                tracing::error!(event_id, cause, "stream record cannot be read, skipped");
            }
        }
    }
    records
}

fn read(record: Value, sites: &mut HashSet<Arc<str>>) -> Result<Record, &'static str> {
    let record: EventRecord =
        serde_json::from_value(record).map_err(|_| "it is not the shape of a record")?;
    let sequence_number = record
        .change
        .sequence_number
        .ok_or("it has no sequence number")?;
    let mut row = record.change.new_image.into();
    let stored_at = messages::stored_at(&row);
    let message = messages::from_item(&mut row).ok_or("its new image is not a message")?;
    let frame = message.to_frame();
    let level = message.level;
    if frame.len() > MAX_FRAME_BYTES {
        return Err("its frame is larger than API Gateway's limit");
    }
    let site = match sites.get(message.site.as_str()) {
        Some(site) => site.clone(),
        None => {
            let site: Arc<str> = message.site.into();
            sites.insert(site.clone());
            site
        }
    };
    Ok(Record::new(site, sequence_number, level, stored_at, frame))
}
