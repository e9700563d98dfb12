//! Cases recorded from the Python system whose outcome its clients rely on:
//! what was sent, and what must come of it here. The additions to its answers,
//! ids and fractions of a second, are not compared.

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{Client, Deployment, unique};

const CASES: &str = include_str!("../vectors.json");

#[tokio::test]
async fn the_python_systems_clients_still_get_what_they_rely_on() {
    let deployment = Deployment::start().await;
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    assert!(cases.len() > 50, "{}", cases.len());
    stream::iter(cases)
        .for_each_concurrent(8, |case| {
            let deployment = &deployment;
            async move {
                let name = case["name"].as_str().unwrap();
                run(deployment, name, &expand(&case, &unique("vector"))).await;
            }
        })
        .await;
}

async fn run(deployment: &Deployment, name: &str, case: &Value) {
    let expect = &case["expect"];
    let site = case["site"].as_str().unwrap();
    let mut watcher = deployment.connect(site).await;
    let mut sender = deployment.connect(site).await;
    let mut answers = Vec::new();
    let mut own = Vec::new();
    for step in case["send"].as_array().unwrap() {
        if let Some(text) = step["websocket"].as_str() {
            sender.send(text).await;
            if let Some(error) = expect["error_frame"].as_str() {
                is_error(&mut sender, error, name).await;
            } else {
                // Once the message comes back it is stored, so the next step
                // may read it.
                while own.len() < expect["frames"].as_array().unwrap().len() {
                    own.push(sender.next().await);
                }
            }
        } else {
            answers.push(deployment.send(request(deployment, &step["http"])).await);
        }
    }
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(
        expect["status"],
        Value::from(statuses),
        "{name}: {answers:.500?}"
    );
    if let Some(body) = expect["body"].as_str() {
        assert_eq!(answers.last().unwrap().body, body, "{name}");
    }
    if let Some(json) = expect.get("json") {
        assert_eq!(
            without_additions(answers.last().unwrap().json()),
            *json,
            "{name}"
        );
    }
    if let Some(field) = expect["field"].as_str() {
        let error = answers.last().unwrap().error();
        assert!(error.contains(field), "{name}: {error}");
    }
    if let Some(frames) = expect.get("frames") {
        let received = deployment.frames_until_now(site, &mut watcher).await;
        let received = without_additions(received.into_iter().filter(is_not_marker).collect());
        assert_eq!(received, *frames, "{name}");
    }
    if !own.is_empty() {
        // The sender gets what every client gets, and nothing else.
        own.extend(deployment.frames_until_now(site, &mut sender).await);
        let own = without_additions(own.into_iter().filter(is_not_marker).collect());
        assert_eq!(own, expect["frames"], "{name}");
    }
}

async fn is_error(sender: &mut Client, text: &str, name: &str) {
    let frame = sender.next().await;
    assert_eq!(frame["log_level"], "error", "{name}: {frame}");
    assert!(frame.get("id").is_none(), "{name}: {frame}");
    let message = frame["message"].as_str().unwrap();
    assert!(message.contains(text), "{name}: {message}");
}

fn request(deployment: &Deployment, http: &Value) -> reqwest::RequestBuilder {
    let mut request = deployment.request(
        http["method"].as_str().unwrap(),
        http["path"].as_str().unwrap(),
    );
    if let Some(query) = http["query"].as_object() {
        let query = query
            .iter()
            .map(|(key, value)| (key, value.as_str().unwrap()));
        request = request.query(&query.collect::<Vec<_>>());
    }
    if let Some(content_type) = http["content_type"].as_str() {
        request = request.header("content-type", content_type);
    }
    if let Some(body) = http["body"].as_str() {
        request = request.body(body.to_owned());
    }
    request
}

fn is_not_marker(frame: &Value) -> bool {
    !frame["message"].as_str().unwrap().starts_with("marker")
}

/// Removes the `id`, and the fraction of a numeric `timestamp`, from every
/// object of a list.
fn without_additions(mut value: Value) -> Value {
    for item in value.as_array_mut().into_iter().flatten() {
        if let Some(item) = item.as_object_mut() {
            item.remove("id");
            if let Some(seconds) = item.get("timestamp").and_then(Value::as_f64) {
                item.insert("timestamp".to_owned(), json!(seconds as u64));
            }
        }
    }
    value
}

/// Replaces `$SITE` with a case's own site, and `$REPEAT(x,n)` with n times x.
fn expand(case: &Value, site: &str) -> Value {
    fn strings(value: &mut Value, change: &impl Fn(&str) -> String) {
        match value {
            Value::String(text) => *text = change(text),
            Value::Array(items) => items.iter_mut().for_each(|item| strings(item, change)),
            Value::Object(fields) => fields.values_mut().for_each(|field| strings(field, change)),
            _ => {}
        }
    }
    let mut case = case.clone();
    case["site"] = site.into();
    strings(&mut case, &|text| repeat(&text.replace("$SITE", site)));
    case
}

fn repeat(text: &str) -> String {
    let Some((before, rest)) = text.split_once("$REPEAT(") else {
        return text.to_owned();
    };
    let (what, rest) = rest.split_once(',').unwrap();
    let (count, after) = rest.split_once(')').unwrap();
    format!(
        "{before}{}{}",
        what.repeat(count.parse().unwrap()),
        repeat(after)
    )
}
