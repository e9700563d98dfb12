//! `GET /recent-logs` behind the API: which rows it reads, and what the pages
//! hold, whatever the rows are.

use std::time::Duration;

use local::{MESSAGES_TABLE, Server};
use logstream_core::Messages;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::recorder::Recorder;
use super::slow::slow;
use super::tables::{Tables, n, s};
use crate::support::{invoke, now, server, texts, unique};

const LEVELS: [&str; 5] = ["debug", "info", "warning", "error", "critical"];

/// Stores a message of a level.
async fn put(tables: &Tables, site: &str, key: &str, level: &str, text: &str, expires: u64) {
    let row = [
        ("site", s(site)),
        ("timestamp", n(key)),
        ("message", s(text)),
        ("log_level", s(level)),
        ("TimeToLive", n(expires)),
    ];
    tables.put(MESSAGES_TABLE, row).await;
}

/// The messages of an answer, and the query of the next page.
async fn ask(messages: &Messages, query: &str) -> (Vec<Value>, Option<String>) {
    let event = json!({
        "version": "2.0",
        "rawQueryString": query,
        "isBase64Encoded": false,
        "requestContext": {"http": {"method": "GET"}},
    });
    let handler = |request| recent_logs::handle(messages, request);
    let answer = invoke(handler, &event).await;
    assert_eq!(answer["statusCode"], 200, "{query}: {answer}");
    let recent = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    let next = answer["headers"]["link"].as_str().map(|link| {
        let (next, _) = link[2..].split_once('>').unwrap();
        next.to_owned()
    });
    (recent, next)
}

/// A server's table, as the function sees it, and the calls to it.
fn recorded(server: &Server) -> (Messages, Recorder) {
    let (recorder, config) = Recorder::before(server);
    (Messages::new(&config, MESSAGES_TABLE.to_owned()), recorder)
}

/// A row: its site's place, its microsecond, its level, and whether it expired.
type Stored = (usize, u32, usize, bool);

#[test]
fn the_links_reach_every_message_of_several_sites_once_newest_first() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let server = runtime.block_on(server());
    let tables = Tables::of(&server);
    let messages = Messages::new(&server.database(), MESSAGES_TABLE.to_owned());
    let config = Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let rows = prop::collection::vec(
        (0..4_usize, 0..8_u32, 0..5_usize, prop::bool::weighted(0.4)),
        0..40,
    );
    let cases = (1..=4_usize, rows, 1..=4_usize, 0..=4_usize);
    let holds = |(sites, mut rows, limit, least): (usize, Vec<Stored>, usize, usize)| {
        let name = unique("tst");
        let name = |site: usize| format!("{name}-{site}");
        // One row for each key.
        rows.sort();
        rows.dedup_by_key(|(site, key, ..)| (*site, *key));
        rows.retain(|(site, ..)| *site < sites);
        let mut expected: Vec<_> = rows
            .iter()
            .filter(|(_, _, level, expired)| *level >= least && !expired)
            .map(|(site, key, ..)| (std::cmp::Reverse(*key), *site))
            .collect();
        expected.sort();
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(key, site)| (name(site), format!("7.{:06}", key.0)))
            .collect();

        let pages = runtime.block_on(async {
            for (site, key, level, expired) in rows {
                let expires = if expired { now() - 10 } else { now() + 1000 };
                let key = format!("7.{key:06}");
                put(&tables, &name(site), &key, LEVELS[level], "x", expires).await;
            }
            let sites: String = (0..sites)
                .map(|site| format!("&site={}", name(site)))
                .collect();
            let mut next = Some(format!("limit={limit}&level={}{sites}", LEVELS[least]));
            let mut pages = Vec::new();
            while let Some(query) = next {
                let (recent, following) = ask(&messages, &query).await;
                let recent: Vec<_> = recent
                    .into_iter()
                    .map(|message| {
                        let text = |name: &str| message[name].as_str().unwrap().to_owned();
                        let site = if sites.matches('=').count() == 1 {
                            assert!(message.get("site").is_none());
                            name(0)
                        } else {
                            text("site")
                        };
                        (site, text("id"))
                    })
                    .collect();
                pages.push(recent);
                next = following;
                assert!(pages.len() < 40, "the links do not end");
            }
            pages
        });
        for page in &pages {
            let is_one_id = page.iter().all(|(_, id)| *id == page[0].1);
            prop_assert!(page.len() <= limit || is_one_id, "{:?}", pages);
        }
        for two in pages.windows(2) {
            let [before, after] = two else { continue };
            if let (Some((_, last)), Some((_, first))) = (before.last(), after.first()) {
                prop_assert!(last > first, "{:?}", pages);
            }
        }
        prop_assert_eq!(pages.concat(), expected);
        Ok(())
    };
    TestRunner::new(config).run(&cases, holds).unwrap();
}

