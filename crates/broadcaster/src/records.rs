//! Reading the records of a batch.

use aws_lambda_events::dynamodb::EventRecord;
use aws_sdk_apigatewaymanagement::primitives::Blob;
use logstream_core::message::MAX_FRAME_BYTES;
use logstream_core::messages;
use serde::Deserialize;
use serde_json::Value;

/// The event of a DynamoDB stream. The records are read one by one: a single
/// one of an unknown shape must not fail the batch, and with it the stream.
#[derive(Deserialize, Default)]
pub struct StreamEvent {
    /// The records in the order of the stream.
    #[serde(rename = "Records", default)]
    pub records: Vec<Value>,
}

/// The new messages of one site, in stream order.
pub struct SiteRecords {
    pub site: String,
    pub records: Vec<Record>,
}

/// A new message.
pub struct Record {
    pub sequence_number: String,
    /// The frame, the same for every client.
    pub frame: Blob,
}

/// Groups the new messages of a batch by site. What is no INSERT is passed
/// over; what cannot be read is logged and skipped.
pub fn by_site(event: StreamEvent) -> Vec<SiteRecords> {
    let mut sites: Vec<SiteRecords> = Vec::new();
    for record in event.records {
        // The mapping filters too, but not in every place that runs this.
        if record.get("eventName").and_then(Value::as_str) != Some("INSERT") {
            continue;
        }
        let event_id = record
            .get("eventID")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let (site, record) = match read(record) {
            Ok(message) => message,
            Err(cause) => {
                tracing::error!(event_id, cause, "stream record cannot be read, skipped");
                continue;
            }
        };
        match sites.iter_mut().find(|known| known.site == site) {
            Some(known) => known.records.push(record),
            None => sites.push(SiteRecords {
                site,
                records: vec![record],
            }),
        }
    }
    sites
}

fn read(record: Value) -> Result<(String, Record), &'static str> {
    let record: EventRecord =
        serde_json::from_value(record).map_err(|_| "it is not the shape of a record")?;
    let sequence_number = record
        .change
        .sequence_number
        .ok_or("it has no sequence number")?;
    let message = messages::from_item(&record.change.new_image.into())
        .ok_or("its new image is not a message")?;
    let frame = message.to_frame();
    if frame.len() > MAX_FRAME_BYTES {
        return Err("its frame is larger than API Gateway's limit");
    }
    let record = Record {
        sequence_number,
        frame: Blob::new(frame),
    };
    Ok((message.site, record))
}
