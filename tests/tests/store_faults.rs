//! The n-th call to the store fails, for every n: a backup is complete or absent, and nothing is left that `gc` does not
//! remove.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use etcdbr_engine::archive::{Archive, Keyring, ReadLimits, Selection, WriteLimits};
use etcdbr_engine::backup::{FullRequest, FullSummary, HashKvPolicy, take_full};
use etcdbr_engine::datadir::{Durability, MISSING_LEASE_TTL_S, MembershipRequest, Preallocate, StageOptions};
use etcdbr_engine::etcd::EtcdOptions;
use etcdbr_engine::gc::{UploadsRequest, abort_uploads, plan_uploads};
use etcdbr_engine::replay::Thoroughness;
use etcdbr_engine::restore::{PointRequest, Purpose, RestoreRequest, RestoreSummary, plan_restore, run_restore};
use etcdbr_engine::store::faulty::{FaultyStore, Strike};
use etcdbr_engine::store::{LocalStore, ObjectStore, open};
use etcdbr_engine::{ErrorKind, Result};
use etcdbr_tests::fake_etcd::{FakeEtcd, Script};
use etcdbr_tests::load::Noise;
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::BUCKET;
use etcdbr_tests::tiny;
use futures::TryStreamExt;

/// A store that keeps what it has, and the same one with planned faults before it.
struct Ground {
    sound: Arc<dyn ObjectStore>,
    faulty: Arc<FaultyStore>,
    _dir: tempfile::TempDir,
    _server: Option<S3Server>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Bucket,
}

impl Ground {
    async fn new(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = S3Server::start(Mode::Plain, BUCKET).await;
        let sound: Arc<dyn ObjectStore> = match kind {
            Kind::Directory => Arc::new(LocalStore::new(dir.path()).unwrap()),
            Kind::Bucket => open(&server.options(BUCKET)).await.unwrap(),
        };
        let faulty = Arc::new(FaultyStore::new(sound.clone()));
        Self { sound, faulty, _dir: dir, _server: Some(server) }
    }
}

/// How long the store fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// One call.
    Once,
    /// Every call from then on: the store has gone.
    FromThenOn,
}

fn plan(store: &FaultyStore, nth: u64, reach: Reach, strike: Strike, kind: ErrorKind) {
    match reach {
        Reach::Once => store.fail_nth(nth, None, strike, kind),
        Reach::FromThenOn => store.fail_from(nth, None, strike, kind),
    }
}

/// An etcd that streams the small image.
async fn source() -> FakeEtcd {
    FakeEtcd::start(Script { image: tiny::image().into(), ..Script::default() }).await
}

async fn back_up(archive: &Archive, source: &FakeEtcd, limits: WriteLimits) -> Result<FullSummary> {
    let etcd = EtcdOptions::new([source.endpoint.as_str()]);
    let (labels, tool_version) = (Default::default(), "test".to_owned());
    // When HashKV was last asked is looked up in the archive, and a fault there fails no backup.
    let request = FullRequest { etcd, limits, labels, tool_version, hash_kv: HashKvPolicy::Never };
    take_full(archive, &request, &tiny::context()).await
}

/// Whether there is a backup; where there is one, all of it is there.
async fn complete_backup(archive: &Archive, what: &str) -> bool {
    let catalogue = archive.catalogue().await.unwrap();
    assert_eq!(catalogue.foreign_keys, 0, "{what}");
    let entries = catalogue.newest_first();
    assert!(entries.len() <= 1, "{what}: {entries:?}");
    for entry in &entries {
        let reader = archive.open(&entry.name).await.expect(what);
        let chunks: Vec<_> = reader.chunks(ReadLimits::default()).try_collect().await.expect(what);
        let image: Vec<u8> = chunks.iter().flat_map(|(chunk, _)| chunk.iter().copied()).collect();
        assert!(image == tiny::image(), "{what}: the backup holds another image");
    }
    !entries.is_empty()
}

