//! What a connection watches: several sites, a least level, and the actions
//! `subscribe` and `updatesubscribersite` that change it.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use super::websocket::error;
use crate::support::{Client, Deployment, eventually, texts, unique};

/// Sends a message of a level.
async fn log(deployment: &Deployment, site: &str, text: &str, level: &str) {
    let body =
        json!({"site": site, "log_message": text, "log_level": level, "timestamp": 1604514063});
    let answer = deployment.post(body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Has a client watch something else, and returns the frames that came before
/// the answer.
async fn subscribe(client: &mut Client, sites: &[&str], level: &str) -> Vec<Value> {
    let frame = json!({"action": "subscribe", "site": sites, "level": level});
    client.send(frame.to_string()).await;
    let answer = json!({"action": "subscribed", "site": sites, "level": level});
    let mut frames = Vec::new();
    loop {
        let frame = client.next().await;
        if frame == answer {
            return frames;
        }
        frames.push(frame);
    }
}

#[tokio::test]
async fn a_connection_may_watch_several_sites_from_a_level_on() {
    let deployment = Deployment::start().await;
    let [saf, mrc, other] = ["saf", "mrc", "other"].map(unique);
    let query = [("site", &*saf), ("site", &*mrc), ("level", "Warn")];
    let mut client = deployment.try_connect(&query).await.unwrap();
    let mut all = deployment.connect(&saf).await;
    for (site, level, text) in [
        (&saf, "debug", "saf 1"),
        (&saf, "info", "saf 2"),
        (&mrc, "warning", "mrc 1"),
        (&other, "critical", "other 1"),
        (&saf, "unknown", "saf 3"),
        (&mrc, "error", "mrc 2"),
        (&saf, "fatal", "saf 4"),
    ] {
        log(&deployment, site, text, level).await;
    }
    for (site, level, text) in [
        (&mrc, "warning", "mrc 1"),
        (&mrc, "error", "mrc 2"),
        (&saf, "critical", "saf 4"),
    ] {
        let frame = client.next().await;
        let seen = [&frame["site"], &frame["log_level"], &frame["message"]];
        assert_eq!(seen, [site.as_str(), level, text]);
    }
    // The other viewer of the site is none the wiser.
    let frames = deployment.frames_until_now(&saf, &mut all).await;
    assert_eq!(texts(&frames), ["saf 1", "saf 2", "saf 3", "saf 4"]);
    for site in [&saf, &mrc] {
        let online = deployment.online(site).await;
        assert_eq!(online.len(), 1 + usize::from(site == &saf));
    }
}

#[tokio::test]
async fn a_handshake_with_a_wrong_subscription_is_refused() {
    let deployment = Deployment::start().await;
    let names: Vec<_> = (0..11).map(|site| site.to_string()).collect();
    let many: Vec<_> = names.iter().map(|site| ("site", site.as_str())).collect();
    for query in [
        &[("site", "a"), ("site", "a")][..],
        &[("site", "a"), ("site", "")],
        &[("site", "a"), ("level", "loud")],
        &[("site", "a"), ("level", "info"), ("level", "info")],
        &[("site", "a"), ("topic", "sitestatus")],
        &many,
    ] {
        match deployment.try_connect(query).await {
            Err(Error::Http(refusal)) => assert!(refusal.status().is_client_error(), "{refusal:?}"),
            other => panic!("{query:?}: {:?}", other.map(|_| "connected")),
        }
    }
    deployment.try_connect(&many[1..]).await.unwrap();
}

#[tokio::test]
async fn an_open_connection_can_watch_other_sites_and_another_level() {
    let deployment = Deployment::start().await;
    let [first, kept, new] = ["first", "kept", "new"].map(unique);
    let query = [("site", first.as_str()), ("site", &kept)];
    let mut client = deployment.try_connect(&query).await.unwrap();
    let mut other = deployment.connect(&first).await;
    assert!(
        subscribe(&mut client, &[&kept, &new], "info")
            .await
            .is_empty()
    );
    log(&deployment, &first, "not any more", "error").await;
    log(&deployment, &kept, "still", "info").await;
    log(&deployment, &new, "too little", "debug").await;
    log(&deployment, &new, "now", "info").await;
    assert_eq!(client.next().await["message"], "still");
    assert_eq!(client.next().await["message"], "now");
    let online = async |site| deployment.online(site).await.len();
    assert_eq!(online(&first).await, 1);
    assert_eq!(online(&kept).await, 1);
    assert_eq!(online(&new).await, 1);

    // One site needs no array, and without a level all come.
    client
        .send(json!({"action": "subscribe", "site": new}).to_string())
        .await;
    let answer = json!({"action": "subscribed", "site": [new], "level": "debug"});
    assert_eq!(client.next().await, answer);
    log(&deployment, &kept, "not any more", "error").await;
    log(&deployment, &new, "fine", "debug").await;
    assert_eq!(client.next().await["message"], "fine");
    deployment.no_frame_until_now(&new, &mut client).await;
    let frames = deployment.frames_until_now(&first, &mut other).await;
    assert_eq!(texts(&frames), ["not any more"]);
}

#[tokio::test]
async fn a_wrong_subscription_changes_nothing_and_is_told_to_its_sender_alone() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let mut other = deployment.connect(&site).await;
    let [own, _] = <[String; 2]>::try_from(deployment.online(&site).await).unwrap();
    for (frame, expected) in [
        (json!({"action": "subscribe"}), "'site' is missing"),
        (
            json!({"action": "subscribe", "site": []}),
            "'site' has 0 entries",
        ),
        (
            json!({"action": "subscribe", "site": ["a", 7]}),
            "'site', entry 1",
        ),
        (
            json!({"action": "subscribe", "site": ["a"], "level": "loud"}),
            "'level' is not a level",
        ),
        (
            json!({"action": "updatesubscribersite", "site": ["a"]}),
            "'site' is not a string",
        ),
    ] {
        client.send(frame.to_string()).await;
        let text = error(&mut client, "").await;
        assert!(text.starts_with(expected), "{text}");
    }
    let long = "s".repeat(1025);
    client
        .send(json!({"action": "subscribe", "site": long}).to_string())
        .await;
    let text = error(&mut client, "").await;
    assert!(text.starts_with("'site' is 1025 bytes long"), "{text}");
    // Where the connection itself has its row.
    for client in [&mut client, &mut other] {
        client
            .send(json!({"action": "subscribe", "site": ["a", own]}).to_string())
            .await;
    }
    let answers = [client.next().await, other.next().await];
    let is_error = |answer: &&Value| {
        let text = answer["message"].as_str().unwrap_or_default();
        text.starts_with("'site' is the connection's own id")
    };
    assert_eq!(answers.iter().filter(is_error).count(), 1, "{answers:?}");
    let refused = if is_error(&&answers[0]) {
        &mut client
    } else {
        &mut other
    };
    deployment.no_frame_until_now(&site, refused).await;
}

#[tokio::test]
async fn a_connections_own_id_is_no_site_of_its() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let [own] = <[String; 1]>::try_from(deployment.online(&site).await).unwrap();
    assert!(deployment.online(&own).await.is_empty());
    log(&deployment, &own, "to an id", "info").await;
    deployment.no_frame_until_now(&site, &mut client).await;
}

