//! Tests of the server as a process: what it needs and says at its start, its
//! limits, its signals, its crashes; and of the commands. They are here because
//! Cargo tells only a package's own tests where its binary is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[cfg(target_os = "linux")]
mod clock;
mod commands;
mod crash;
mod keys;
mod limits;
mod metrics;
mod start;
mod support;
