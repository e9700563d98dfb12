//! The commands for a deployment, against a server's process.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::spawn;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::{PATIENCE, Process, Viewer, command, connect};

const NAMES: [&str; 9] = [
    "serve",
    "send",
    "tail",
    "recent",
    "online",
    "smoke",
    "key",
    "completion",
    "man",
];

/// A command that knows no deployment but by its arguments.
fn client(arguments: &[&str]) -> Command {
    let mut client = command(arguments);
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("LOGSTREAM_"))
        {
            client.env_remove(name);
        }
    }
    client.stdin(Stdio::null());
    client
}

impl Process {
    fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A command for this server.
    fn client(&self, arguments: &[&str]) -> Command {
        let mut client = client(arguments);
        client.args(["--http", &self.http()]);
        client
    }

    /// The texts of the site `tst`, the oldest first.
    fn texts(&self) -> Vec<String> {
        let output = self.client(&["recent", "--site", "tst", "--json"]).output();
        texts(&succeeded(output.unwrap()))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The output of a command that must have succeeded without a word on stderr.
fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

/// What a command that must have failed says.
fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let error = text(&output.stderr);
    assert!(!error.is_empty());
    error
}

fn texts(lines: &str) -> Vec<String> {
    let text = |line: &str| json(line)["message"].as_str().unwrap().to_owned();
    lines.lines().map(text).collect()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Whoever does not read all of it ends before.
    let writer = spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    let _ = writer.join().unwrap();
    output
}

/// A command that goes on, killed when dropped.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Receiver<String>>,
    stderr: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        Self::of(command.spawn().unwrap())
    }

    fn of(mut child: Child) -> Self {
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(lines),
            stderr: lines(child.stderr.take().unwrap()),
            child,
        }
    }

    fn line(&self) -> String {
        let stdout = self.stdout.as_ref().unwrap();
        stdout.recv_timeout(PATIENCE).unwrap()
    }

    fn message(&self) -> String {
        json(&self.line())["message"].as_str().unwrap().to_owned()
    }

    /// Waits for a line of stderr.
    fn says(&self, part: &str) {
        loop {
            let line = self.stderr.recv_timeout(PATIENCE).unwrap();
            if line.contains(part) {
                return;
            }
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let kill = Command::new("kill").args(["-s", name, &id]).status();
        assert!(kill.unwrap().success());
    }

    /// Waits for its end. Returns the exit code, and what it has printed that
    /// was not read.
    fn end(mut self) -> (Option<i32>, Vec<String>, Vec<String>) {
        drop(self.stdin.take());
        let stderr = rest(&self.stderr);
        let stdout = self.stdout.take().map(|stdout| rest(&stdout));
        let code = self.child.wait().unwrap().code();
        (code, stdout.unwrap_or_default(), stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What comes until the output is closed.
fn rest(output: &Receiver<String>) -> Vec<String> {
    let mut rest = Vec::new();
    loop {
        match output.recv_timeout(PATIENCE) {
            Ok(line) => rest.push(line),
            Err(RecvTimeoutError::Disconnected) => return rest,
            Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
        }
    }
}

fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    spawn(move || {
        for line in BufReader::new(output).lines() {
            if sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A server that can come back at the same address.
struct Lasting {
    folder: tempfile::TempDir,
    process: Process,
}

impl Lasting {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // An address of its own where there are many, so that nobody takes the
        // port while the server is away.
        let id = std::process::id();
        let mut counter = [0];
        getrandom::fill(&mut counter).unwrap();
        let host = if cfg!(target_os = "linux") {
            format!(
                "127.{}.{}.{}",
                counter[0] / 2 + 1,
                id / 250 % 250,
                id % 250 + 1
            )
        } else {
            "127.0.0.1".to_owned()
        };
        let process = serve(&host, "0", folder.path());
        Self { folder, process }
    }

    fn kill(&mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
    }

    fn restart(&mut self) {
        let (host, port) = self.process.address.rsplit_once(':').unwrap();
        self.process = serve(host, port, self.folder.path());
    }
}

fn serve(host: &str, port: &str, folder: &Path) -> Process {
    let folder = folder.to_str().unwrap();
    Process::start(&["--host", host, "--port", port, "--data-dir", folder])
}

/// Seconds since the Unix epoch, so long ago.
fn ago(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs() - seconds
}

fn post(process: &Process, body: &str) {
    let answer = process.request("POST /newlog", body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn the_words_of_the_arguments_are_one_message() {
    let process = Process::start(&["serve", "--port", "0"]);
    for arguments in [
        &["send", "--site", "tst", "--level", "WARN", "Dome", "opened"][..],
        &["send", "--site", "tst", ""],
    ] {
        assert_eq!(succeeded(process.client(arguments).output().unwrap()), "");
    }
    let recent = process
        .client(&["recent", "--site", "tst", "--json"])
        .output();
    let recent = succeeded(recent.unwrap());
    let [first, second] = [0, 1].map(|index| json(recent.lines().nth(index).unwrap()));
    assert_eq!(first["message"], "Dome opened");
    assert_eq!(first["log_level"], "warning");
    assert_eq!(first["site"], "tst");
    assert_eq!(
        first["timestamp"].to_string(),
        first["id"].as_str().unwrap().trim_end_matches('0')
    );
    assert_eq!(second["message"], "");
}

#[test]
fn each_line_of_the_input_is_stored_once_in_order() {
    let process = Process::start(&["--port", "0"]);
    let lines: Vec<_> = (0..1000)
        .map(|index| format!("line {}", index / 2))
        .collect();
    // Ends of lines as on Windows, empty lines, none at the end, and Latin-1.
    let mut input = lines.join("\r\n\n").into_bytes();
    input.extend(b"\n21 \xb0C");
    let output = with_input(process.client(&["send", "--site", "tst"]), &input);
    assert_eq!(succeeded(output), "");
    let texts = process.texts();
    assert_eq!(texts[..1000], lines);
    assert_eq!(texts[1000..], ["21 °C"]);
}

#[test]
fn a_line_is_sent_before_the_input_ends() {
    let process = Process::start(&["--port", "0"]);
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    let mut command = process.client(&["send", "--site", "tst", "-"]);
    command.stdin(Stdio::piped());
    let mut sending = Running::start(command);
    for text in ["one", "two"] {
        writeln!(sending.stdin.as_mut().unwrap(), "{text}").unwrap();
        viewer.reads(text);
    }
    assert_eq!(sending.end(), (Some(0), vec![], vec![]));
}

#[test]
fn what_cannot_be_sent_while_the_server_is_away_is_stored_once_in_order_when_it_is_back() {
    let mut server = Lasting::start();
    let mut viewer = Viewer::open(connect(&server.process.address)).opened();
    let mut command = server.process.client(&["send", "--site", "tst"]);
    command.stdin(Stdio::piped());
    let mut sending = Running::start(command);
    let lines: Vec<_> = (0..600).map(|index| format!("line {index}")).collect();
    let mut input = sending.stdin.take().unwrap();
    let all = lines.clone();
    let writer = spawn(move || {
        for line in all {
            writeln!(input, "{line}").unwrap();
        }
    });
    // In the middle of it.
    while viewer.try_text().unwrap() != "line 50" {}
    server.kill();
    sending.says("trying again");
    writer.join().unwrap();
    server.restart();
    sending.says("sending again");
    assert_eq!(sending.end(), (Some(0), vec![], vec![]));
    assert_eq!(server.process.texts(), lines);
}

#[test]
fn a_server_that_does_not_come_back_ends_it_with_the_first_line_that_is_missing() {
    let command = client(&[
        "send",
        "--site",
        "tst",
        "--timeout",
        "1s",
        "--http",
        "http://127.0.0.1:1",
    ]);
    let error = failed(&with_input(command, b"\none\ntwo\n"), 1);
    assert!(
        error.contains("line 2 and those after it are not stored"),
        "{error}"
    );
    assert!(
        error.contains("127.0.0.1:1") && error.contains("refused"),
        "{error}"
    );
    let mut command = client(&["send", "--site", "tst", "--timeout", "0", "x"]);
    let error = failed(
        &command
            .args(["--http", "http://127.0.0.1:1"])
            .output()
            .unwrap(),
        1,
    );
    assert!(error.starts_with("logstream: not stored: "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_line_that_is_refused_is_named_and_the_others_are_stored() {
    let process = Process::start(&["--port", "0"]);
    // In the middle of what is sent in one request.
    let mut lines: Vec<_> = (1..=150).map(|number| format!("line {number}")).collect();
    for index in [74, 99] {
        lines[index] = "x".repeat(200_000);
    }
    let input = lines.join("\n");
    let output = with_input(process.client(&["send", "--site", "tst"]), input.as_bytes());
    let error = failed(&output, 1);
    for (line, number) in error.lines().zip([75, 100]) {
        assert!(
            line.contains(&format!("line {number} is not stored")),
            "{error}"
        );
        assert!(line.contains("'log_message' is too long"), "{error}");
    }
    assert_eq!(error.lines().count(), 2, "{error}");
    lines.retain(|line| line.len() < 100);
    assert_eq!(process.texts(), lines);
}

#[test]
fn an_interrupted_send_says_what_is_stored_and_ends_as_shells_expect() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let process = Process::start(&["--port", "0"]);
        let mut viewer = Viewer::open(connect(&process.address)).opened();
        let mut command = process.client(&["send", "--site", "tst"]);
        command.stdin(Stdio::piped());
        let mut sending = Running::start(command);
        writeln!(sending.stdin.as_mut().unwrap(), "one").unwrap();
        viewer.reads("one");
        // The answer comes after the frame, or before it; a second line is
        // sent only after it.
        writeln!(sending.stdin.as_mut().unwrap(), "two").unwrap();
        viewer.reads("two");
        sending.signal(signal);
        let _input = sending.stdin.take();
        let (status, _, stderr) = sending.end();
        assert_eq!(status, Some(code));
        let is_right = ["line 1 is stored", "line 2 is stored"];
        assert!(
            is_right.iter().any(|part| stderr[0].contains(part)),
            "{stderr:?}"
        );
    }
}

/// A server that takes messages only with a key, and the key.
fn with_keys(folder: &Path) -> (Process, String) {
    let output = command(&["key", "new", "camera", "--site", "tst"])
        .output()
        .unwrap();
    let file = folder.join("entries");
    let entries = format!("# Whose it is: the dome's.\n{}", text(&output.stdout));
    std::fs::write(&file, entries).unwrap();
    let process = Process::start(&["--port", "0", "--publisher-keys", file.to_str().unwrap()]);
    let key = text(&output.stderr);
    (
        process,
        key.trim().strip_prefix("key: ").unwrap().to_owned(),
    )
}

#[test]
fn the_key_is_taken_from_the_environment_the_profile_or_its_file_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (process, key) = with_keys(folder);
    let send = |site: &str, key: &str| {
        let mut send = process.client(&["send", "--site", site, "x"]);
        let output = send.env("LOGSTREAM_KEY", key).output().unwrap();
        assert!(key.is_empty() || !format!("{output:?}").contains(key));
        output
    };
    succeeded(send("tst", &key));
    let error = failed(&send("abc", &key), 1);
    assert!(
        error.contains("403") && error.contains("may not send"),
        "{error}"
    );
    let error = failed(&send("tst", "wrong-key"), 1);
    assert!(error.contains("401"), "{error}");
    assert!(failed(&send("tst", ""), 1).contains("401"));
    failed(&send("tst", "wröng-key"), 2);

    let config = folder.join("config.toml");
    std::fs::write(folder.join("key"), format!("{key}\n")).unwrap();
    let content = format!(
        "[profile.here]\nhttp = '{0}'\nsites = ['tst']\nkey = '{key}'\n[profile.file]\nhttp = '{0}'\nsites = ['tst']\nkey_file = 'key'\n",
        process.http()
    );
    std::fs::write(&config, &content).unwrap();
    let with_profile = |name: &str| {
        let mut send = client(&["send", "x", "--profile", name]);
        let output = send.env("LOGSTREAM_CONFIG", &config).output().unwrap();
        assert!(!format!("{output:?}").contains(&key));
        output
    };
    let mode = |file: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.join(file), mode).unwrap();
    };
    for file in ["key", "config.toml"] {
        mode(file, 0o640);
    }
    succeeded(with_profile("here"));
    succeeded(with_profile("file"));
    for file in ["key", "config.toml"] {
        mode(file, 0o644);
    }
    for (profile, file) in [("here", "config.toml"), ("file", "key")] {
        let output = with_profile(profile);
        assert!(output.status.success(), "{output:?}");
        let warning = text(&output.stderr);
        assert!(
            warning.contains("warning") && warning.contains(file),
            "{warning}"
        );
    }
    // An error of the file does not quote it.
    for broken in [
        content.replace(&format!("'{key}'"), &format!("'{key}")),
        content.replace("key =", "kex ="),
        content.replace(&format!("'{key}'"), &format!("['{key}']")),
        content.replace(&format!("'{key}'"), &key),
        content.replace("sites", "key_file = 'key'\nsites"),
    ] {
        std::fs::write(&config, broken).unwrap();
        let error = failed(&with_profile("here"), 2);
        assert!(error.contains("config.toml"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let mut help = client(&["send", "--help"]);
    let help = help.env("LOGSTREAM_KEY", &key).output().unwrap();
    assert!(!succeeded(help).contains(&key));
}

#[test]
fn a_profile_has_the_addresses_and_the_sites() {
    let process = Process::start(&["--port", "0"]);
    post(&process, r#"{"site":"tst","log_message":"one"}"#);
    post(&process, r#"{"site":"abc","log_message":"two"}"#);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let content = format!(
        "[profile.both]\nhttp = '{0}/'\nsites = ['tst', 'abc']\n[profile.deaf]\nhttp = '{0}'\nws = 'ws://127.0.0.1:1'\nsites = ['tst']\n",
        process.http()
    );
    std::fs::write(&config, &content).unwrap();
    let run = |arguments: &[&str], profile: &str| {
        let mut client = client(arguments);
        client.env("LOGSTREAM_CONFIG", &config);
        client.env("LOGSTREAM_PROFILE", profile).output().unwrap()
    };
    let recent = |arguments: &[&str]| {
        let mut all = vec!["recent", "--json"];
        all.extend(arguments);
        texts(&succeeded(run(&all, "both")))
    };
    assert_eq!(recent(&[]), ["one", "two"]);
    assert_eq!(recent(&["--site", "abc"]), ["two"]);
    // Who reads needs no right to the key.
    let with_key = content.replace("'abc']", "'abc']\nkey_file = 'none'");
    std::fs::write(&config, with_key).unwrap();
    assert_eq!(recent(&["--site", "abc"]), ["two"]);
    let error = failed(&run(&["send", "--site", "tst", "x"], "both"), 2);
    assert!(error.contains("key_file of 'both'"), "{error}");
    std::fs::write(folder.path().join("none"), "\n").unwrap();
    let output = run(&["send", "--site", "tst", "x"], "both");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("it is empty"), "{output:?}");
    std::fs::write(&config, content).unwrap();
    // Derived from the HTTP API's address, and not.
    succeeded(run(&["smoke"], "both"));
    assert_eq!(run(&["smoke"], "deaf").status.code(), Some(1));
    succeeded(run(&["smoke", "--http", &process.http()], "deaf"));
    let error = failed(&run(&["recent"], "none"), 2);
    assert!(
        error.contains("'none'") && error.contains("both, deaf"),
        "{error}"
    );
    // Which of the two sites?
    assert!(failed(&run(&["send", "x"], "both"), 2).contains("--site"));
}

#[test]
fn tail_misses_nothing_and_repeats_nothing_over_a_restart_of_the_server() {
    let mut server = Lasting::start();
    server.process.log("before");
    let tail = server.process.client(&["tail", "--site", "tst", "--json"]);
    let tail = Running::start(tail);
    assert_eq!(tail.message(), "before");
    server.process.log("live");
    assert_eq!(tail.message(), "live");
    for round in 0..2 {
        server.kill();
        tail.says("connecting again");
        server.restart();
        // It comes back after a second at least; these are in the history,
        // the first with a time before what was shown.
        let old = format!(
            r#"{{"site":"tst","log_message":"old {round}","timestamp":{}}}"#,
            ago(600)
        );
        post(&server.process, &old);
        server.process.log(&format!("away {round}"));
        tail.says("connected again");
        server.process.log(&format!("live {round}"));
        let mut messages = [(); 3].map(|()| tail.message());
        // The history may have the last one already.
        messages.sort();
        assert_eq!(
            messages,
            ["away", "live", "old"].map(|text| format!("{text} {round}"))
        );
    }
    tail.signal("TERM");
    assert_eq!(tail.end(), (Some(0), vec![], vec![]));
}

#[test]
fn tail_shows_several_sites_from_a_level_and_a_time_on() {
    let process = Process::start(&["--port", "0"]);
    for (site, text, level, seconds) in [
        ("tst", "two hours ago", "error", 7200),
        ("abc", "info of before", "info", 60),
        ("abc", "error of before", "error", 50),
        ("tst", "warning of before", "warning", 40),
    ] {
        let time = ago(seconds);
        post(
            &process,
            &format!(
                r#"{{"site":"{site}","log_message":"{text}","log_level":"{level}","timestamp":{time}}}"#
            ),
        );
    }
    let sites = [
        "tail", "--site", "tst", "--site", "abc", "--level", "warning", "--json",
    ];
    let tail = Running::start(process.client(&sites));
    assert_eq!(tail.message(), "error of before");
    assert_eq!(tail.message(), "warning of before");
    for (site, text, level) in [
        ("abc", "info", "info"),
        ("abc", "error", "error"),
        ("tst", "critical", "fatal"),
    ] {
        post(
            &process,
            &format!(r#"{{"site":"{site}","log_message":"{text}","log_level":"{level}"}}"#),
        );
    }
    for (site, text) in [("abc", "error"), ("tst", "critical")] {
        let line = json(&tail.line());
        assert_eq!(
            (&line["site"], &line["message"]),
            (&site.into(), &text.into())
        );
        assert_eq!(
            line["timestamp"].to_string(),
            line["id"].as_str().unwrap().trim_end_matches('0')
        );
    }
    let earlier = Running::start(process.client(&[&sites[..], &["--since", "2h1m"]].concat()));
    assert_eq!(earlier.message(), "two hours ago");
    let late = Running::start(process.client(&[&sites[..], &["--since", "45"]].concat()));
    assert_eq!(late.message(), "warning of before");
}

#[test]
fn tail_ends_quietly_when_nobody_reads_its_output() {
    let process = Process::start(&["--port", "0"]);
    process.log("one");
    let mut tail = process.client(&["tail", "--site", "tst"]).spawn().unwrap();
    let mut output = BufReader::new(tail.stdout.take().unwrap());
    let tail = Running::of(tail);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.ends_with(" info     one\n"), "{line}");
    drop(output);
    // Elsewhere only a write tells.
    if !cfg!(target_os = "linux") {
        process.log("two");
    }
    assert_eq!(tail.end(), (Some(0), vec![], vec![]));
}

#[test]
fn tail_ends_quietly_by_a_signal_even_if_its_output_is_stuck() {
    for signal in ["INT", "TERM"] {
        let process = Process::start(&["--port", "0"]);
        process.log("one");
        let mut tail = process.client(&["tail", "--site", "tst"]).spawn().unwrap();
        let mut output = BufReader::new(tail.stdout.take().unwrap());
        let tail = Running::of(tail);
        output.read_line(&mut String::new()).unwrap();
        // More than a pipe holds.
        process.log(&"x".repeat(120_000));
        // It has begun to write.
        output.read_exact(&mut [0; 10]).unwrap();
        tail.signal(signal);
        assert_eq!(tail.end(), (Some(0), vec![], vec![]), "{signal}");
    }
}

#[test]
fn tail_waits_for_a_server_that_is_not_there_yet_and_gives_up_where_it_is_refused() {
    let mut server = Lasting::start();
    server.kill();
    let tail = server.process.client(&["tail", "--site", "tst", "--json"]);
    let tail = Running::start(tail);
    tail.says("trying again");
    server.restart();
    tail.says("connected again");
    server.process.log("one");
    assert_eq!(tail.message(), "one");
    // The same site twice.
    let mut tail = server.process.client(&["tail", "--site", "tst"]);
    let ws = format!("ws://{}?site=tst", server.process.address);
    tail.args(["--ws", &ws]);
    let (code, _, error) = Running::start(tail).end();
    assert_eq!(code, Some(1));
    assert!(error[0].contains(" answers 400: "), "{error:?}");
}

#[test]
fn what_is_not_printable_does_not_reach_a_terminal() {
    let process = Process::start(&["--port", "0"]);
    post(
        &process,
        r#"{"site":"tst","log_message":"a\u001b[31m\n\u009b\u202eb"}"#,
    );
    let recent = process.client(&["recent", "--site", "tst"]).output();
    let line = succeeded(recent.unwrap());
    assert!(
        line.ends_with("a\\u{1b}[31m\\n\\u{9b}\\u{202e}b\n"),
        "{line}"
    );
    assert_eq!(process.texts(), ["a\u{1b}[31m\n\u{9b}\u{202e}b"]);
}

// With util-linux's `script`, which gives a terminal.
#[cfg(target_os = "linux")]
#[test]
fn levels_have_colours_on_a_terminal_and_without_no_color() {
    let process = Process::start(&["--port", "0"]);
    process.log_at("Dome stuck", "error");
    let program = env!("CARGO_BIN_EXE_logstream");
    let recent = format!("'{program}' recent --site tst --http {}", process.http());
    let on_terminal = |no_color: Option<&str>| {
        let mut script = Command::new("script");
        script
            .args(["-qec", &recent, "/dev/null"])
            .env("TERM", "xterm");
        script.env_remove("NO_COLOR").stdin(Stdio::null());
        if let Some(value) = no_color {
            script.env("NO_COLOR", value);
        }
        text(&script.output().unwrap().stdout)
    };
    let shown = on_terminal(None);
    assert!(
        shown.contains("\x1b[31merror    Dome stuck\x1b[0m"),
        "{shown:?}"
    );
    let shown = on_terminal(Some("1"));
    assert!(
        shown.contains("error    Dome stuck") && !shown.contains('\x1b'),
        "{shown:?}"
    );
}

#[test]
fn recent_follows_the_links_and_shows_the_oldest_first() {
    let process = Process::start(&["--port", "0"]);
    let filler = "x".repeat(100_000);
    // 6 MB, and an answer ends at 5.
    for ten in 0..6 {
        let messages: Vec<_> = (0..10)
            .map(|one| format!(r#"{{"site":"tst","log_message":"{ten}{one} {filler}"}}"#))
            .collect();
        post(&process, &format!("[{}]", messages.join(",")));
    }
    let numbers: Vec<_> = process
        .texts()
        .iter()
        .map(|text| text[..2].to_owned())
        .collect();
    let all: Vec<_> = (0..60).map(|number| format!("{number:02}")).collect();
    assert_eq!(numbers, all);
    post(
        &process,
        r#"{"site":"abc","log_message":"another site","log_level":"error"}"#,
    );
    let recent = |arguments: &[&str]| {
        let mut recent = process.client(&["recent", "--site", "tst", "--json"]);
        texts(&succeeded(recent.args(arguments).output().unwrap()))
    };
    let last = recent(&["--site", "abc", "--limit", "2"]);
    assert!(last[0].starts_with("59 "), "{}", last.len());
    assert_eq!(last[1..], ["another site"]);
    assert_eq!(
        recent(&["--site", "abc", "--level", "error"]),
        ["another site"]
    );
    assert_eq!(recent(&["--since", "0", "--level", "error"]).len(), 0);
}

#[test]
fn online_lists_who_watches() {
    let process = Process::start(&["--port", "0"]);
    let online = |arguments: &[&str]| {
        let mut online = process.client(&["online", "--site", "tst"]);
        succeeded(online.args(arguments).output().unwrap())
    };
    assert_eq!(online(&[]), "");
    let _viewers = [(); 2].map(|()| Viewer::open(connect(&process.address)).opened());
    assert_eq!(online(&[]).lines().count(), 2);
    let both = online(&["--site", "abc"]);
    assert!(both.lines().all(|line| line.starts_with("tst ")), "{both}");
    let first = json(online(&["--json"]).lines().next().unwrap());
    assert_eq!(first["site"], "tst");
    assert!(online(&[]).contains(first["ConnectionID"].as_str().unwrap()));
}

#[test]
fn smoke_passes_where_all_works_and_says_what_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&["--port", "0"]);
    let report = succeeded(process.client(&["smoke"]).output().unwrap());
    assert!(
        report.ends_with(" s\n") && report.contains("smoke test passed: 5 checks"),
        "{report}"
    );
    assert_eq!(report.matches("pass  ").count(), 5, "{report}");

    let dead = client(&["smoke", "--http", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(dead.status.code(), Some(1));
    let report = text(&dead.stdout);
    assert!(
        report.starts_with("FAIL  a viewer connects: cannot reach ws://127.0.0.1:1"),
        "{report}"
    );

    // Nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let began = Instant::now();
    let output = client(&["smoke", "--timeout", "1s", "--http", &url])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("not within 1 s"),
        "{output:?}"
    );
    assert!(began.elapsed() < PATIENCE);

    let (process, key) = with_keys(folder.path());
    let refused = process.client(&["smoke"]).output().unwrap();
    assert!(
        text(&refused.stdout).contains("FAIL  a message is taken"),
        "{refused:?}"
    );
    let mut smoke = process.client(&["smoke", "--site", "tst"]);
    succeeded(smoke.env("LOGSTREAM_KEY", key).output().unwrap());
}

#[test]
fn wrong_arguments_end_with_2_and_say_what_is_expected() {
    for (arguments, part) in [
        (&["tail"][..], "--site"),
        (&["send", "x"], "--site"),
        (
            &["send", "--site", "tst", "--level", "loud", "x"],
            "critical",
        ),
        (&["recent", "--site", "tst", "--since", "2w"], "2h"),
        (&["recent", "--site", "tst", "--limit", "0"], "--limit"),
        (&["recent", "--site", ""], "1024"),
        (
            &["recent", "--site", "tst", "--http", "localhost:3000"],
            "http://127.0.0.1:3000",
        ),
        (
            &["tail", "--site", "tst", "--ws", "http://x"],
            "ws://127.0.0.1:3000",
        ),
        (
            &["recent", "--site", "tst", "--http", "http://user:pass@x"],
            "expected",
        ),
        (&["man", "x"], "'x'"),
        (&["completion", "tcsh"], "bash"),
        (&["--port", "0", "recent"], "recent"),
    ] {
        let error = failed(&client(arguments).output().unwrap(), 2);
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert!(!error.contains("user:pass"), "{error}");
    }
    let mut eleven = client(&["tail"]);
    eleven.args((0..11).map(|site| format!("--site={site}")));
    assert!(failed(&eleven.output().unwrap(), 2).contains("10"));
}

#[test]
fn completions_manual_and_help_have_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeeded(client(&["completion", shell]).output().unwrap());
        for name in NAMES {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
    let manual = succeeded(client(&["man"]).output().unwrap());
    let help = succeeded(client(&["--help"]).output().unwrap());
    for name in NAMES {
        assert!(manual.contains(&format!("logstream\\-{name}")), "{name}");
        assert!(help.contains(&format!("\n  {name} ")), "{name}");
        let page = succeeded(client(&["man", name]).output().unwrap());
        assert!(page.contains(".SH NAME"), "{page}");
        let help = succeeded(client(&[name, "--help"]).output().unwrap());
        assert!(
            name == "key" || help.contains("\nExamples:\n  logstream"),
            "{name}"
        );
    }
    let page = succeeded(client(&["man", "key", "new"]).output().unwrap());
    assert!(page.contains("all\\-sites"), "{page}");
}
