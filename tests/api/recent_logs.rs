//! `GET /recent-logs`: which messages it returns, and on which pages.

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{Answer, Deployment, now, texts, unique};

/// The messages of an answer and of every page that its links lead to.
async fn walk(deployment: &Deployment, query: &str) -> Vec<Vec<Value>> {
    let mut pages = Vec::new();
    let mut query = Some(query.to_owned());
    while let Some(this) = query {
        let answer = deployment
            .send(deployment.request("GET", &format!("/recent-logs{this}")))
            .await;
        assert_eq!(answer.status, 200, "{this}: {answer:?}");
        pages.push(answer.json().as_array().unwrap().clone());
        query = next(&answer).map(str::to_owned);
        assert!(pages.len() < 100, "the links do not end");
    }
    pages
}

/// The relative reference of the next page.
fn next(answer: &Answer) -> Option<&str> {
    let link = answer.header("link")?;
    let link = link
        .strip_prefix('<')
        .and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Some(link.unwrap_or_else(|| panic!("{answer:?}")))
}

#[tokio::test]
async fn a_query_that_is_not_utf8_is_read_as_windows_1252_like_a_body() {
    let deployment = Deployment::start().await;
    let site = unique("tür");
    deployment.log(&site, "x", json!(1)).await;
    for written in ["%C3%BC", "%FC"] {
        let query = format!("?limit=1&site={}", site.replace('ü', written));
        let pages = walk(&deployment, &query).await;
        assert_eq!(texts(&pages[0]), ["x"], "{query}");
    }
}

#[tokio::test]
async fn messages_later_than_after_time_come_newest_first() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    for (text, timestamp) in [
        ("b", json!(200)),
        ("a", json!(100)),
        ("c", json!(300)),
        ("c2", json!(300.5)),
    ] {
        deployment.log(&site, text, timestamp).await;
    }
    for (after_time, expected) in [
        ("0", &["c2", "c", "b", "a"][..]),
        ("", &["c2", "c", "b", "a"]),
        ("-1", &["c2", "c", "b", "a"]),
        ("-1e99", &["c2", "c", "b", "a"]),
        ("199", &["c2", "c", "b"]),
        ("199.99", &["c2", "c", "b"]),
        ("2e2", &["c2", "c"]),
        ("200", &["c2", "c"]),
        ("200.5", &["c2", "c"]),
        ("300", &[]),
        ("99999999999", &[]),
        ("100000000000000000000000000000000000001", &[]),
    ] {
        let answer = deployment
            .get(
                "/recent-logs",
                &[("site", &site), ("after_time", after_time)],
            )
            .await;
        assert_eq!(answer.status, 200, "{after_time}: {answer:?}");
        assert_eq!(
            texts(answer.json().as_array().unwrap()),
            expected,
            "{after_time}"
        );
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(next(&answer), None);
    }
    assert_eq!(
        deployment.recent(&unique("empty")).await,
        Vec::<Value>::new()
    );
}

