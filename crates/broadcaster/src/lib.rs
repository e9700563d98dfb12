//! The messages table's stream: sends every new message to each client that
//! watches its site.

mod fan_out;
mod records;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use futures_util::future::join_all;
use lambda_runtime::LambdaEvent;
use logstream_core::{Connections, Gateway};
use tokio::time::Instant;

use fan_out::FanOut;
use records::SiteRecords;
pub use records::StreamEvent;

/// The records that one invocation may be given. One connection takes its
/// site's records one after the other, about 10 ms each, and is waited for
/// by the next message of all others: this many make a fifth of a second.
pub const BATCH_SIZE: usize = 20;

/// What is kept of the function's time to report what is left.
const RESERVE: Duration = Duration::from_secs(5);

/// Broadcasts a batch. The answer names, for each site that was not served
/// in full, its first record that was not: the batch is given again from the
/// lowest of them (partial batch response).
pub async fn handle(
    connections: &Connections,
    gateway: &Gateway,
    event: LambdaEvent<StreamEvent>,
) -> DynamoDbEventResponse {
    let deadline = Instant::now()
        + event
            .context
            .deadline()
            .duration_since(SystemTime::now())
            .unwrap_or_default();
    let end = deadline.checked_sub(RESERVE).unwrap_or(deadline);
    let fan_out = Arc::new(FanOut::new(connections, gateway, end));

    let sites: Vec<_> = records::by_site(event.payload)
        .into_iter()
        .map(Arc::new)
        .collect();
    let failed = join_all(sites.iter().map(|site| serve(&fan_out, site))).await;

    let mut response = DynamoDbEventResponse::default();
    response.batch_item_failures = failed.into_iter().flatten().map(failure).collect();
    response
}

/// Serves the clients of a site; returns the sequence number of the first
/// record that was not delivered to all of them.
async fn serve(fan_out: &Arc<FanOut>, site: &Arc<SiteRecords>) -> Option<String> {
    let undelivered = match fan_out.connections.of_site(&site.site).await {
        Ok(connections) => fan_out.deliver(site, connections).await,
        Err(error) => {
            error.log();
            Some(0)
        }
    };
    undelivered
        .and_then(|index| site.records.get(index))
        .map(|record| record.sequence_number.clone())
}

fn failure(sequence_number: String) -> DynamoDbBatchItemFailure {
    let mut failure = DynamoDbBatchItemFailure::default();
    failure.item_identifier = Some(sequence_number);
    failure
}