#[tokio::test]
async fn the_last_of_many_changes_counts() {
    let deployment = Deployment::start().await;
    let sites: Vec<_> = (0..20).map(|_| unique("tst")).collect();
    let mut client = deployment.connect(&sites[0]).await;
    for site in &sites {
        client
            .send(json!({"action": "subscribe", "site": site}).to_string())
            .await;
    }
    for _ in &sites {
        assert_eq!(client.next().await["action"], "subscribed");
    }
    let (last, others) = sites.split_last().unwrap();
    for site in others {
        assert!(deployment.online(site).await.is_empty());
    }
    deployment.no_frame_until_now(last, &mut client).await;
}

#[tokio::test]
async fn a_site_that_stays_watched_misses_nothing_while_the_others_change() {
    let deployment = Deployment::start().await;
    let [kept, one, two] = ["kept", "one", "two"].map(unique);
    let mut client = deployment.connect(&kept).await;
    let send = async {
        for number in 0..200 {
            log(&deployment, &kept, &number.to_string(), "info").await;
        }
    };
    let change = async {
        let mut frames = Vec::new();
        for round in 0..20 {
            let other = if round % 2 == 0 { &one } else { &two };
            frames.extend(subscribe(&mut client, &[&kept, other], "info").await);
        }
        frames
    };
    let ((), mut frames) = tokio::join!(send, change);
    frames.extend(deployment.frames_until_now(&kept, &mut client).await);
    let expected: Vec<_> = (0..200).map(|number| number.to_string()).collect();
    assert_eq!(texts(&frames), expected);
}