// Frontends sort what they load like this. With whole seconds, messages of the
// same second came out in reverse.
#[tokio::test]
async fn a_stable_sort_by_timestamp_gives_the_order_of_the_ids() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    for (text, timestamp) in [
        ("0", json!(1604514063)),
        ("1", json!(1604514063)),
        ("2", json!(1604514063)),
        ("4", json!(1604514063.25)),
        ("3", json!(1604514063.03)),
        ("5", json!(1604514063.418301)),
        ("6", json!(1604514064)),
    ] {
        deployment.log(&site, text, timestamp).await;
    }
    let mut recent = deployment.recent(&site).await;
    recent.sort_by(|a, b| {
        let timestamp = |message: &Value| message["timestamp"].as_f64().unwrap();
        timestamp(a).total_cmp(&timestamp(b))
    });
    assert_eq!(texts(&recent), ["0", "1", "2", "3", "4", "5", "6"]);
    assert!(recent.is_sorted_by_key(|message| message["id"].as_str().unwrap().to_owned()));
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let deployment = Deployment::start().await;
    let long = format!("?site={}", "s".repeat(1025));
    let eleven: String = (0..11).map(|site| format!("&site={site}")).collect();
    let eleven = eleven.replacen('&', "?", 1);
    for (query, named) in [
        ("", "'site'"),
        ("?site=", "'site'"),
        ("?after_time=0", "'site'"),
        ("?site=a&site=a", "'site'"),
        ("?site=a&site=b&site=a", "'site'"),
        ("?site=a&site=", "'site'"),
        (&format!("?site=a&{}", &long[1..]), "'site'"),
        (&eleven, "'site'"),
        (&long, "'site'"),
        ("?site=a&after_time=abc", "'after_time'"),
        ("?site=a&after_time=1_00", "'after_time'"),
        ("?site=a&after_time=+1", "'after_time'"),
        ("?site=a&after_time=NaN", "'after_time'"),
        ("?site=a&after_time=1&after_time=2", "'after_time'"),
        ("?site=a&limit=0", "'limit'"),
        ("?site=a&limit=10001", "'limit'"),
        ("?site=a&limit=-1", "'limit'"),
        ("?site=a&limit=1.5", "'limit'"),
        ("?site=a&limit=x", "'limit'"),
        ("?site=a&level=typo", "'level'"),
        ("?site=a&level=30", "'level'"),
        ("?site=a&level=info&level=info", "'level'"),
        ("?site=a&max_age_seconds=-1", "'max_age_seconds'"),
        ("?site=a&max_age_seconds=1h", "'max_age_seconds'"),
        ("?site=a&max_age_seconds=+1", "'max_age_seconds'"),
        ("?site=a&max_age_seconds=NaN", "'max_age_seconds'"),
        ("?site=a&before=x", "'before'"),
        ("?site=a&before=-1", "'before'"),
        ("?site=a&before=1e30", "'before'"),
    ] {
        let answer = deployment
            .send(deployment.request("GET", &format!("/recent-logs{query}")))
            .await;
        assert_eq!(answer.status, 400, "{query:.60}: {answer:?}");
        let error = answer.error();
        assert!(error.contains(named), "{query:.60}: {error}");
    }
}

#[tokio::test]
async fn limit_and_links_reach_every_message_once() {
    let deployment = Deployment::start().await;
    let site = unique("a, b&c é");
    for index in 0..7 {
        deployment
            .log(&site, &format!("{index}"), json!(100 + index / 3))
            .await;
    }
    let pages = walk(
        &deployment,
        &format!("?limit=3&after_time=99&x=%26&{}", query(&site)),
    )
    .await;
    let pages: Vec<_> = pages.iter().map(|page| texts(page)).collect();
    assert_eq!(pages, [vec!["6", "5", "4"], vec!["3", "2", "1"], vec!["0"]]);

    let all = walk(&deployment, &format!("?limit=7&{}", query(&site))).await;
    assert_eq!(all.len(), 1, "no link when nothing is left");
}

#[tokio::test]
async fn a_link_keeps_the_other_parameters_and_is_relative() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    deployment.log(&site, "old", json!(1)).await;
    deployment.log(&site, "new", json!(2)).await;
    let query = [
        ("site", site.as_str()),
        ("after_time", "0"),
        ("limit", "1"),
        ("before", "9"),
    ];
    let answer = deployment.get("/recent-logs", &query).await;
    let link = next(&answer).unwrap();
    assert!(link.starts_with('?'), "{link}");
    let link = reqwest::Url::parse(&format!("http://x/{link}")).unwrap();
    let mut pairs: Vec<_> = link.query_pairs().into_owned().collect();
    pairs.sort();
    let expected = [
        ("after_time", "0"),
        ("before", "2.000000"),
        ("limit", "1"),
        ("site", site.as_str()),
    ];
    assert_eq!(
        pairs,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[tokio::test]
async fn before_is_exclusive() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    for text in ["a", "b", "c"] {
        deployment.log(&site, text, json!(5)).await;
    }
    for (before, expected) in [
        ("5.000002", &["b", "a"][..]),
        ("5", &[]),
        ("0", &[]),
        ("6", &["c", "b", "a"]),
    ] {
        let answer = deployment
            .get("/recent-logs", &[("site", &site), ("before", before)])
            .await;
        assert_eq!(
            texts(answer.json().as_array().unwrap()),
            expected,
            "{before}"
        );
    }
}

