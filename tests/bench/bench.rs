//! What every measurement shares: where it works, how often it repeats, the archive, and processes to be timed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcdbr_tests::etcdbr::{Etcdbr, Outcome};
use etcdbr_tests::minio::Minio;
use tempfile::TempDir;

/// Looking at a process more often takes time from it on two cores.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);

/// One run of the benchmark.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Pairs that are timed; each figure is the median of them.
    pub(crate) rounds: usize,
    work: TempDir,
    memory: TempDir,
}

/// Where backups go.
#[derive(Debug)]
pub(crate) struct Archive {
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
    dir: Option<PathBuf>,
}

impl Bench {
    /// Works in a directory below `cache`, so that everything lies on one file system.
    ///
    /// # Panics
    /// Where nothing can be written there.
    pub(crate) fn new(cache: &Path, rounds: usize) -> Self {
        let work = tempfile::Builder::new().prefix("running-").tempdir_in(cache).expect("the cache is writable");
        let memory = tempfile::tempdir_in("/dev/shm").expect("a file system in memory");
        let bench = Self { rounds, work, memory };
        Etcdbr::new(["keygen", "--key-file"]).arg(bench.key()).succeed();
        bench
    }

    /// A path of its own below the work directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn key(&self) -> PathBuf {
        self.path("key")
    }

    /// An archive in a directory.
    ///
    /// # Panics
    /// Where it cannot be made.
    pub(crate) fn directory(&self, name: &str) -> Archive {
        directory(self.path(name))
    }

    /// An archive in memory: a store that shares no disk with etcd.
    ///
    /// # Panics
    /// Where there is no file system in memory.
    pub(crate) fn memory(&self, name: &str) -> Archive {
        directory(self.memory.path().join(name))
    }

    /// An archive in a bucket that exists.
    pub(crate) fn bucket(&self, minio: &Minio, name: &str) -> Archive {
        let keys = [("AWS_ACCESS_KEY_ID", minio.access_key()), ("AWS_SECRET_ACCESS_KEY", minio.secret_key())];
        let env = keys.map(|(name, value)| (name, value.to_owned())).to_vec();
        let args = ["--storage-provider", "S3", "--store-container", name, "--store-endpoint-override"];
        Archive {
            args: [&args[..], &[&minio.endpoint()]].concat().into_iter().map(str::to_owned).collect(),
            env,
            dir: None,
        }
    }

    /// Our binary on an encrypted archive.
    pub(crate) fn on(&self, archive: &Archive, args: &[&str]) -> Etcdbr {
        let run = Etcdbr::new(args).args(&archive.args).arg("--encryption-key-file").arg(self.key());
        archive.env.iter().fold(run, |run, (name, value)| run.env(name, value))
    }
}

fn directory(dir: PathBuf) -> Archive {
    std::fs::create_dir_all(&dir).expect("the work directory is writable");
    let args = ["--storage-provider", "Local", "--store-container", &dir.display().to_string()].map(str::to_owned);
    Archive { args: args.to_vec(), env: Vec::new(), dir: Some(dir) }
}

impl Archive {
    /// Makes room for the next backup, which is the latest without a doubt then.
    ///
    /// # Panics
    /// Where the directory cannot be cleared.
    pub(crate) fn clear(&self) {
        if let Some(dir) = &self.dir {
            std::fs::remove_dir_all(dir).expect("the archive can be removed");
            std::fs::create_dir_all(dir).expect("the archive can be made again");
        }
    }

    /// Bytes of all deltas that are stored in the directory.
    ///
    /// # Panics
    /// Where it cannot be read.
    pub(crate) fn delta_bytes(&self) -> u64 {
        self.dir.as_deref().map_or(0, |dir| bytes_below(dir, false))
    }
}

/// Runs `command` alone: what others left to be written is written before.
pub(crate) fn timed(command: Etcdbr) -> Outcome {
    rustix::fs::sync();
    command.sample_every(SAMPLE_INTERVAL).succeed()
}

/// Another program, to be timed beside ours.
pub(crate) fn program(path: impl Into<PathBuf>, args: &[&str]) -> Etcdbr {
    Etcdbr::new(args).program(path)
}

/// Seconds.
pub(crate) fn seconds(outcome: &Outcome) -> f64 {
    outcome.wall.as_secs_f64()
}

/// "1.23 s" of the median run.
pub(crate) fn show_seconds(outcomes: &[Outcome]) -> String {
    format!("{:.2} s", crate::report::median(outcomes.iter().map(seconds)))
}

/// The median of what `a` and `b` give pair by pair: both runs of a pair saw the same machine.
pub(crate) fn paired(a: &[Outcome], b: &[Outcome], figure: impl Fn(&Outcome, &Outcome) -> f64) -> f64 {
    crate::report::median(a.iter().zip(b).map(|(a, b)| figure(a, b)))
}

/// Bytes of the files below `dir`, where they are those of deltas.
fn bytes_below(dir: &Path, deltas: bool) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a directory of ours").flatten();
    let bytes = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path(), entry.file_name() == "delta"),
        // One that is being written may be gone.
        _ if deltas => entry.metadata().map_or(0, |found| found.len()),
        _ => 0,
    });
    bytes.sum()
}
