//! Publishers' keys: who may send when a deployment has them.

use local::{MESSAGES_TABLE, Options};
use logstream_core::publishers::Publisher;
use logstream_core::{ManagementApi, Messages, Publishers};
use serde_json::{Value, json};

use crate::support::{Answer, Client, Deployment, elsewhere, invoke, server, server_with};

/// A server with a key for the site `saf`, one for `saf` and `mrc`, and one for
/// all; and the three keys.
async fn with_keys() -> (Deployment, [String; 3]) {
    let (publishers, keys) = publishers();
    let options = Options {
        publishers,
        ..Options::default()
    };
    (Deployment::of(server_with(options).await), keys)
}

fn publishers() -> (Publishers, [String; 3]) {
    let sites = |sites: &[&str]| Some(sites.iter().map(ToString::to_string).collect());
    let new = |name: &str, sites, random| Publisher::new(name.into(), sites, random).unwrap();
    let (camera, camera_key) = new("camera", sites(&["saf"]), [1; 32]);
    let (dome, dome_key) = new("dome", sites(&["saf", "mrc"]), [2; 32]);
    let (all, all_key) = new("all", None, [3; 32]);
    let publishers = format!("{camera};{dome};{all}").parse().unwrap();
    (publishers, [camera_key, dome_key, all_key])
}

async fn post(deployment: &Deployment, site: &str, headers: &[&str]) -> Answer {
    let body = json!({"site": site, "log_message": "x"}).to_string();
    let mut request = deployment.request("POST", "/newlog").body(body);
    for header in headers {
        request = request.header("authorization", *header);
    }
    deployment.send(request).await
}

#[track_caller]
fn is_refused(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(text), "{message}");
    let scheme = (status == 401).then_some("Bearer");
    assert_eq!(answer.header("www-authenticate"), scheme);
}

