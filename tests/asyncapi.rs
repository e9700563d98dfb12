//! `docs/asyncapi.yaml`: every frame that a test receives is held against it.

use std::sync::LazyLock;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use serde_json::Value;

/// The frames of the description.
pub struct Description {
    document: Value,
    schemas: Schemas,
    received: Vec<(String, SchemaIndex)>,
    sent: Vec<(String, SchemaIndex)>,
}

impl Description {
    pub fn get() -> &'static Self {
        static DESCRIPTION: LazyLock<Description> = LazyLock::new(Description::read);
        &DESCRIPTION
    }

    fn read() -> Self {
        const URL: &str = "http://docs/asyncapi.yaml";
        let text = include_str!("../docs/asyncapi.yaml");
        let document: Value = yaml_serde::from_str(text).unwrap();
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V7);
        compiler.add_resource(URL, document.clone()).unwrap();
        let mut schemas = Schemas::new();
        let mut compile = |names: Vec<String>| -> Vec<_> {
            names
                .into_iter()
                .map(|name| {
                    let place = format!("{URL}#/components/messages/{name}/payload");
                    let schema = compiler.compile(&place, &mut schemas);
                    (name, schema.unwrap_or_else(|error| panic!("{error:#}")))
                })
                .collect()
        };
        Self {
            received: compile(received(&document)),
            sent: compile(sent(&document)),
            schemas,
            document,
        }
    }

    /// Panics unless the server may send this frame.
    pub fn check_received(&self, frame: &str) {
        if let Err(reasons) = self.is_one_of(&self.received, frame) {
            panic!("docs/asyncapi.yaml does not describe this frame: {frame:.2000}\n{reasons}");
        }
    }

    /// The messages of both directions, each with its name and its examples.
    pub fn examples(&self) -> impl Iterator<Item = (&str, &Value)> {
        let messages = self.received.iter().chain(&self.sent);
        messages.flat_map(|(name, _)| {
            let examples = self.document["components"]["messages"][name]["examples"].as_array();
            let examples = examples.into_iter().flatten();
            examples.map(move |example| (name.as_str(), &example["payload"]))
        })
    }

    /// The names of the messages that a frame may be.
    pub fn names(&self, frame: &Value) -> Vec<&str> {
        let messages = self.received.iter().chain(&self.sent);
        messages
            .filter(|(_, schema)| self.schemas.validate(frame, *schema).is_ok())
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Whether a client may send this frame.
    pub fn may_be_sent(&self, frame: &str) -> bool {
        self.is_one_of(&self.sent, frame).is_ok()
    }

    fn is_one_of(&self, messages: &[(String, SchemaIndex)], frame: &str) -> Result<(), String> {
        let frame: Value = serde_json::from_str(frame).map_err(|error| error.to_string())?;
        let mut reasons = String::new();
        for (name, schema) in messages {
            match self.schemas.validate(&frame, *schema) {
                Ok(()) => return Ok(()),
                Err(error) => reasons += &format!("not '{name}': {error:#}\n"),
            }
        }
        Err(reasons)
    }
}

/// The messages of the server's own operations, then those of its answers.
fn received(document: &Value) -> Vec<String> {
    let operations = || document["operations"].as_object().unwrap().values();
    let own = operations().filter(|operation| operation["action"] == "send");
    let answers = operations().map(|operation| &operation["reply"]);
    let mut names: Vec<String> = Vec::new();
    for name in own.chain(answers).flat_map(names_of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The messages of the operations that are the clients'.
fn sent(document: &Value) -> Vec<String> {
    let operations = document["operations"].as_object().unwrap().values();
    operations
        .filter(|operation| operation["action"] == "receive")
        .flat_map(names_of)
        .collect()
}

fn names_of(operation: &Value) -> Vec<String> {
    let messages = operation["messages"].as_array();
    messages
        .into_iter()
        .flatten()
        .map(|message| {
            let place = message["$ref"].as_str().unwrap();
            let name = place.strip_prefix("#/channels/connection/messages/");
            name.unwrap().to_owned()
        })
        .collect()
}