#[tokio::test]
async fn few_pages_are_read_however_many_messages_are_below_the_level() {
    let server = server().await;
    let tables = Tables::of(&server);
    let later = now() + 1000;
    put(&tables, "tst", "1", "critical", "older", later).await;
    put(&tables, "tst", "2", "error", "old", later).await;
    tables.put_messages("tst", 3, 2_000, later).await;
    put(&tables, "tst", "4", "error", "new", later).await;
    let (messages, recorder) = recorded(&server);
    for (query, expected, link, pages) in [
        ("level=error&limit=1", &["new"][..], true, 2),
        ("level=error&limit=2", &["new", "old"], true, 2),
        ("level=error&limit=3", &["new", "old", "older"], false, 2),
        ("level=error", &["new", "old", "older"], false, 1),
        ("level=fatal&limit=1", &["older"], false, 2),
        ("level=ERR&limit=1&before=4", &["old"], true, 2),
    ] {
        let (recent, next) = ask(&messages, &format!("site=tst&{query}")).await;
        assert_eq!(texts(&recent), expected, "{query}");
        assert_eq!(next.is_some(), link, "{query}: {next:?}");
        assert_eq!(recorder.take(), vec!["Query"; pages], "{query}");
    }
}

// Three rows make a page of 1 MB.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_reads_twenty_pages_at_most_and_its_link_leads_on_even_if_it_is_empty() {
    let server = server().await;
    let tables = Tables::of(&server);
    let later = now() + 1000;
    let long = "x".repeat(380_000);
    put(&tables, "tst", "1", "error", "old", later).await;
    for key in 100..175 {
        put(&tables, "tst", &key.to_string(), "info", &long, later).await;
    }
    put(&tables, "tst", "200", "error", "new", later).await;
    put(&tables, "mrc", "50", "error", "other", later).await;
    put(&tables, "mrc", "150", "error", "another", later).await;
    let (messages, recorder) = recorded(&server);
    for (query, expected) in [
        ("site=tst", vec![vec!["new"], vec!["old"]]),
        ("site=tst&before=200", vec![vec![], vec!["old"]]),
        (
            "site=tst&site=mrc",
            vec![vec!["new", "another"], vec!["other", "old"]],
        ),
        // What follows a full answer is looked for on one page more.
        ("site=tst&limit=1", vec![vec!["new"], vec![], vec!["old"]]),
    ] {
        let mut next = Some(format!("level=error&{query}"));
        let mut pages = Vec::new();
        while let Some(query) = next {
            let (recent, following) = ask(&messages, &query).await;
            pages.push(texts(&recent));
            next = following;
            let calls = recorder.take().len();
            assert!(calls <= 21, "{query}: {calls}");
        }
        assert_eq!(pages, expected, "{query}");
    }

    // The link leaves out nothing that was not read: not the key right below.
    let query = "level=error&site=tst&before=200";
    let (_, next) = ask(&messages, query).await;
    let (_, second) = next.as_ref().unwrap().split_once("&before=").unwrap();
    let second: u64 = second.strip_suffix(".000000").unwrap().parse().unwrap();
    let key = format!("{}.999999", second - 1);
    put(&tables, "tst", &key, "error", "below", later).await;
    let (recent, _) = ask(&messages, &next.unwrap()).await;
    assert_eq!(texts(&recent), ["below", "old"]);
}

// The original's rows, and whatever else is in the table.
#[tokio::test]
async fn a_row_without_a_level_is_info_for_the_parameter_too() {
    let (deployment, tables) = super::deployment_and_tables().await;
    for (key, level) in [
        ("1", None),
        ("2", Some(n(5))),
        ("3", Some(s("typo"))),
        ("4", Some(s(" CRIT"))),
        ("5", Some(s("WARN"))),
        ("6", Some(s("Debug"))),
    ] {
        let mut row = vec![
            ("site", s("tst")),
            ("timestamp", n(key)),
            ("message", s(key)),
            ("TimeToLive", n(now() + 1000)),
        ];
        row.extend(level.map(|level| ("log_level", level)));
        tables.put(MESSAGES_TABLE, row).await;
    }
    for (level, expected) in [
        ("debug", &["6", "5", "4", "3", "2", "1"][..]),
        ("info", &["5", "4", "3", "2", "1"]),
        ("warning", &["5", "4"]),
        ("error", &["4"]),
    ] {
        let query = [("site", "tst"), ("level", level)];
        let answer = deployment.get("/recent-logs", &query).await;
        assert_eq!(
            texts(answer.json().as_array().unwrap()),
            expected,
            "{level}"
        );
    }
}

#[tokio::test]
async fn the_sites_are_read_side_by_side_with_one_query_each() {
    let server = server().await;
    let tables = Tables::of(&server);
    let mut query = "limit=3".to_owned();
    for site in 0..10 {
        let name = format!("s{site}");
        tables
            .put_messages(&name, 100 + site, 10, now() + 1000)
            .await;
        query.push_str(&format!("&site={name}"));
    }
    let config = slow(&server, Duration::from_millis(300));
    let messages = Messages::new(&config, MESSAGES_TABLE.to_owned());
    let started = Instant::now();
    let (recent, next) = ask(&messages, &query).await;
    assert!(started.elapsed() < Duration::from_millis(1500));
    let ids: Vec<_> = recent.iter().map(|message| &message["id"]).collect();
    assert_eq!(ids, ["109.000009", "109.000008", "109.000007"]);
    assert!(next.unwrap().ends_with("&before=109.000007"));

    let (messages, recorder) = recorded(&server);
    ask(&messages, &query).await;
    assert_eq!(recorder.take(), ["Query"; 10]);
}
