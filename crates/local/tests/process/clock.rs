//! The wall clock jumps: a laptop wakes, NTP corrects it.

use std::path::Path;
use std::process::Command;

use crate::support::{Process, Viewer, command, connect};

/// Adds the seconds in the file `CLOCK_OFFSET` to the wall clock of a process.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME) {
        char seconds[32] = {0};
        int file = open(getenv("CLOCK_OFFSET"), O_RDONLY);
        if (file >= 0) {
            if (read(file, seconds, sizeof seconds - 1) > 0) time->tv_sec += atol(seconds);
            close(file);
        }
    }
    return result;
}
"#;

/// A server whose wall clock is ahead by the seconds in a file of the folder.
fn with_clock(folder: &Path) -> Process {
    let (source, shim) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let mut compiler = Command::new("cc");
    let compiler = compiler.args(["-shared", "-fPIC", "-o"]).arg(&shim);
    assert!(compiler.arg(&source).status().unwrap().success());
    set(folder, 0);
    let mut command = command(&["--port", "0"]);
    command.env("LD_PRELOAD", &shim);
    command.env("CLOCK_OFFSET", folder.join("offset"));
    Process::spawn(&mut command)
}

fn set(folder: &Path, seconds: i64) {
    // Renamed, so that no half of it is read.
    let new = folder.join("new");
    std::fs::write(&new, seconds.to_string()).unwrap();
    std::fs::rename(new, folder.join("offset")).unwrap();
}

#[test]
fn after_a_jump_beyond_a_rows_expiry_a_viewer_is_closed_and_served_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let process = with_clock(folder.path());
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    process.log("before");
    viewer.reads("before");
    set(folder.path(), 2 * 3600 + 13 * 60);
    let (kind, payload) = viewer.next();
    assert_eq!(kind, 0x88);
    assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), 1001);
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    process.log("after");
    viewer.reads("after");
}

#[test]
fn a_viewer_is_served_through_smaller_jumps_and_jumps_back() {
    let folder = tempfile::tempdir().unwrap();
    let process = with_clock(folder.path());
    let mut viewer = Viewer::open(connect(&process.address)).opened();
    for seconds in [0, 3600, -7980, 30, -30 * 86_400, 0] {
        set(folder.path(), seconds);
        for index in 0..3 {
            let text = format!("{index} at {seconds}");
            process.log(&text);
            viewer.reads(&text);
        }
        // Who comes while the clock is wrong is served too.
        let mut other = Viewer::open(connect(&process.address)).opened();
        process.log("x");
        viewer.reads("x");
        other.reads("x");
    }
}
