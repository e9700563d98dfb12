//! Other processes: starting them, and what they use.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::Result;

/// A process that ends with this value.
pub struct Process {
    pub child: Child,
    pub id: u32,
}

impl Process {
    /// Starts a command, with a share of a core if there is one.
    pub fn start(mut command: Command, stdout: Stdio, share: Option<&Share>) -> Result<Self> {
        if let Some(share) = share {
            // It enters the group before it becomes the program, so that its
            // start is measured with the share too.
            let inner = command.as_std();
            let mut outer = Command::new("/bin/sh");
            outer
                .env_clear()
                .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
                .arg(&share.members)
                .arg(inner.get_program())
                .args(inner.get_args());
            for (name, value) in inner.get_envs() {
                if let Some(value) = value {
                    outer.env(name, value);
                }
            }
            command = outer;
        }
        let child = command.stdout(stdout).kill_on_drop(true).spawn()?;
        let id = child.id().ok_or("the process has ended")?;
        Ok(Self { child, id })
    }

    /// Starts another role of this program, and returns it with the first line
    /// that it prints.
    pub async fn role(arguments: &[String], share: Option<&Share>) -> Result<(Self, String)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        let mut process = Self::start(command, Stdio::piped(), share)?;
        let line = process.line().await?;
        Ok((process, line))
    }

    /// The next line of its output.
    pub async fn line(&mut self) -> Result<String> {
        let stdout = self.child.stdout.as_mut().ok_or("the output is not read")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        Ok(line.trim().to_owned())
    }

    /// Ends it as a service manager does, and waits.
    pub async fn terminate(mut self) -> Result<()> {
        let id = self.id.to_string();
        Command::new("kill").arg(id).status().await?;
        self.child.wait().await?;
        Ok(())
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Duration {
        cpu(&self.id.to_string())
    }

    /// The most memory that it had, in bytes; 0 where the system does not say.
    pub fn peak_memory(&self) -> u64 {
        memory(&self.id.to_string(), "VmHWM")
    }

    /// The memory that it has, in bytes.
    pub fn memory(&self) -> u64 {
        memory(&self.id.to_string(), "VmRSS")
    }
}

/// The processor time of a process, from Linux's accounting of its threads, in
/// nanoseconds there. Zero where there is none.
pub fn cpu(process: &str) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let used = tasks.filter_map(|task| {
        let line = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(used.sum())
}

fn memory(process: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

/// A share of a core, as Lambda gives a function by its memory: a whole one at
/// 1,769 MB ("Configure Lambda function memory").
pub struct Share {
    folder: PathBuf,
    /// The file that takes the numbers of processes.
    members: PathBuf,
}

impl Share {
    /// `None` where this user may not make a control group.
    pub fn of(cores: f64) -> Option<Self> {
        const PERIOD: u32 = 20_000;
        let quota = (f64::from(PERIOD) * cores).round();
        let name = format!("bench-{}-{quota}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let is_first_version = root.join("cpu").is_dir();
        let folder = match is_first_version {
            true => root.join("cpu").join(name),
            false => root.join(name),
        };
        // The one before may still be there: its process has only just ended.
        std::fs::create_dir_all(&folder).ok()?;
        let share = Self {
            members: folder.join("cgroup.procs"),
            folder,
        };
        let write = |file: &str, text: String| std::fs::write(share.folder.join(file), text);
        match is_first_version {
            true => {
                write("cpu.cfs_period_us", PERIOD.to_string()).ok()?;
                write("cpu.cfs_quota_us", quota.to_string()).ok()?;
            }
            false => write("cpu.max", format!("{quota} {PERIOD}")).ok()?,
        }
        Some(share)
    }

    /// From now on a process has this share.
    pub fn take(&self, process: &Process) -> Result<()> {
        Ok(std::fs::write(&self.members, process.id.to_string())?)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // A group that still has a process stays, and does no harm.
        let _ = std::fs::remove_dir(&self.folder);
    }
}