#[tokio::test]
async fn a_key_in_the_header_may_send_to_its_sites() {
    let (deployment, [camera, dome, all]) = with_keys().await;
    for (key, site) in [
        (&camera, "saf"),
        (&dome, "saf"),
        (&dome, "mrc"),
        (&all, "mrc"),
        (&all, "any other"),
    ] {
        for scheme in ["Bearer", "bearer", "BEARER", "Bearer  "] {
            let header = format!("{scheme} {key}");
            let answer = post(&deployment, site, &[&header]).await;
            assert_eq!(answer.status, 200, "{scheme}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_request_without_a_known_key_is_401() {
    let (deployment, [camera, dome, all]) = with_keys().await;
    is_refused(&post(&deployment, "saf", &[]).await, 401, "Authorization");
    let bearer = |key: &str| format!("Bearer {key}");
    let (lower, cut) = (camera.to_lowercase(), &camera[1..]);
    assert_ne!(lower, camera);
    let two = format!("Bearer {camera}, Bearer {dome}");
    let hash = all_hash();
    for header in [bearer("wrong"), bearer(&lower), bearer(cut), bearer(&hash)] {
        is_refused(
            &post(&deployment, "saf", &[&header]).await,
            401,
            "not known",
        );
    }
    for header in [
        camera.clone(),
        format!("Basic {camera}"),
        "Bearer".into(),
        String::new(),
    ] {
        is_refused(
            &post(&deployment, "saf", &[&header]).await,
            401,
            "Authorization",
        );
    }
    // Two are no key, whatever they hold, in two headers or in one.
    is_refused(&post(&deployment, "saf", &[&two]).await, 401, "not known");
    for second in [&camera, &all] {
        let headers = [bearer(&camera), bearer(second)];
        let headers = headers.each_ref().map(String::as_str);
        is_refused(&post(&deployment, "saf", &headers).await, 401, "not known");
    }
    // A key belongs into the header, not into a body that logs may show.
    let body = json!({"site": "saf", "log_message": "x", "key": camera}).to_string();
    is_refused(&deployment.post(body).await, 401, "Authorization");
    assert_eq!(deployment.recent("saf").await, [] as [Value; 0]);
}

/// What a deployment knows of a key, and is none.
fn all_hash() -> String {
    let (publisher, _) = Publisher::new("all".into(), None, [3; 32]).unwrap();
    publisher.to_string().rsplit(':').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_of_another_site_is_403() {
    let (deployment, [camera, dome, _]) = with_keys().await;
    for (key, site) in [
        (&camera, "mrc"),
        (&camera, "SAF"),
        (&camera, "saf "),
        (&dome, "s"),
    ] {
        let answer = post(&deployment, site, &[&format!("Bearer {key}")]).await;
        is_refused(&answer, 403, "may not send to this site");
        assert_eq!(deployment.recent(site).await, [] as [Value; 0]);
    }
}

#[tokio::test]
async fn a_frame_needs_a_key_of_its_site_in_the_field_key() {
    let (deployment, [camera, ..]) = with_keys().await;
    let mut sender = deployment.connect("saf").await;
    let mut frame = json!({"action": "newlog", "site": "saf", "log_message": "no key"});
    is_error(&mut sender, &frame, "'key' is missing").await;
    for (key, text) in [
        (json!("wrong"), "not known"),
        (json!(7), "'key' is missing"),
        (Value::Null, "'key' is missing"),
    ] {
        frame["key"] = key;
        is_error(&mut sender, &frame, text).await;
    }
    frame["key"] = camera.as_str().into();
    frame["site"] = "mrc".into();
    is_error(&mut sender, &frame, "may not send to this site").await;
    frame["site"] = "saf".into();
    frame["log_message"] = "with its key".into();
    sender.send(frame.to_string()).await;
    assert_eq!(sender.next().await["message"], "with its key");
    assert_eq!(deployment.recent_texts("saf").await, ["with its key"]);
    assert_eq!(deployment.recent_texts("mrc").await, [""; 0]);
}

async fn is_error(sender: &mut Client, frame: &Value, text: &str) {
    sender.send(frame.to_string()).await;
    let answer = sender.next().await;
    assert_eq!(answer["log_level"], "error", "{answer}");
    assert!(
        answer["message"].as_str().unwrap().contains(text),
        "{answer}"
    );
    assert!(!answer.to_string().contains("wrong"), "{answer}");
}

#[tokio::test]
async fn every_message_of_an_array_needs_a_site_of_the_key_before_any_is_stored() {
    let (deployment, [camera, dome, _]) = with_keys().await;
    let body = ["saf", "saf", "mrc"].map(|site| json!({"site": site, "log_message": "x"}));
    let send = async |key: &str| {
        let request = deployment.request("POST", "/newlog");
        let request = request.header("authorization", format!("Bearer {key}"));
        let request = request.body(json!(body).to_string());
        deployment.send(request).await
    };
    let refused = "Message 2: The key 'camera' may not send to this site.";
    is_refused(&send(&camera).await, 403, refused);
    is_refused(&send("wrong").await, 401, "The key is not known.");
    assert_eq!(deployment.recent("saf").await, [] as [Value; 0]);
    assert_eq!(send(&dome).await.status, 200);
    assert_eq!(deployment.recent_texts("saf").await, ["x", "x"]);
    assert_eq!(deployment.recent_texts("mrc").await, ["x"]);
}

#[tokio::test]
async fn reading_needs_no_key() {
    let (deployment, [camera, ..]) = with_keys().await;
    let mut viewer = deployment.connect("saf").await;
    post(&deployment, "saf", &[&format!("Bearer {camera}")]).await;
    assert_eq!(viewer.next().await["message"], "x");
    assert_eq!(deployment.recent_texts("saf").await, ["x"]);
    assert_eq!(deployment.online("saf").await.len(), 1);
}

#[tokio::test]
async fn a_retry_with_a_revoked_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (publishers, [camera, dome, _]) = publishers();
    let mut options = Options {
        data_dir: Some(folder.path().to_owned()),
        publishers,
        ..Options::default()
    };
    let send = async |deployment: &Deployment, key: &str| {
        let body = json!({"site": "saf", "log_message": "x", "timestamp": 7}).to_string();
        let request = deployment.request("POST", "/newlog").body(body);
        let request = request.header("authorization", format!("Bearer {key}"));
        deployment.send(request).await
    };
    let server = server_with(options.clone()).await;
    let deployment = Deployment::at(server.url(), server.url().replace("http", "ws"), None);
    assert_eq!(send(&deployment, &camera).await.status, 200);
    server.stop().await;

    // Without the first entry.
    let (left, _) = Publisher::new("dome".into(), None, [2; 32]).unwrap();
    options.publishers = left.to_string().parse().unwrap();
    let deployment = Deployment::of(server_with(options).await);
    is_refused(&send(&deployment, &camera).await, 401, "not known");
    assert_eq!(send(&deployment, &dome).await.status, 200);
    assert_eq!(deployment.recent("saf").await.len(), 1);
}

#[tokio::test]
async fn what_is_refused_touches_no_table() {
    // Tables that nothing reaches would make it a 503 after 3 s.
    let away = elsewhere(&server().await, "http://127.0.0.1:1");
    let messages = Messages::new(&away, MESSAGES_TABLE.to_owned());
    let management_api = ManagementApi::new(&away);
    let (publishers, [camera, ..]) = publishers();
    let handler = |request| newlog::handle(&messages, &management_api, &publishers, request);
    let event = |authorization: &str| {
        json!({
            "version": "2.0",
            "rawQueryString": "",
            "headers": {"authorization": authorization},
            "body": json!({"site": "mrc", "log_message": "x"}).to_string(),
            "isBase64Encoded": false,
            "requestContext": {"http": {"method": "POST"}},
        })
    };
    let answer = invoke(handler, &event("Bearer wrong")).await;
    assert_eq!(answer["statusCode"], 401);
    let answer = invoke(handler, &event(&format!("Bearer {camera}"))).await;
    assert_eq!(answer["statusCode"], 403);
}
