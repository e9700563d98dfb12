//! A proxy in front of the database that records the calls.

use std::sync::{Arc, Mutex};

use aws_config::SdkConfig;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use local::Server;

/// The calls to a server's database since the last [`Self::take`].
#[derive(Clone, Default)]
pub struct Recorder {
    calls: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    /// A recorder, and settings whose calls go through it.
    pub async fn before(server: &Server) -> (Self, SdkConfig) {
        let recorder = Self::default();
        let (calls, url) = (recorder.calls.clone(), server.database_url());
        let client = reqwest::Client::new();
        let forward = move |headers: HeaderMap, body: Bytes| {
            let target = headers["x-amz-target"].to_str().unwrap();
            let operation = target.rsplit('.').next().unwrap().to_owned();
            calls.lock().unwrap().push(operation);
            let request = client.post(&url).headers(headers).body(body);
            async move {
                let answer = request.send().await.unwrap();
                let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
                (status, answer.bytes().await.unwrap())
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let proxy = Router::new().fallback(forward);
        tokio::spawn(async { axum::serve(listener, proxy).await });
        let config = server.sdk_config().into_builder().endpoint_url(endpoint);
        (recorder, config.build())
    }

    /// Takes the names of the calls so far.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}
