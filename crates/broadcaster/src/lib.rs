//! The messages table's stream: sends every new message to each client that
//! watches its site.

mod blame;
mod fan_out;
mod pace;
mod records;

use std::time::{Duration, SystemTime};

use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use lambda_runtime::LambdaEvent;
use logstream_core::{Connections, ManagementApi};
use tokio::time::Instant;
use tracing::Instrument as _;

use fan_out::FanOut;
pub use fan_out::Memory;
pub use records::StreamEvent;

/// The most records of a batch. A site's connections are read once for all of
/// them, and 20 busy sites get a quarter more messages/s than with 20 records.
/// More would gain another quarter at 200, but a connection's frames go out one
/// after another: with 100 a gateway that takes 0.25 s for each still finishes
/// before the deadline.
pub const BATCH_SIZE: usize = 100;

/// How much of the function's time is kept to report what is left.
const RESERVE: Duration = Duration::from_secs(5);

/// Broadcasts a batch. The response names each record that some connection
/// was left without and that comes first for that connection. The batch is
/// given again from the lowest of them (partial batch response), and
/// `memory` then knows who has what.
pub async fn handle(
    connections: &Connections,
    management_api: &ManagementApi,
    memory: &Memory,
    event: LambdaEvent<StreamEvent>,
) -> DynamoDbEventResponse {
    let deadline = Instant::now()
        + event
            .context
            .deadline()
            .duration_since(SystemTime::now())
            .unwrap_or_default();
    let end = deadline.checked_sub(RESERVE).unwrap_or(deadline);
    // At ERROR, so that the request id is there at every log level.
    let span = tracing::error_span!("broadcast", request_id = event.context.request_id);

    let records = span.in_scope(|| records::new_messages(event.payload));
    let fan_out = FanOut::new(connections, management_api, memory, records, end);
    let undelivered = fan_out.broadcast(memory).instrument(span).await;

    let mut response = DynamoDbEventResponse::default();
    response.batch_item_failures = undelivered.into_iter().map(failure).collect();
    response
}

fn failure(sequence_number: String) -> DynamoDbBatchItemFailure {
    let mut failure = DynamoDbBatchItemFailure::default();
    failure.item_identifier = Some(sequence_number);
    failure
}
