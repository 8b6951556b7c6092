//! A server that a test started: its log goes to a file, it is stopped by its own pid, and it never outlives its owner.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How much of a log is shown when a test fails.
const LOG_LINES: usize = 60;

/// Sends `signal` to the process `pid`, which the caller has started and not yet waited for.
pub(crate) fn send_signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a child has a pid");
    kill_process(pid, signal).expect("a child that was not waited for can be signalled");
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    title: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command`; standard output and error are appended to `log`.
    pub fn spawn(title: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log's directory is writable");
        let errors = file.try_clone().expect("a file handle can be cloned");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{title} did not start: {error}"));
        Self { title: title.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, where it has ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// SIGTERM, then waits; SIGKILL where that does not help.
    pub fn stop(&mut self) -> ExitStatus {
        if let Some(status) = self.exited() {
            return status;
        }
        send_signal(self.pid(), Signal::TERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.exited() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill9()
    }

    /// SIGKILL, then waits.
    pub fn kill9(&mut self) -> ExitStatus {
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for")
    }

    /// Everything that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Server {
    #[allow(clippy::print_stdout, reason = "the test runner keeps it for tests that fail")]
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            println!("--- the end of the log of {} ---\n{}\n---", self.title, self.log_tail());
        }
    }
}
