//! What killed backups leave in a store, and `etcdbr gc --abort-uploads`, which takes it away and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use bytes::Bytes;
use etcdbr_engine::archive::{Archive, Keyring};
use etcdbr_engine::clock::Clock;
use etcdbr_engine::format::ArchivePrefix;
use etcdbr_engine::gc::{UploadsRequest, abort_uploads, plan_uploads};
use etcdbr_engine::monitor::Silent;
use etcdbr_engine::run::RunContext;
use etcdbr_engine::store::{ObjectStore, PartNumber, open};
use etcdbr_tests::etcdbr::Running;
use etcdbr_tests::fake_etcd::{FakeEtcd, Script, SnapshotFault};
use etcdbr_tests::load::Noise;
use etcdbr_tests::s3::{Mode, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site, assert_failed};
use tokio_util::sync::CancellationToken;

const LINEAGE: &str = "1763724000000-00000000cafe0001-0badf00d";
const PART_BYTES: usize = 5 << 20;

fn name(revision: u64) -> String {
    format!("{LINEAGE}/full/{revision:020}-1763724000001-00000000000000ff")
}

/// An etcd whose stream stands still once a part is through.
async fn stalling_etcd() -> FakeEtcd {
    let image = Bytes::from(Noise::new(1).bytes(4 * PART_BYTES));
    let snapshot_fault = SnapshotFault::StallAfter(3 * PART_BYTES);
    FakeEtcd::start(Script { image, snapshot_fault, ..Script::default() }).await
}

fn begin(site: &Site, etcd: &FakeEtcd) -> Running {
    site.command(&["snapshot", "--once", "--min-chunk-size=5MiB", "--endpoints", &etcd.endpoint]).spawn()
}

