//! The contract as tests, over real HTTP and real WebSockets, against a local
//! server that each test starts for itself.
//!
//! With `LOGSTREAM_HTTP_URL` and `LOGSTREAM_WS_URL` set, the tests of `api` run
//! against that deployment instead: their sites are unique and they assume
//! nothing about its contents. The tests of `inside` look behind the APIs, at
//! the tables, at the broadcaster with a gateway that fails, or at the local
//! server itself, and always use a server of their own.

mod support;

mod api {
    mod broadcast;
    mod load;
    mod newlog;
    mod online_users;
    mod openapi;
    mod recent_logs;
    mod subscribe;
    mod vectors;
    mod websocket;
}

mod inside {
    mod broadcaster;
    mod connections;
    mod described;
    mod hostile;
    mod keys;
    mod outage;
    mod pages;
    mod recorder;
    mod server;
    mod slow;
    mod storage;
    mod stream;
    mod tables;

    use crate::support::{Deployment, server};

    /// A server of the test's own, with its tables.
    async fn deployment_and_tables() -> (Deployment, tables::Tables) {
        let server = server().await;
        let tables = tables::Tables::of(&server);
        (Deployment::of(server), tables)
    }
}
