//! `POST /newlog`: what is accepted and what is refused.

use serde_json::{Value, json};

use crate::support::{Deployment, now, texts, unique};

#[tokio::test]
async fn a_message_is_accepted_and_kept_as_sent() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let text = "line one\nline two\r\n\t\"Ünï\" \\ 🔭 \u{0} </script>";
    let body = json!({"site": site, "log_message": text, "log_level": "INFO", "timestamp": 1604514063.987});
    let answer = deployment.post(body.to_string()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.body, "Successfully added new log message.");
    assert_eq!(
        deployment.recent(&site).await,
        [
            json!({"message": text, "log_level": "info", "timestamp": 1604514063.987, "id": "1604514063.987000"})
        ]
    );
}

#[tokio::test]
async fn a_body_is_read_whatever_its_content_type() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let types = [
        None,
        Some("application/json"),
        Some("application/json; charset=utf-8"),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/octet-stream"),
    ];
    for (index, content_type) in types.iter().enumerate() {
        let body = json!({"site": site, "log_message": "ä", "timestamp": index}).to_string();
        let mut request = deployment.request("POST", "/newlog").body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", *content_type);
        }
        assert_eq!(
            deployment.send(request).await.status,
            200,
            "{content_type:?}"
        );
    }
    assert_eq!(deployment.recent_texts(&site).await, ["ä"; 6]);
}

#[tokio::test]
async fn a_level_becomes_one_of_pythons_in_lower_case() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let levels = [
        (json!("DEBUG"), "debug"),
        (json!("FINEST"), "debug"),
        (json!("Info"), "info"),
        (json!("notice"), "info"),
        (json!("typo"), "info"),
        (json!("WARN"), "warning"),
        (json!("WARNING "), "warning"),
        (json!("ERROR"), "error"),
        (json!("SEVERE"), "error"),
        (json!("err"), "error"),
        (json!("fatal"), "critical"),
        (json!("CRITICAL"), "critical"),
        (json!("emerg"), "critical"),
        (json!(""), "info"),
        (Value::Null, "info"),
    ];
    for (index, (sent, _)) in levels.iter().enumerate() {
        let body = json!({"site": site, "log_message": "", "log_level": sent, "timestamp": index});
        assert_eq!(
            deployment.post(body.to_string()).await.status,
            200,
            "{sent}"
        );
    }
    let recent = deployment.recent(&site).await;
    let kept: Vec<_> = recent
        .iter()
        .rev()
        .map(|message| message["log_level"].as_str().unwrap())
        .collect();
    assert_eq!(kept, levels.map(|(_, kept)| kept));
}