async fn until(running: &mut Running, condition: impl Fn() -> bool) {
    while !condition() {
        assert!(!running.ended(), "it ended before it could be killed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn files_under(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_backup_leaves_in_a_directory_is_removed() {
    let (site, etcd) = (Site::local(), stalling_etcd().await);
    let archive = site.path("archive");
    let written = |files: &[PathBuf]| files.iter().map(|file| std::fs::metadata(file).unwrap().len()).sum::<u64>();
    let mut running = begin(&site, &etcd);
    until(&mut running, || written(&files_under(&archive)) >= PART_BYTES as u64).await;
    running.kill9();
    assert_eq!(running.wait().code, None);
    assert_eq!(files_under(&archive).len(), 1);
    assert!(!site.unkeyed(&["list"]).succeed().stdout.contains("/full/"), "it is no backup");

    let gc = |args: &[&str]| site.unkeyed(&["gc", "--abort-uploads", "--output=json"]).args(args).succeed().json();
    assert_eq!(gc(&[])["kept"].as_array().unwrap().len(), 1, "it is younger than a day");
    let planned = gc(&["--older-than=1ms", "--dry-run"]);
    assert_eq!(planned["aborted"].as_array().unwrap().len(), 1);
    assert_eq!(files_under(&archive).len(), 1, "a dry run changes nothing");
    let done = gc(&["--older-than=1ms"]);
    assert_eq!((&done["aborted"], &done["kept"]), (&planned["aborted"], &planned["kept"]));
    assert_eq!(std::fs::read_dir(&archive).unwrap().count(), 0, "not even empty directories are left");
    assert_eq!(gc(&["--older-than=1ms"])["aborted"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_backup_leaves_in_a_bucket_is_removed() {
    let (server, etcd) = (S3Server::start(Mode::Plain, BUCKET).await, stalling_etcd().await);
    let site = Site::on(&server);
    // More than the store tells of on one page.
    for count in 1..=5 {
        let mut running = begin(&site, &etcd);
        until(&mut running, || server.pending().len() == count).await;
        running.kill9();
        assert_eq!(running.wait().code, None);
    }
    let told = site.unkeyed(&["gc", "--abort-uploads"]).succeed().stdout;
    assert!(told.contains("aborted 5 abandoned uploads") && told.contains("/full/"), "{told}");
    assert_eq!((server.pending(), server.keys()), (vec![], vec![]));
}

#[tokio::test]
async fn gc_refuses_to_keep_nothing_and_what_it_does_not_know() {
    let site = Site::local();
    assert_failed(&site.unkeyed(&["gc", "--keep-within=0"]).run(), 2, &["--keep-within 0"]);
    assert_failed(&site.unkeyed(&["gc", "--garbage-collection-policy=Linear"]).run(), 2, &["LimitBased"]);
    assert!(site.unkeyed(&["gc"]).succeed().stdout.contains("deleted 0 of 0 objects"));
}

fn at(unix_ms: i64) -> RunContext {
    let clock = Clock::manual(Arc::new(AtomicI64::new(unix_ms)));
    RunContext { clock, monitor: Arc::new(Silent), stop: CancellationToken::new() }
}

/// Uploads of ours, of neighbours and of strangers, each with a part; and a finished backup of the same name as one.
async fn crowd(store: &dyn ObjectStore) {
    let keys = [
        format!("etcd/etcdbr/v1/{}", name(1)),
        format!("etcd/etcdbr/v1/{}", name(2)),
        format!("etcd-2/etcdbr/v1/{}", name(3)),
        format!("etcd/etcdbr/v2/{}", name(4)),
        format!("etcd/etcdbr/v1/{}.tmp", name(5)),
        "etcd/another tool".to_owned(),
        "etcd/etcdbr/v1/another tool".to_owned(),
    ];
    for key in keys {
        let upload = store.start_upload(&key, PART_BYTES as u64).await.unwrap();
        upload.put_part(PartNumber(1), Bytes::from_static(b"x")).await.unwrap();
    }
    store.put(&format!("etcd/etcdbr/v1/{}", name(1)), Bytes::from_static(b"a backup")).await.unwrap();
}

#[tokio::test]
async fn only_old_uploads_of_our_own_names_under_our_own_prefix_go() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let store = open(&server.options(BUCKET)).await.unwrap();
    crowd(&*store).await;
    let begun = store.pending_uploads("etcd-2/").await.unwrap()[0].started.0;
    let archive = Archive::new(store, ArchivePrefix::new("etcd").unwrap(), Keyring::default());
    let day_ms = 24 * 3600 * 1000;
    let request = UploadsRequest { older_than: Duration::from_millis(day_ms as u64) };

    // Also by a clock that is behind the store's.
    for now in [begun - 5_000, begun, begun + day_ms - 1] {
        let plan = plan_uploads(&archive, request, &at(now)).await.unwrap();
        assert_eq!((plan.abort.len(), plan.keep.len(), plan.foreign), (0, 2, 2));
        abort_uploads(&archive, &plan, &at(now)).await.unwrap();
    }
    assert_eq!(server.pending().len(), 7);

    let plan = plan_uploads(&archive, request, &at(begun + day_ms)).await.unwrap();
    let names: Vec<_> = plan.abort.iter().map(|unfinished| unfinished.name.to_string()).collect();
    assert_eq!((names, plan.keep.len(), plan.foreign), (vec![name(1), name(2)], 0, 2));
    assert_eq!(server.pending().len(), 7, "a plan changes nothing");
    abort_uploads(&archive, &plan, &at(begun)).await.unwrap();
    let left = server.pending();
    assert_eq!(left.len(), 5, "{left:?}");
    assert!(!left.iter().any(|key| key.ends_with(&name(1)) || key.ends_with(&name(2))), "{left:?}");
    assert_eq!(server.keys(), [format!("etcd/etcdbr/v1/{}", name(1))], "objects stay");
    // What has ended since the plan was made is no error.
    abort_uploads(&archive, &plan, &at(begun)).await.unwrap();
}
