//! Our own binary, run as an operator runs it: arguments and environment in; exit code, output and use of memory out.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use crate::process::send_signal;
use crate::tools::workspace;

/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(2);
/// No invocation of a test runs longer.
const RUN_LIMIT: Duration = Duration::from_secs(900);
/// Settings of the machine that a test must not see.
const FOREIGN_VARIABLES: [&str; 5] = ["ETCDBR_", "ETCDCTL_", "AWS_", "ECS_", "MINIO_"];

/// The path of the binary under test: `ETCDBR_BIN`, or the workspace's own, built once.
///
/// # Panics
/// Where it does not build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("ETCDBR_BIN") {
        Some(path) => path.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile_dir = test.ancestors().nth(2).expect("a test lies in target/<profile>/deps");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(["build", "--locked", "--quiet", "--workspace", "--bins"]);
    if profile_dir.file_name() == Some(OsStr::new("release")) {
        command.arg("--release");
    }
    assert!(command.status().expect("cargo runs").success(), "etcdbr does not build");
    profile_dir.join("etcdbr")
}

/// An invocation to be.
#[derive(Debug, Clone, Default)]
pub struct Etcdbr {
    program: Option<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    current_dir: Option<PathBuf>,
    sample_interval: Option<Duration>,
    largest_file_bytes: Option<u64>,
}

/// What an invocation left behind.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From the start to the end.
    pub wall: Duration,
    /// The highest sampled sum of RssAnon and RssShmem.
    pub peak_rss_bytes: u64,
    /// What it caused to be written to storage, by the kernel's account (nothing for a tmpfs).
    pub written_bytes: u64,
    /// Processor time in user and kernel mode, with that of the children it waited for.
    pub cpu: Duration,
    /// Every file of a file system that was seen open.
    pub files: BTreeSet<PathBuf>,
}

impl Etcdbr {
    /// `etcdbr` with `args`.
    pub fn new<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self { args: args.into_iter().map(|arg| arg.as_ref().to_owned()).collect(), ..Self::default() }
    }

    /// Another program in place of the binary under test, such as the one of `make dist`.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// The directory in which it runs.
    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.current_dir = Some(dir.to_owned());
        self
    }

    /// How often to look at its memory and files, where looking costs more than may be missed.
    pub fn sample_every(mut self, interval: Duration) -> Self {
        self.sample_interval = Some(interval);
        self
    }

    /// Lets no file that it writes grow beyond so many bytes, a multiple of 512: the kernel refuses the write, as a full
    /// disk does, and no signal ends the process.
    pub fn largest_file(mut self, bytes: u64) -> Self {
        self.largest_file_bytes = Some(bytes);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.spawn().wait()
    }

    /// Runs it to its end, which must be success.
    ///
    /// # Panics
    /// Where it fails.
    pub fn succeed(self) -> Outcome {
        let shown = format!("{:?}", self.args);
        let outcome = self.run();
        assert_eq!(outcome.code, Some(0), "etcdbr {shown}\n{}{}", outcome.stdout, outcome.stderr);
        outcome
    }

    /// Starts it and goes on.
    pub fn spawn(self) -> Running {
        let program = self.program.unwrap_or_else(|| binary().to_owned());
        let mut command = match self.largest_file_bytes {
            None => Command::new(&program),
            Some(bytes) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""]).arg((bytes / 512).to_string());
                shell.arg(&program);
                shell
            }
        };
        for (name, _) in std::env::vars_os() {
            if FOREIGN_VARIABLES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command.args(self.args).envs(self.env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(dir) = self.current_dir {
            command.current_dir(dir);
        }
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let stdout = collect(child.stdout.take().expect("a pipe was asked for"));
        let said = Arc::new(Mutex::new(String::new()));
        let stderr = follow(child.stderr.take().expect("a pipe was asked for"), said.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let sampler = sample(child.id(), self.sample_interval.unwrap_or(SAMPLE_INTERVAL), stop.clone());
        Running { child, started, stdout: Some(stdout), stderr: Some(stderr), said, stop, sampler: Some(sampler) }
    }
}

impl Outcome {
    /// Standard output as one JSON value: that of its last line.
    ///
    /// # Panics
    /// Where the last line is not JSON.
    pub fn json(&self) -> serde_json::Value {
        let line = self.stdout.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}\n{}", self.stderr))
    }

    /// Fails unless the invocation failed and said every one of `words` on standard error.
    ///
    /// # Panics
    /// Where it did not.
    pub fn assert_refused(&self, words: &[&str]) {
        assert!(self.code.is_some_and(|code| code != 0), "code {:?}\n{}{}", self.code, self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not said in:\n{}", self.stderr);
        }
    }
}