#[tokio::test]
async fn the_site_is_read_as_browsers_and_scripts_encode_it() {
    let deployment = Deployment::start().await;
    let site = unique("a b+c,d");
    deployment.log(&site, "x", json!(1)).await;
    for encoded in [
        site.replace('+', "%2B")
            .replace(' ', "+")
            .replace(',', "%2C"),
        site.replace('+', "%2B").replace(' ', "%20"),
    ] {
        let answer = deployment
            .send(deployment.request("GET", &format!("/recent-logs?site={encoded}")))
            .await;
        assert_eq!(texts(answer.json().as_array().unwrap()), ["x"], "{encoded}");
    }
}

// The original read a single page of 1 MB and lost the newest 611 of these.
#[tokio::test(flavor = "multi_thread")]
async fn all_of_2500_messages_of_500_characters_are_returned_newest_first() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let text = |index: usize| format!("{index:04}{}", "x".repeat(496));
    stream::iter(0..2500)
        .for_each_concurrent(16, |index| {
            let (deployment, site) = (&deployment, &site);
            async move {
                deployment
                    .log(site, &text(index), json!(1000 + index))
                    .await
            }
        })
        .await;
    let expected: Vec<_> = (0..2500).rev().map(text).collect();
    assert!(deployment.recent_texts(&site).await == expected);
    // The same in pages.
    let pages = walk(&deployment, &format!("?limit=999&{}", query(&site))).await;
    assert_eq!(
        pages.iter().map(Vec::len).collect::<Vec<_>>(),
        [999, 999, 502]
    );
    assert!(texts(&pages.concat()) == expected);
}

// Lambda limits a response to 6 MB, in which each quote of this body is
// escaped.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_split_into_pages() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let text = |index: usize| format!("{index:02}{}", "\"".repeat(60_000));
    stream::iter(0..30)
        .for_each_concurrent(4, |index| {
            let (deployment, site) = (&deployment, &site);
            async move {
                deployment
                    .log(site, &text(index), json!(1000 + index))
                    .await
            }
        })
        .await;
    let pages = walk(&deployment, &format!("?{}", query(&site))).await;
    // Each quote takes four bytes: 240 KB a message.
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [20, 10]);
    let expected: Vec<_> = (0..30).rev().map(text).collect();
    assert!(texts(&pages.concat()) == expected);
}

#[tokio::test]
async fn level_is_the_least_level() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let levels = ["debug", "info", "warning", "error", "critical"];
    for (second, level) in levels.iter().enumerate() {
        let body =
            json!({"site": site, "log_message": level, "log_level": level, "timestamp": second});
        assert_eq!(deployment.post(body.to_string()).await.status, 200);
    }
    for (level, expected) in [
        ("", &levels[..]),
        ("debug", &levels),
        ("FINEST", &levels),
        ("info", &levels[1..]),
        ("notice", &levels[1..]),
        (" Warn ", &levels[2..]),
        ("SEVERE", &levels[3..]),
        ("critical", &levels[4..]),
        ("emerg", &levels[4..]),
    ] {
        let query = [("site", site.as_str()), ("level", level)];
        let answer = deployment.get("/recent-logs", &query).await;
        let mut recent = texts(answer.json().as_array().unwrap());
        recent.reverse();
        assert_eq!(recent, expected, "{level}");
        assert_eq!(next(&answer), None);
    }
    let pages = walk(
        &deployment,
        &format!("?limit=1&level=error&{}", query(&site)),
    )
    .await;
    let pages: Vec<_> = pages.iter().map(|page| texts(page)).collect();
    assert_eq!(pages, [["critical"], ["error"]]);
}