#[tokio::test]
async fn a_client_of_the_data_stream_gets_frames_in_its_shape() {
    let deployment = Deployment::start().await;
    let [first, second, third] = ["first", "second", "third"].map(unique);
    let data = |site: &str, text| json!({"site": site, "message": text, "log_level": "info", "timestamp": "1604514063"});
    let frame =
        |site: &str, text| json!({"site": site, "topic": "userstatus", "data": data(site, text)});
    let mut client = deployment.connect(&first).await;
    log(&deployment, &first, "plain", "info").await;
    assert_eq!(client.next().await["message"], "plain");

    let update = json!({"action": "updatesubscribersite", "site": second});
    client.send(update.to_string()).await;
    let answer = json!({"action": "subscribed", "site": [second], "level": "debug"});
    assert_eq!(client.next().await, answer);
    log(&deployment, &first, "not any more", "info").await;
    log(&deployment, &second, "live", "info").await;
    assert_eq!(client.next().await, frame(&second, "live"));

    // It stays so, whatever it watches afterwards.
    subscribe(&mut client, &[&first, &third], "info").await;
    log(&deployment, &third, "still", "info").await;
    assert_eq!(client.next().await, frame(&third, "still"));

    // After a reconnect, the address alone has to say so.
    let address = format!("{}/?topic=userstatus&?site={first}", deployment.websocket);
    let mut again = deployment.connect_to(&address).await.unwrap();
    let mut plain = deployment.connect(&first).await;
    log(&deployment, &first, "again", "info").await;
    assert_eq!(again.next().await, frame(&first, "again"));
    let plain = plain.next().await;
    assert_eq!(plain["message"], "again");
    assert_eq!(plain.as_object().unwrap().len(), 5, "{plain}");
}

#[tokio::test]
async fn a_message_too_large_for_the_data_streams_shape_comes_in_its_plain_frame() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let query = [("site", site.as_str()), ("topic", "userstatus")];
    let mut client = deployment.try_connect(&query).await.unwrap();
    let rest = json!({"site": site, "message": "", "log_level": "info", "timestamp": "1604514063", "id": "1604514063.000000"});
    let text = "x".repeat(131_072 - rest.to_string().len());
    log(&deployment, &site, &text, "info").await;
    let frame = client.next().await;
    assert_eq!(frame["message"], text.as_str());
    log(&deployment, &site, "short", "info").await;
    assert_eq!(client.next().await["data"]["message"], "short");
}

#[tokio::test]
async fn who_leaves_is_forgotten_for_all_its_sites() {
    let deployment = Deployment::start().await;
    let sites: Vec<_> = (0..10).map(|_| unique("tst")).collect();
    let names: Vec<_> = sites.iter().map(String::as_str).collect();
    let mut client = deployment.connect(&unique("tst")).await;
    subscribe(&mut client, &names, "debug").await;
    let online = async || {
        let counts = join_all(sites.iter().map(|site| deployment.online(site))).await;
        counts.iter().map(Vec::len).sum::<usize>()
    };
    assert_eq!(online().await, 10);
    drop(client);
    eventually("its rows go", async || online().await == 0).await;
}