/// An invocation under way; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<()>>,
    said: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    sampler: Option<JoinHandle<Samples>>,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it has taken so far.
    pub fn cpu(&self) -> Duration {
        cpu_time(self.pid()).unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        self.said.lock().map(|said| said.clone()).unwrap_or_default()
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        send_signal(self.pid(), Signal::INT);
    }

    /// What a supervisor sends first.
    pub fn terminate(&self) {
        send_signal(self.pid(), Signal::TERM);
    }

    /// SIGSTOP: it does nothing until it is thawed.
    pub fn freeze(&self) {
        send_signal(self.pid(), Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        send_signal(self.pid(), Signal::CONT);
    }

    /// SIGKILL.
    pub fn kill9(&self) {
        send_signal(self.pid(), Signal::KILL);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it runs longer than any test should.
    pub fn wait(mut self) -> Outcome {
        let account = self.await_exit();
        let wall = self.started.elapsed();
        let status = self.child.wait().expect("a child can be waited for");
        self.stop.store(true, Ordering::Relaxed);
        let samples = self.sampler.take().expect("wait is called once").join().expect("the sampler ends");
        Outcome {
            code: status.code(),
            stdout: self.stdout.take().expect("wait is called once").join().expect("the reader ends"),
            stderr: {
                self.stderr.take().expect("wait is called once").join().expect("the reader ends");
                self.said()
            },
            wall,
            peak_rss_bytes: samples.peak_rss_bytes,
            written_bytes: account.written_bytes,
            cpu: account.cpu,
            files: samples.files,
        }
    }

    /// Waits for the end without reaping: the kernel's account of a dead process goes with its pid.
    fn await_exit(&self) -> Account {
        let pid = Pid::from_child(&self.child);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(pid), options).is_ok_and(|ended| ended.is_none()) {
            assert!(self.started.elapsed() < RUN_LIMIT, "etcdbr still runs after {RUN_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        Account {
            written_bytes: proc_number(self.pid(), "io", "write_bytes:").unwrap_or_default(),
            cpu: cpu_time(self.pid()).unwrap_or_default(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Collects the lines of `pipe` where others can see them as they come.
fn follow(pipe: impl Read + Send + 'static, said: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            if let Ok(mut said) = said.lock() {
                said.push_str(&String::from_utf8_lossy(&line));
            }
            line.clear();
        }
    })
}

fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// What the kernel knows of a process that has ended.
#[derive(Debug)]
struct Account {
    written_bytes: u64,
    cpu: Duration,
}

#[derive(Debug, Default)]
struct Samples {
    peak_rss_bytes: u64,
    files: BTreeSet<PathBuf>,
}

fn sample(pid: u32, interval: Duration, stop: Arc<AtomicBool>) -> JoinHandle<Samples> {
    std::thread::spawn(move || {
        let mut samples = Samples::default();
        while !stop.load(Ordering::Relaxed) {
            samples.peak_rss_bytes = samples.peak_rss_bytes.max(rss_bytes(pid));
            samples.files.extend(open_files(pid));
            std::thread::sleep(interval);
        }
        samples
    })
}

/// The memory of a process that no file backs: RssAnon and RssShmem.
pub fn rss_bytes(pid: u32) -> u64 {
    let kib = |field| proc_number(pid, "status", field).unwrap_or_default();
    (kib("RssAnon:") + kib("RssShmem:")) * 1024
}

/// Processor time of a process and of the children it waited for; `/proc/<pid>/stat` counts it in 1/100 s.
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold anything; what follows its last bracket is numbers: the state first, the times 12th.
    let fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ticks: u64 = fields.skip(11).take(4).map_while(|field| field.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 10))
}

fn proc_number(pid: u32, file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let paths = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    paths.filter(|path| path.is_absolute() && !path.starts_with("/dev") && !path.starts_with("/proc")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Etcdbr {
        Etcdbr::new(["-c", script]).program("/bin/sh")
    }

    #[test]
    fn output_and_exit_code_are_kept() {
        let outcome = shell("echo out; echo err >&2; exit 3").run();
        assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(3), "out\n", "err\n"));
        outcome.assert_refused(&["err"]);
    }

    #[test]
    fn the_peak_of_memory_is_seen() {
        let outcome = shell("x=$(head -c 30000000 /dev/zero | tr '\\0' a); sleep 0.1; test ${#x} = 30000000").succeed();
        assert!(outcome.peak_rss_bytes >= 30_000_000, "{}", outcome.peak_rss_bytes);
    }

    #[test]
    fn open_files_are_seen() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("file");
        let outcome = shell("exec 3>file; sleep 0.1").current_dir(dir.path()).succeed();
        assert!(outcome.files.contains(&file), "{:?}", outcome.files);
    }

    #[test]
    fn written_bytes_are_counted() {
        // In the build's directory: the kernel counts nothing for a tmpfs, as /tmp often is.
        let here = std::env::current_exe().expect("a path");
        let dir = tempfile::tempdir_in(here.parent().expect("a directory")).expect("a temporary directory");
        let outcome = shell("exec dd if=/dev/zero of=file bs=1M count=8").current_dir(dir.path()).succeed();
        assert!(outcome.written_bytes >= 8 << 20, "{}", outcome.written_bytes);
    }

    #[test]
    fn processor_time_is_counted() {
        let outcome = shell("i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; sleep 0.3").succeed();
        assert!(outcome.cpu >= Duration::from_millis(20), "{:?}", outcome.cpu);
        assert!(outcome.cpu + Duration::from_millis(200) < outcome.wall, "{:?} of {:?}", outcome.cpu, outcome.wall);
    }

    #[test]
    fn a_file_that_grows_too_large_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = || shell("head -c 2000 /dev/zero > file").current_dir(dir.path());
        assert_ne!(write().largest_file(1024).run().code, Some(0));
        assert_eq!(std::fs::metadata(dir.path().join("file")).expect("a file").len(), 1024);
        write().largest_file(2048).succeed();
    }

    #[test]
    fn an_interrupt_arrives() {
        // A shell does not trap what it was started to ignore, as whatever runs in the background is.
        let script = "import os, signal, sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(7))\n\
                      open(os.environ['READY'], 'w').close()\nwhile True: signal.pause()";
        let running = Etcdbr::new(["-c", script]).program("python3");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ready = dir.path().join("ready");
        let running = running.env("READY", &ready).spawn();
        while !ready.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        running.interrupt();
        assert_eq!(running.wait().code, Some(7));
    }
}
