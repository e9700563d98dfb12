//! Records the calls to the database.

use std::sync::{Arc, Mutex};

use aws_config::SdkConfig;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use local::Server;
use serde_json::Value;

/// The calls to a server's database since the last [`Self::take`].
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    calls: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    /// A recorder, and settings whose calls go through it.
    pub fn before(server: &Server) -> (Self, SdkConfig) {
        let recorder = Self::default();
        let config = server.database();
        let recording = Recording {
            calls: recorder.clone(),
            client: config.http_client().unwrap(),
        };
        let config = config.into_builder().http_client(recording).build();
        (recorder, config)
    }

    /// Takes the names of the calls so far.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

#[derive(Debug)]
struct Recording<C> {
    calls: Recorder,
    client: C,
}

impl HttpClient for Recording<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Recording {
            calls: self.calls.clone(),
            client: self.client.http_connector(settings, components),
        })
    }
}

impl HttpConnector for Recording<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap();
        let operation = target.rsplit('.').next().unwrap().to_owned();
        let mut calls = self.calls.calls.lock().unwrap();
        if operation == "TransactWriteItems" {
            // Its parts, which are what a role must allow.
            let body = request.body().bytes().unwrap();
            let body: Value = serde_json::from_slice(body).unwrap();
            for part in body["TransactItems"].as_array().unwrap() {
                let verbs = part.as_object().unwrap().keys();
                calls.extend(verbs.map(|verb| format!("{verb}Item")));
            }
        } else {
            calls.push(operation);
        }
        drop(calls);
        self.client.call(request)
    }
}
