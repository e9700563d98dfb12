//! Publishers' keys: the commands that make and use them.

use crate::support::{Process, command};

/// Makes a key with the command; returns it and its entry.
fn new_key(arguments: &[&str]) -> (String, String) {
    let output = command(&["key", "new"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    let key = stderr.strip_prefix("key: ").unwrap().trim_end().to_owned();
    (key, stdout)
}

#[test]
fn a_new_key_may_send_once_its_entry_is_in_the_servers_file() {
    let (key, entry) = new_key(&["camera", "--site", "tst", "--site", "a b"]);
    assert_eq!(entry.lines().count(), 1, "{entry}");
    assert!(entry.starts_with("camera:tst,a%20b:"), "{entry}");
    assert!(!entry.contains(&key), "{entry}");
    let (other, other_entry) = new_key(&["all", "--all-sites"]);
    assert!(other_entry.starts_with("all:*:"), "{other_entry}");
    assert_ne!(key, other);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, entry + &other_entry).unwrap();
    let process = Process::start(&["--port", "0", "--publisher-keys", file.to_str().unwrap()]);
    let post = |site: &str, headers: &str| {
        let body = format!(r#"{{"site":"{site}","log_message":"x"}}"#);
        process.request_with("POST /newlog", headers, &body)[9..12].to_owned()
    };
    for (key, site, status) in [
        (&key, "tst", "200"),
        (&key, "a b", "200"),
        (&key, "b", "403"),
        (&other, "b", "200"),
    ] {
        let header = format!("Authorization: Bearer {key}\r\n");
        assert_eq!(post(site, &header), status, "{site}");
    }
    assert_eq!(post("tst", ""), "401");
}

#[test]
fn a_key_without_a_site_or_with_a_name_that_no_entry_can_have_is_not_made() {
    for arguments in [
        &["camera"][..],
        &["camera", "--site", "tst", "--all-sites"],
        &["a:b", "--all-sites"],
        &["", "--all-sites"],
    ] {
        let output = command(&["key", "new"]).args(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_file_of_keys_that_cannot_be_used_gives_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let start = |content: Option<&str>| {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let arguments = ["--port", "0", "--publisher-keys", file.to_str().unwrap()];
        let output = command(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains("keys"), "{error}");
        error
    };
    start(None);
    assert!(start(Some("\n")).contains("no entry"));
    let error = start(Some("secret"));
    assert!(
        error.contains("publisher key 1") && !error.contains("secret"),
        "{error}"
    );
}
