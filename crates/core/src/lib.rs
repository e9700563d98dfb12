//! What the functions share: the wire types, the two tables, posting to a
//! connection, and the one mapping from an error to a response.
//!
//! Every function and the local server use these same types. What differs
//! between AWS and one machine is the endpoints inside the [`aws_config::SdkConfig`],
//! nothing else.

pub mod backoff;
pub mod config;
pub mod connections;
pub mod error;
pub mod gateway;
pub mod http;
pub mod logging;
pub mod message;
pub mod messages;
pub mod placement;
pub mod sort_key;
pub mod table;

pub use connections::{Connection, Connections};
pub use error::Error;
pub use gateway::Gateway;
pub use message::{Level, Message, NewMessage};
pub use messages::Messages;
pub use sort_key::SortKey;
