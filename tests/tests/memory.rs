//! Memory is bounded by configuration, not by the data: a database of 256 MB through both ways, measured from outside.
//!
//! `ETCDBR_MEASURE_BYTES` sets another size; `make measure` runs this at 2 GB and shows the figures.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::etcdbr::{Etcdbr, Outcome};
use etcdbr_tests::keyspace::{current_revision, hash_kv};
use etcdbr_tests::load::{Load, fill};

const MB: u64 = 1_000_000;
const DEFAULT_BYTES: u64 = 256 * MB;
const QUOTA_BYTES: u64 = 8_589_934_592;
const BACKUP_LIMIT_BYTES: u64 = 128 * MB;
const RESTORE_LIMIT_BYTES: u64 = 256 * MB;
/// "Every byte of the final db written about once": WAL, snap and the few pages that are written twice on top.
const WRITTEN_PERCENT: u64 = 115;
/// The WAL is preallocated, whatever the size of the database.
const WRITTEN_FLOOR_BYTES: u64 = 80 * MB;

fn measured_bytes() -> u64 {
    std::env::var("ETCDBR_MEASURE_BYTES").map_or(DEFAULT_BYTES, |bytes| bytes.parse().expect("a number of bytes"))
}

fn show(what: &str, outcome: &Outcome, limit: u64) {
    println!(
        "{what}: {:.1} s, peak RssAnon+RssShmem {:.1} MB (limit {} MB), written {:.1} MB",
        outcome.wall.as_secs_f64(),
        outcome.peak_rss_bytes as f64 / MB as f64,
        limit / MB,
        outcome.written_bytes as f64 / MB as f64
    );
}

/// The files that were open and lie neither in `allowed` nor on the machine's own read-only paths.
fn strays<'a>(files: &'a BTreeSet<PathBuf>, allowed: &[&Path]) -> Vec<&'a PathBuf> {
    let machine = ["/etc", "/usr", "/lib", "/sys"];
    let known = |file: &Path| {
        allowed.iter().any(|dir| file.starts_with(dir)) || machine.iter().any(|dir| file.starts_with(dir))
    };
    files.iter().filter(|file| !known(file) || file.to_string_lossy().ends_with(" (deleted)")).collect()
}

