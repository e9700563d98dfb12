//! What the functions share: the wire types, the two tables, posting to a
//! connection, and the one mapping from an error to a response.
//!
//! Every function and the local server use these same types. Only the
//! endpoints inside the [`aws_config::SdkConfig`] differ between AWS and one
//! machine.

// cargo-lambda's own profile would abort.
#[cfg(not(panic = "unwind"))]
compile_error!("a panic must cost one event, not the process: build with panic = \"unwind\"");

pub mod api_gateway;
pub mod backoff;
pub mod config;
pub mod connections;
mod dns;
pub mod error;
pub mod lambda;
pub mod logging;
pub mod management_api;
pub mod message;
pub mod messages;
pub mod metrics;
pub mod placement;
pub mod publishers;
pub mod sort_key;
pub mod subscription;
pub mod table;
pub mod text;

pub use backoff::backoff;
pub use connections::{Connection, Connections};
pub use error::Error;
pub use management_api::ManagementApi;
pub use message::{Level, Message};
pub use messages::Messages;
pub use publishers::Publishers;
pub use sort_key::SortKey;
pub use subscription::Subscription;