#[tokio::test]
async fn a_timestamp_is_a_number_or_a_numeric_string_and_is_truncated() {
    let deployment = Deployment::start().await;
    for (sent, kept, id) in [
        ("1604514063", "1604514063", "1604514063.000000"),
        ("\"1604514063.5\"", "1604514063.5", "1604514063.500000"),
        (
            "1604514063.418301",
            "1604514063.418301",
            "1604514063.418301",
        ),
        (
            "1604514063.9999999999",
            "1604514063.999999",
            "1604514063.999999",
        ),
        ("1.604514063e9", "1604514063", "1604514063.000000"),
        ("0", "0", "0.000000"),
        (
            "99999999998.999999",
            "99999999998.999999",
            "99999999998.999999",
        ),
        ("99999999999", "99999999999", "99999999999.000000"),
    ] {
        let site = unique("tst");
        let body = format!(r#"{{"site":"{site}","log_message":"x","timestamp":{sent}}}"#);
        assert_eq!(deployment.post(body).await.status, 200, "{sent}");
        let answer = deployment.get("/recent-logs", &[("site", &site)]).await;
        // Compared as text: a float cannot hold all digits of some of these.
        let fields = format!(r#""timestamp":{kept},"id":"{id}""#);
        assert!(answer.body.contains(&fields), "{sent}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_message_without_a_timestamp_has_the_time_of_its_arrival() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let earliest = now();
    for body in [
        json!({"site": site, "log_message": "missing"}),
        json!({"site": site, "log_message": "null", "timestamp": null}),
    ] {
        assert_eq!(deployment.post(body.to_string()).await.status, 200);
    }
    for message in deployment.recent(&site).await {
        let timestamp = message["timestamp"].as_f64().unwrap() as u64;
        assert!((earliest..=now() + 1).contains(&timestamp), "{message}");
    }
}

#[tokio::test]
async fn a_callers_mistake_is_named_and_the_next_message_is_accepted() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let digits = "1".repeat(5000);
    let nested = "[".repeat(100_000);
    let long_site = "s".repeat(1025);
    for (body, named) in [
        ("", "JSON"),
        ("{not json", "JSON"),
        ("{'site': 'tst'}", "JSON"),
        ("\"site\"", "object"),
        ("[]", "object"),
        ("null", "object"),
        (&nested, "object"),
        ("{}", "'site'"),
        (r#"{"site":"$","log_level":"info"}"#, "'log_message'"),
        (r#"{"site":"$","message":"x"}"#, "'log_message'"),
        (r#"{"log_message":"x"}"#, "'site'"),
        (r#"{"site":"","log_message":"x"}"#, "'site'"),
        (r#"{"site":null,"log_message":"x"}"#, "'site'"),
        (r#"{"site":5,"log_message":"x"}"#, "'site'"),
        (
            &format!(r#"{{"site":"{long_site}","log_message":"x"}}"#),
            "'site'",
        ),
        (r#"{"site":"$","log_message":null}"#, "'log_message'"),
        (r#"{"site":"$","log_message":42}"#, "'log_message'"),
        (r#"{"site":"$","log_message":4.2}"#, "'log_message'"),
        (r#"{"site":"$","log_message":true}"#, "'log_message'"),
        (r#"{"site":"$","log_message":{"a":1}}"#, "'log_message'"),
        (r#"{"site":"$","log_message":"\ud83d"}"#, "'log_message'"),
        (r#"{"site":"\udc00","log_message":"x"}"#, "'site'"),
        (
            r#"{"site":"$","log_message":"x","log_level":5}"#,
            "'log_level'",
        ),
        (
            r#"{"site":"$","log_message":"x","log_level":true}"#,
            "'log_level'",
        ),
        (
            r#"{"site":"$","log_message":"x","log_level":["info"]}"#,
            "'log_level'",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":""}"#,
            "'timestamp'",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":true}"#,
            "'timestamp'",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":"1_604"}"#,
            "'timestamp'",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":"12 "}"#,
            "'timestamp'",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":"2020-11-04T18:21:03Z"}"#,
            "'timestamp'",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":"١٢٣"}"#,
            "'timestamp'",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":-5}"#,
            "seconds",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":1604514063000}"#,
            "seconds",
        ),
        (
            r#"{"site":"$","log_message":"x","timestamp":1e38}"#,
            "seconds",
        ),
        (
            &format!(r#"{{"site":"$","log_message":"x","timestamp":{digits}}}"#),
            "seconds",
        ),
        (
            &format!(r#"{{"site":"$","log_message":"x","timestamp":"{digits}"}}"#),
            "seconds",
        ),
        (r#"{"site":"$","log_message":"x","timestamp":NaN}"#, "JSON"),
        (
            r#"{"site":"$","log_message":"x","timestamp":Infinity}"#,
            "JSON",
        ),
    ] {
        let answer = deployment.post(body.replace('$', &site)).await;
        assert_eq!(answer.status, 400, "{body:.100}: {answer:?}");
        let error = answer.error();
        assert!(error.contains(named), "{body:.100}: {error}");
        assert!(error.contains("expected"), "{body:.100}: {error}");
    }
    assert!(deployment.recent(&site).await.is_empty());
    deployment.log(&site, "still here", json!(1)).await;
    assert_eq!(deployment.recent_texts(&site).await, ["still here"]);
}

// PowerShell 5 and `curl.exe` send these.
#[tokio::test]
async fn a_body_is_read_in_any_encoding_that_windows_writes() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let object = |text, timestamp| {
        json!({"site": site, "log_message": text, "timestamp": timestamp}).to_string()
    };
    let utf_16 = |text: String, to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        text.encode_utf16().flat_map(to_bytes).collect()
    };
    let windows_1252 = |text: String| -> Vec<u8> {
        text.chars()
            .map(|c| if c == '–' { 0x96 } else { c as u8 })
            .collect()
    };
    for body in [
        format!("\u{feff}{}", object("5 °C – 🔭", 1)).into_bytes(),
        utf_16(
            format!("\u{feff}{}", object("5 °C – 🔭", 2)),
            u16::to_le_bytes,
        ),
        utf_16(
            format!("\u{feff}{}", object("5 °C – 🔭", 3)),
            u16::to_be_bytes,
        ),
        utf_16(object("5 °C – 🔭", 4), u16::to_le_bytes),
        windows_1252(object("5 °C – é", 5)),
    ] {
        let request = deployment.request("POST", "/newlog").body(body);
        let answer = deployment.send(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(
        deployment.recent_texts(&site).await,
        [
            "5 °C – é",
            "5 °C – 🔭",
            "5 °C – 🔭",
            "5 °C – 🔭",
            "5 °C – 🔭"
        ]
    );
}

// `logging.handlers.HTTPHandler` sends every attribute of a record.
#[tokio::test]
async fn a_form_is_read_whatever_its_content_type() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let form = format!(
        "name=root&levelno=40&exc_info=None&site={site}&log_level=ERROR&log_message=5+%C2%B0C%26%0A"
    );
    let types = [
        Some("application/x-www-form-urlencoded"),
        Some("text/plain"),
        None,
    ];
    for (second, content_type) in types.iter().enumerate() {
        let body = format!("{form}&timestamp=160451406{second}.25");
        let mut request = deployment.request("POST", "/newlog").body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", *content_type);
        }
        assert_eq!(deployment.send(request).await.status, 200);
        assert_eq!(
            client.next().await,
            json!({
                "site": site,
                "message": "5 °C&\n",
                "log_level": "error",
                "timestamp": format!("160451406{second}"),
                "id": format!("160451406{second}.250000"),
            })
        );
    }

    let earliest = now();
    let answer = deployment.post(format!("{form}&timestamp=")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let timestamp = client.next().await["timestamp"].clone();
    assert!(timestamp.as_str().unwrap().parse::<u64>().unwrap() >= earliest);

    for (body, named) in [
        ("name=root&msg=x", "'site'"),
        ("site=&log_message=x", "'site'"),
        ("site=tst", "'log_message'"),
        ("site=tst&log_message=x&timestamp=None", "'timestamp'"),
    ] {
        let answer = deployment.post(body).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let error = answer.error();
        assert!(error.contains(named), "{body}: {error}");
    }
}

#[tokio::test]
async fn the_last_of_duplicate_keys_wins_and_unknown_fields_are_ignored() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let body = format!(
        r#"{{"site":"other","site":"{site}","log_message":5,"log_message":"x","TimeToLive":1,"id":"7"}}"#
    );
    assert_eq!(deployment.post(body).await.status, 200);
    let form =
        format!("site=other&site={site}&log_message=x&log_message=y&timestamp=x&timestamp=1");
    assert_eq!(deployment.post(form).await.status, 200);
    assert_eq!(deployment.recent_texts(&site).await, ["x", "y"]);
}

#[tokio::test]
async fn a_site_is_kept_as_sent_without_trimming_or_change_of_case() {
    let deployment = Deployment::start().await;
    let base = unique("Tst");
    for site in [
        base.clone(),
        base.to_lowercase(),
        format!(" {base}"),
        format!("{base}, é/🔭&?"),
    ] {
        deployment.log(&site, &site, json!(1)).await;
    }
    for site in [
        base.clone(),
        base.to_lowercase(),
        format!(" {base}"),
        format!("{base}, é/🔭&?"),
    ] {
        assert_eq!(deployment.recent_texts(&site).await, [site]);
    }
    let longest = format!("{base:x<1024}");
    deployment.log(&longest, "x", json!(1)).await;
    assert_eq!(deployment.recent_texts(&longest).await, ["x"]);
}

#[tokio::test]
async fn a_message_too_large_for_a_frame_gets_413_and_one_that_just_fits_is_delivered() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let frame = json!({"site": site, "message": "", "log_level": "info", "timestamp": "1", "id": "1.000000"});
    let room = 131_072 - frame.to_string().len();
    // A quote takes two bytes in the frame.
    let text = format!("\"{}", "x".repeat(room - 2));
    let body = |text: &str| json!({"site": site, "log_message": text, "timestamp": 1}).to_string();

    let answer = deployment.post(body(&format!("{text}x"))).await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("'log_message'"));

    assert_eq!(deployment.post(body(&text)).await.status, 200);
    assert_eq!(client.next().await["message"], text.as_str());
}

#[tokio::test]
async fn messages_of_one_second_are_all_kept_in_the_order_of_their_arrival() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    for text in ["first", "second", "third"] {
        deployment.log(&site, text, json!(1604514063)).await;
    }
    assert_eq!(
        deployment.recent(&site).await,
        [
            json!({"message": "third", "log_level": "info", "timestamp": 1604514063.000002, "id": "1604514063.000002"}),
            json!({"message": "second", "log_level": "info", "timestamp": 1604514063.000001, "id": "1604514063.000001"}),
            json!({"message": "first", "log_level": "info", "timestamp": 1604514063, "id": "1604514063.000000"}),
        ]
    );
    for text in ["first", "second", "third"] {
        assert_eq!(client.next().await["message"], text);
    }
}

#[tokio::test]
async fn a_senders_retry_is_stored_and_sent_once() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    for (text, level, timestamp) in [
        ("a", "info", "7"),
        ("b", "info", "7"),
        ("a", "info", "7"),
        ("b", "INFO", "7.0"),
        ("b", "error", "7"),
        ("a", "info", "7.5"),
        ("a", "info", "7.5"),
    ] {
        let body =
            json!({"site": site, "log_message": text, "log_level": level, "timestamp": timestamp});
        assert_eq!(deployment.post(body.to_string()).await.status, 200);
    }
    let stored: Vec<_> = deployment
        .recent(&site)
        .await
        .into_iter()
        .rev()
        .map(|m| m["id"].clone())
        .collect();
    assert_eq!(stored, ["7.000000", "7.000001", "7.000002", "7.500000"]);
    let frames = deployment.frames_until_now(&site, &mut client).await;
    let sent: Vec<_> = frames.iter().map(|frame| frame["id"].clone()).collect();
    assert_eq!(sent, stored);
}

fn ids(messages: &[Value]) -> Vec<&str> {
    let ids = messages.iter().map(|message| message["id"].as_str());
    ids.map(Option::unwrap).collect()
}

#[tokio::test]
async fn an_array_is_stored_and_sent_in_its_order() {
    let deployment = Deployment::start().await;
    let (site, other) = (unique("tst"), unique("other"));
    let mut client = deployment.connect(&site).await;
    let mut elsewhere = deployment.connect(&other).await;
    let message = |site, text, timestamp| json!({"site": site, "log_message": text, "log_level": "WARN", "timestamp": timestamp});
    let body = json!([
        message(&site, "a", json!(9)),
        message(&site, "b", json!(7)),
        message(&other, "c", json!(7)),
        message(&site, "d", json!(7)),
        message(&site, "b", json!(7)),
        message(&site, "e", json!("7.000001")),
    ]);
    let answer = deployment.post(body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.body, "Successfully added new log message.");
    // The second "b" is what a retry of the first is.
    let frames = deployment.frames_until_now(&site, &mut client).await;
    assert_eq!(texts(&frames), ["a", "b", "d", "e"]);
    assert_eq!(
        ids(&frames),
        ["9.000000", "7.000000", "7.000001", "7.000002"]
    );
    assert_eq!(frames[0]["log_level"], "warning");
    assert_eq!(elsewhere.next().await["message"], "c");
    assert_eq!(deployment.recent_texts(&other).await, ["c"]);
}

#[tokio::test]
async fn equal_messages_of_an_array_without_a_time_are_all_kept_in_its_order() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let sent = ["x", "x", "y", "x", "x"];
    let body = sent.map(|text| json!({"site": site, "log_message": text}));
    let answer = deployment.post(json!(body).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(deployment.recent_texts(&site).await, sent);
}

// The first request ended in the middle, and the sender sends all again.
#[tokio::test]
async fn a_retried_array_is_stored_and_sent_once_wherever_the_first_try_ended() {
    let deployment = Deployment::start().await;
    for stored in [0, 1, 5, 9, 10] {
        let site = unique("tst");
        let mut client = deployment.connect(&site).await;
        let times = [5, 5, 6, 5, 7, 6, 6, 5, 5, 8];
        let all: Vec<_> = times
            .iter()
            .enumerate()
            .map(|(index, time)| json!({"site": site, "log_message": format!("{index}"), "timestamp": time}))
            .collect();
        for message in &all[..stored] {
            let answer = deployment.post(message.to_string()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        for _ in 0..2 {
            let answer = deployment.post(json!(all).to_string()).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let frames = deployment.frames_until_now(&site, &mut client).await;
        let expected: Vec<_> = (0..10).map(|index| index.to_string()).collect();
        assert_eq!(texts(&frames), expected);
    }
}

#[tokio::test]
async fn an_array_with_a_mistake_stores_nothing_and_the_mistake_is_named_by_its_index() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let good = json!({"site": site, "log_message": "x", "timestamp": 1});
    let mut many = vec![good.clone(); 101];
    let long = "x".repeat(140_000);
    for (body, status, text) in [
        (json!([]), 400, "empty array"),
        (json!(many), 400, "more than 100"),
        (
            json!([good, good, good, {"site": site}]),
            400,
            "Message 3: 'log_message' is missing; expected",
        ),
        (json!([good, [good]]), 400, "Message 1: not a JSON object"),
        (json!([good, null]), 400, "Message 1: not a JSON object"),
        (
            json!([good, {"site": site, "log_message": long}]),
            413,
            "Message 1: 'log_message' is too long",
        ),
    ] {
        let answer = deployment.post(body.to_string()).await;
        assert_eq!(answer.status, status, "{text}: {answer:?}");
        let error = answer.error();
        assert!(
            error.contains(text) && error.contains("expected"),
            "{error}"
        );
    }
    let answer = deployment.post(format!("[{good},")).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("not valid JSON at line 1, column"));
    assert!(deployment.recent(&site).await.is_empty());

    many.pop();
    assert_eq!(deployment.post(json!(many).to_string()).await.status, 200);
    assert_eq!(deployment.recent_texts(&site).await, ["x"]);
}

#[tokio::test]
async fn an_array_over_the_websocket_has_no_action() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let mut client = deployment.connect(&site).await;
    let frame = json!([{"action": "newlog", "site": site, "log_message": "x"}]);
    client.send(frame.to_string()).await;
    let error = client.next().await;
    assert_eq!(error["message"], "Unrecognized WebSocket action.");
    assert!(deployment.recent(&site).await.is_empty());
}

#[tokio::test]
async fn browsers_of_any_origin_may_read_every_answer() {
    let deployment = Deployment::start().await;
    for request in [
        deployment.request("POST", "/newlog").body("{}"),
        deployment.request("GET", "/recent-logs"),
        deployment.request("GET", "/recent-logs?site=tst"),
        deployment.request("GET", "/onlineusers?site=tst"),
    ] {
        let answer = deployment
            .send(request.header("origin", "https://example.com"))
            .await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        let exposed = answer
            .header("access-control-expose-headers")
            .unwrap()
            .to_lowercase();
        assert!(
            exposed.contains("link") && exposed.contains("retry-after"),
            "{exposed}"
        );
    }
}

#[tokio::test]
async fn a_preflight_allows_post_and_get_with_a_content_type_and_a_key() {
    let deployment = Deployment::start().await;
    for (path, method) in [
        ("/newlog", "POST"),
        ("/recent-logs", "GET"),
        ("/onlineusers", "GET"),
    ] {
        let request = deployment
            .request("OPTIONS", path)
            .header("origin", "https://example.com")
            .header("access-control-request-method", method)
            .header(
                "access-control-request-headers",
                "authorization,content-type",
            );
        let answer = deployment.send(request).await;
        assert!(matches!(answer.status, 200 | 204), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert!(
            answer
                .header("access-control-allow-methods")
                .unwrap()
                .contains(method)
        );
        let headers = answer
            .header("access-control-allow-headers")
            .unwrap()
            .to_lowercase();
        assert!(headers.contains("content-type"), "{headers}");
        assert!(headers.contains("authorization"), "{headers}");
    }
}

#[tokio::test]
async fn any_other_path_or_method_is_404_or_405() {
    let deployment = Deployment::start().await;
    for (method, path) in [
        ("GET", "/newlog"),
        ("PUT", "/newlog"),
        ("DELETE", "/recent-logs"),
        ("POST", "/onlineusers"),
        ("GET", "/nothing"),
        ("POST", "/newlog/x"),
    ] {
        let answer = deployment.send(deployment.request(method, path)).await;
        assert!(
            matches!(answer.status, 404 | 405),
            "{method} {path}: {answer:?}"
        );
        assert!(!answer.error().is_empty());
    }
}