#[tokio::test]
async fn max_age_seconds_counts_back_from_now_and_the_later_of_two_beginnings_counts() {
    let deployment = Deployment::start().await;
    let site = unique("tst");
    let now = now();
    for (text, time) in [
        ("1970", 0),
        ("old", now - 1000),
        ("new", now - 100),
        ("ahead", now + 1000),
    ] {
        deployment.log(&site, text, json!(time)).await;
    }
    let all = &["ahead", "new", "old", "1970"];
    let ago = |age: i64| (now.cast_signed() - age).to_string();
    for (age, after_time, expected) in [
        ("", "", &all[..]),
        ("99999999999", "", all),
        ("1e300", "", all),
        ("2000", "", &all[..3]),
        ("2e3", "", &all[..3]),
        ("500.5", "", &all[..2]),
        ("0", "", &all[..1]),
        ("500", "0", &all[..2]),
        ("2000", &ago(500), &all[..2]),
        ("500", &ago(2000), &all[..2]),
        ("500", &ago(-500), &all[..1]),
    ] {
        let query = [
            ("site", site.as_str()),
            ("max_age_seconds", age),
            ("after_time", after_time),
        ];
        let answer = deployment.get("/recent-logs", &query).await;
        let recent = texts(answer.json().as_array().unwrap());
        assert_eq!(recent, expected, "{age:?}, {after_time:?}");
    }
}

#[tokio::test]
async fn several_sites_are_merged_newest_first_and_each_entry_says_its_site() {
    let deployment = Deployment::start().await;
    let (a, b, c) = (unique("a"), unique("b, \"é\""), unique("c"));
    for (site, text, time) in [(&a, "1", 1), (&b, "2", 2), (&c, "2", 2), (&a, "3", 3)] {
        deployment.log(site, text, json!(time)).await;
    }
    let query = [
        ("site", b.as_str()),
        ("site", &a),
        ("site", &unique("none")),
        ("site", &c),
    ];
    let answer = deployment.get("/recent-logs", &query).await;
    let entry = |site: &str, second: u8| {
        let site = json!(site);
        format!(
            r#"{{"site":{site},"message":"{second}","log_level":"info","timestamp":{second},"id":"{second}.000000"}}"#
        )
    };
    // Of one id, in the order of the parameters.
    let entries = [entry(&a, 3), entry(&b, 2), entry(&c, 2), entry(&a, 1)];
    assert_eq!(answer.body, format!("[{}]", entries.join(",")));
    assert_eq!(next(&answer), None);

    let one = deployment.get("/recent-logs", &[("site", &c)]).await;
    let entry = r#"[{"message":"2","log_level":"info","timestamp":2,"id":"2.000000"}]"#;
    assert_eq!(one.body, entry);

    let query = [
        ("site", a.as_str()),
        ("site", &b),
        ("site", &c),
        ("limit", "2"),
    ];
    let query = reqwest::Url::parse_with_params("http://x", query).unwrap();
    let pages = walk(&deployment, &format!("?{}", query.query().unwrap())).await;
    let pages: Vec<_> = pages.iter().map(|page| texts(page)).collect();
    // No page ends between the two of one id.
    assert_eq!(pages, [vec!["3"], vec!["2", "2"], vec!["1"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_of_several_sites_does_not_end_between_equal_ids() {
    let deployment = Deployment::start().await;
    let sites = ["a", "b", "c"].map(unique);
    // 240 KB each, of which 20 fit.
    let text = "\"".repeat(60_000);
    for site in &sites {
        for second in 0..7 {
            deployment.log(site, &text, json!(second)).await;
        }
    }
    let sites = sites.map(|site| query(&site)).join("&");
    let pages = walk(&deployment, &format!("?{sites}")).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [18, 3]);
}

fn query(site: &str) -> String {
    let url = reqwest::Url::parse_with_params("http://x", [("site", site)]).unwrap();
    url.query().unwrap().to_owned()
}
