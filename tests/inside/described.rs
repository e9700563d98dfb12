//! `docs/asyncapi.yaml` has the server's routes, and allows a client to send
//! what the server takes and nothing else. What the server sends is compared in
//! every test, by `Client`.

use std::collections::BTreeSet;

use local::WEBSOCKET_ROUTES;
use serde_json::{Value, json};

use crate::support::asyncapi::Description;
use crate::support::{Client, Deployment, server};

/// The examples of what clients send.
fn examples() -> Vec<Value> {
    let description = Description::get();
    let examples = description.examples().map(|(_, frame)| frame);
    let sent = examples.filter(|frame| description.may_be_sent(&frame.to_string()));
    sent.cloned().collect()
}

/// Sends a frame, and returns what is wrong with it, if anything. The server
/// carries out a connection's frames one after the other.
async fn refusal(client: &mut Client, frame: &Value) -> Option<String> {
    client.send(frame.to_string()).await;
    client.send(json!({"action": "ping"}).to_string()).await;
    let mut refusal = None;
    loop {
        let answer = client.next().await;
        if answer == json!({"action": "pong"}) {
            return refusal;
        }
        if answer["log_level"] == "error" && answer.get("id").is_none() {
            refusal = Some(answer["message"].as_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_frame_has_examples_that_are_that_frame_and_no_other() {
    let description = Description::get();
    let names: BTreeSet<_> = description.examples().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    for (name, frame) in description.examples() {
        assert_eq!(description.names(frame), [name], "{frame}");
    }
}

#[test]
fn every_action_of_the_server_is_described_and_no_other() {
    let examples = examples();
    let described = examples.iter().map(|frame| frame["action"].as_str());
    let served = WEBSOCKET_ROUTES.map(|(route, _)| route);
    let served = served.into_iter().filter(|route| !route.starts_with('$'));
    // The route `$default` answers it.
    let served = served.chain(["ping"]).map(Some);
    assert_eq!(
        described.collect::<BTreeSet<_>>(),
        served.collect::<BTreeSet<_>>()
    );
}

#[tokio::test]
async fn the_server_takes_what_is_described_and_refuses_all_else() {
    let deployment = Deployment::of(server().await);
    let mut client = deployment.connect("tst").await;
    let values = [
        Value::Null,
        json!(true),
        json!(5),
        json!(-5),
        json!(1e20),
        json!(""),
        json!("1604514063.25"),
        json!("debug"),
        json!("loud"),
        json!("x".repeat(1025)),
        json!([]),
        json!(["a", "b"]),
        json!(["a", "a"]),
        json!(["a", ""]),
        json!(["a", 5]),
        json!((0..11).map(|site| site.to_string()).collect::<Vec<_>>()),
        json!({}),
        json!({"a": "b"}),
    ];
    let (mut taken, mut refused) = (0, 0);
    for example in examples().iter().filter(|frame| frame["action"] != "ping") {
        let mut frames = vec![example.clone()];
        // Another action is another frame, and this server has no keys.
        let fields = example.as_object().unwrap().keys();
        for field in fields.filter(|field| !["action", "key"].contains(&field.as_str())) {
            let mut without = example.clone();
            without.as_object_mut().unwrap().remove(field);
            frames.push(without);
            for value in &values {
                let mut changed = example.clone();
                changed[field] = value.clone();
                frames.push(changed);
            }
        }
        for frame in frames {
            let refusal = refusal(&mut client, &frame).await;
            let may_be_sent = Description::get().may_be_sent(&frame.to_string());
            assert_eq!(refusal.is_none(), may_be_sent, "{frame:.200}: {refusal:?}");
            *(if may_be_sent {
                &mut taken
            } else {
                &mut refused
            }) += 1;
        }
    }
    assert!(
        taken > 20 && refused > 50,
        "{taken} taken, {refused} refused"
    );
}