async fn collect_garbage(archive: &Archive) {
    let request = UploadsRequest { older_than: Duration::ZERO };
    let plan = plan_uploads(archive, request, &tiny::context()).await.unwrap();
    abort_uploads(archive, &plan, &tiny::context()).await.unwrap();
}

/// One PUT, or many parts.
fn sizes() -> [WriteLimits; 2] {
    [WriteLimits { part_bytes: 1 << 20, ..tiny::LIMITS }, tiny::LIMITS]
}

async fn a_backup_with_faults(kind: Kind) {
    let source = source().await;
    for limits in sizes() {
        for (keyring, reach, strike) in [
            (tiny::keyring(), Reach::Once, Strike::Before),
            (tiny::keyring(), Reach::Once, Strike::After),
            (tiny::keyring(), Reach::FromThenOn, Strike::Before),
            (Keyring::default(), Reach::FromThenOn, Strike::After),
        ] {
            for nth in 1.. {
                let ground = Ground::new(kind).await;
                let sound = tiny::archive(ground.sound.clone(), keyring.clone());
                let faulty = tiny::archive(ground.faulty.clone(), keyring.clone());
                let error_kind = if nth % 2 == 0 { ErrorKind::Unavailable } else { ErrorKind::Denied };
                plan(&ground.faulty, nth, reach, strike, error_kind);
                let what = format!("{kind:?}, parts of {}, call {nth} {reach:?} {strike:?}", limits.part_bytes);
                let written = back_up(&faulty, &source, limits).await;
                if ground.faulty.total() < nth {
                    written.expect(&what);
                    assert!(complete_backup(&sound, &what).await);
                    assert!(nth > if limits.part_bytes < 10_000 { 5 } else { 1 }, "{what}: too few calls");
                    break;
                }
                assert_eq!(written.expect_err(&what).kind(), error_kind, "{what}");
                let complete = complete_backup(&sound, &what).await;
                assert!(!complete || strike == Strike::After, "{what}: what never arrived is there");
                let left = ground.sound.pending_uploads("").await.unwrap();
                assert!(left.is_empty() || reach == Reach::FromThenOn, "{what}: {left:?}");
                collect_garbage(&sound).await;
                assert_eq!(ground.sound.pending_uploads("").await.unwrap(), [], "{what}");
                assert_eq!(complete_backup(&sound, &what).await, complete, "{what}: gc took a backup");
            }
        }
    }
    source.streams_are_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_of_a_backup_into_a_directory_leaves_it_complete_or_absent() {
    a_backup_with_faults(Kind::Directory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_of_a_backup_into_a_bucket_leaves_it_complete_or_absent() {
    a_backup_with_faults(Kind::Bucket).await;
}

async fn restore(archive: &Archive, data_dir: &Path) -> Result<RestoreSummary> {
    let request = RestoreRequest {
        membership: MembershipRequest::default(),
        data_dir: data_dir.to_owned(),
        limits: ReadLimits { read_bytes: 20_000, parallel_reads: 2, threads: 2 },
        thoroughness: Thoroughness::Full,
        bump: None,
        staging: StageOptions { durability: Durability::None, wal: Preallocate::No },
        missing_lease_ttl_s: MISSING_LEASE_TTL_S,
        purpose: Purpose::Restore,
    };
    let (point, context) = (PointRequest::newest(Selection::Latest), tiny::context());
    run_restore(plan_restore(archive, &point, request, &context).await?, &context).await
}

/// Everything under `dir`, and the mode of each.
fn picture(dir: &Path) -> BTreeMap<PathBuf, u32> {
    let mode = std::fs::metadata(dir).unwrap().permissions().mode();
    let mut all = BTreeMap::from([(dir.to_owned(), mode)]);
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        all.extend(picture(&entry.unwrap().path()));
    }
    all
}

/// The first component of `path` below `dir`.
fn outermost(path: &Path, dir: &Path) -> PathBuf {
    path.strip_prefix(dir).unwrap().iter().next().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_of_a_restore_leaves_the_target_as_it_was() {
    for (kind, reach) in [(Kind::Directory, Reach::Once), (Kind::Bucket, Reach::FromThenOn)] {
        let ground = Ground::new(kind).await;
        // Large enough that the first read does not have it all.
        let image = tiny::image_with(&Noise::new(1).bytes(12_000));
        let sound = tiny::archive(ground.sound.clone(), tiny::keyring());
        tiny::write_full(&sound, tiny::LIMITS, tiny::REVISION, (&image, &image)).await.unwrap();
        for nth in 1.. {
            let target = tempfile::tempdir().unwrap();
            std::fs::create_dir(target.path().join("existing")).unwrap();
            std::fs::set_permissions(target.path().join("existing"), Permissions::from_mode(0o750)).unwrap();
            let before = picture(target.path());
            let mut struck = false;
            for data_dir in ["existing", "absent", "parents/are/absent"].map(|name| target.path().join(name)) {
                let faulty = Arc::new(FaultyStore::new(ground.sound.clone()));
                plan(&faulty, nth, reach, Strike::Before, ErrorKind::Unavailable);
                let outcome = restore(&tiny::archive(faulty.clone(), tiny::keyring()), &data_dir).await;
                let what = format!("{kind:?}, call {nth} {reach:?}, {}", data_dir.display());
                struck = faulty.total() >= nth;
                if struck {
                    assert_eq!(outcome.expect_err(&what).kind(), ErrorKind::Unavailable, "{what}");
                    assert_eq!(picture(target.path()), before, "{what}");
                    restore(&sound, &data_dir).await.expect(&what);
                    std::fs::remove_dir_all(data_dir.join("member")).unwrap();
                    if !data_dir.ends_with("existing") {
                        std::fs::remove_dir_all(target.path().join(outermost(&data_dir, target.path()))).unwrap();
                    }
                } else {
                    outcome.expect(&what);
                }
            }
            if !struck {
                // A LIST and, of so small an object, a single GET.
                assert!(nth > 2, "too few calls: {nth}");
                break;
            }
        }
    }
}

const OPERATIONS: [Operation; 10] = [
    Operation::Put,
    Operation::Get,
    Operation::Head,
    Operation::Delete,
    Operation::List,
    Operation::Create,
    Operation::Part,
    Operation::Complete,
    Operation::Abort,
    Operation::ListUploads,
];

/// Below the retries: whatever passes by itself costs nothing, and what does not leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_request_of_a_backup_is_retried_or_taken_back() {
    let source = source().await;
    let passing =
        [Act::Answer(503, "SlowDown"), Act::Answer(500, "InternalError"), Act::LoseAnswer, Act::CutRequest(9)];
    let lasting = Act::Answer(403, "AccessDenied");
    for limits in sizes() {
        let clean = S3Server::start(Mode::Plain, BUCKET).await;
        back_up(&tiny::archive(open(&clean.options(BUCKET)).await.unwrap(), tiny::keyring()), &source, limits)
            .await
            .unwrap();
        let requests =
            OPERATIONS.into_iter().flat_map(|operation| (1..=clean.count(operation)).map(move |nth| (operation, nth)));
        for (operation, nth) in requests {
            for act in passing.into_iter().chain([lasting]) {
                let server = S3Server::start(Mode::Plain, BUCKET).await;
                let archive = tiny::archive(open(&server.options(BUCKET)).await.unwrap(), tiny::keyring());
                server.fail_nth(operation, nth, act);
                let what = format!("parts of {}, {operation:?} {nth} {act:?}", limits.part_bytes);
                let written = back_up(&archive, &source, limits).await;
                assert!(server.count(operation) >= nth, "{what}: nothing was struck");
                assert_eq!(server.pending(), Vec::<String>::new(), "{what}");
                let complete = complete_backup(&archive, &what).await;
                if act == lasting {
                    assert_eq!((written.expect_err(&what).kind(), complete), (ErrorKind::Denied, false), "{what}");
                } else {
                    written.expect(&what);
                    assert!(complete, "{what}");
                }
            }
        }
    }
}