/// Where the data directory is built before it gets its name: seen open, and gone in the end.
fn stages(files: &BTreeSet<PathBuf>, data_dir: &Path) -> Vec<PathBuf> {
    let (parent, name) = (data_dir.parent().expect("a parent"), data_dir.file_name().expect("a name"));
    let prefix = format!(".{}.etcdbr-", name.to_string_lossy());
    let beside = files.iter().filter_map(|file| file.ancestors().find(|dir| dir.parent() == Some(parent)));
    let stages = beside.filter(|dir| dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    stages.map(Path::to_owned).collect()
}

/// A verification is within its bounds, and keeps nothing but its scratch file, which has no name, in `tmp`.
fn assert_verified(verified: &Outcome, hash: u32, known: &[&Path], tmp: &Path) {
    show("verify", verified, RESTORE_LIMIT_BYTES);
    assert_eq!(verified.json()["proof"]["hashkv"]["hash"], hash, "{}", verified.stdout);
    assert!(verified.peak_rss_bytes < RESTORE_LIMIT_BYTES, "verify took {} bytes", verified.peak_rss_bytes);
    let mut scratch = strays(&verified.files, known);
    scratch.retain(|file| !(file.starts_with(tmp) && file.to_string_lossy().ends_with(" (deleted)")));
    assert_eq!(scratch, Vec::<&PathBuf>::new(), "files open in the verification");
}

/// A restore opens what is `known`, the target's directory, and its own stages in there.
fn assert_opens_only_its_own(restore: &Outcome, known: &[&Path; 3], target: &Path) {
    let stages = stages(&restore.files, known[2]);
    let mut strays = strays(&restore.files, known);
    strays.retain(|file| **file != target && !stages.iter().any(|stage| file.starts_with(stage)));
    assert_eq!(strays, Vec::<&PathBuf>::new(), "files open in the restore");
}

#[tokio::test]
async fn a_large_database_goes_through_with_bounded_memory_and_no_temp_file() {
    let work = tempfile::Builder::new().prefix("etcdbr-memory").tempdir().expect("a temporary directory");
    let (archive, key, tmp) = (work.path().join("archive"), work.path().join("key"), work.path().join("tmp"));
    let target = work.path().join("target");
    let restored = target.join("restored");
    std::fs::create_dir_all(&archive).expect("made");
    std::fs::create_dir_all(&tmp).expect("made");
    std::fs::create_dir_all(&target).expect("made");

    let mut source = Etcd::builder(EtcdVersion::V3_5).quota(QUOTA_BYTES).start().await;
    let client = source.client().await;
    fill(&client, &Load::sized(measured_bytes())).await;
    let mut client = source.client().await;
    let revision = current_revision(&mut client).await;
    let hash = hash_kv(&mut client, revision).await;
    let db_bytes = source.data_dir().join("member/snap/db").metadata().expect("a db").len();
    println!("database: {:.1} MB at revision {revision}", db_bytes as f64 / MB as f64);

    Etcdbr::new(["keygen", "--key-file"]).arg(&key).succeed();
    let store = |run: Etcdbr| {
        run.args(["--storage-provider", "Local", "--store-container"])
            .arg(&archive)
            .arg("--encryption-key-file")
            .arg(&key)
    };
    let run = Etcdbr::new(["snapshot", "--once", "--endpoints", &source.endpoint()]).env("TMPDIR", &tmp);
    let backup = store(run).succeed();
    show("backup", &backup, BACKUP_LIMIT_BYTES);

    let verified = store(Etcdbr::new(["verify", "--output=json"]).env("TMPDIR", &tmp)).succeed();
    assert_verified(&verified, hash.hash, &[&archive, &key], &tmp);

    let seat = source.seat().clone();
    source.stop();
    let run = Etcdbr::new(["restore", "--name", &seat.name, "--data-dir"]).arg(&restored).env("TMPDIR", &tmp);
    let cluster = format!("{}={}", seat.name, seat.peer_url());
    let run = run.args(["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &seat.peer_url()]);
    let restore = store(run).succeed();
    show("restore", &restore, RESTORE_LIMIT_BYTES);
    let final_bytes = restored.join("member/snap/db").metadata().expect("a restored db").len();
    println!("restored database: {:.1} MB", final_bytes as f64 / MB as f64);

    let server = Etcd::builder(EtcdVersion::V3_5).quota(QUOTA_BYTES).seat(seat).data_dir(&restored).start().await;
    assert_eq!(hash, hash_kv(&mut server.client().await, revision).await, "HashKV of the restored etcd");

    assert!(backup.peak_rss_bytes < BACKUP_LIMIT_BYTES, "the backup took {} bytes", backup.peak_rss_bytes);
    assert!(restore.peak_rss_bytes < RESTORE_LIMIT_BYTES, "the restore took {} bytes", restore.peak_rss_bytes);
    let written_limit = final_bytes * WRITTEN_PERCENT / 100 + WRITTEN_FLOOR_BYTES;
    assert!(restore.written_bytes < written_limit, "the restore wrote {} of {final_bytes}", restore.written_bytes);
    assert_eq!(strays(&backup.files, &[&archive, &key]), Vec::<&PathBuf>::new(), "files open in the backup");
    assert_opens_only_its_own(&restore, &[&archive, &key, &restored], &target);
    let left: Vec<_> = std::fs::read_dir(&target).expect("readable").flatten().collect();
    assert_eq!(left.len(), 1, "beside the data directory stands {left:?}");
    assert_eq!(std::fs::read_dir(&tmp).expect("readable").count(), 0, "a temporary file was left");
}
