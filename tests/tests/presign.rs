//! Lending a backup: the URL leads to a plain snapshot, nothing leaves in the clear unasked, and nothing is left behind.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcdbr_engine::archive::{Archive, CopyLimits, ReadLimits, Selection};
use etcdbr_engine::clock::{Clock, UnixMillis};
use etcdbr_engine::format::{ArchivePrefix, PlainCopyName};
use etcdbr_engine::presign::{
    Plaintext, PresignRequest, PresignSummary, SweepRequest, plan_presign, plan_sweep, run_presign, run_sweep,
};
use etcdbr_engine::store::faulty::{Call, FaultyStore, Strike};
use etcdbr_engine::store::{PartNumber, SessionEnd, open};
use etcdbr_engine::{ErrorKind, Result};
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat, initial_cluster};
use etcdbr_tests::etcdbr::Etcdbr;
use etcdbr_tests::load::Noise;
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Picture, Site, assert_failed, write_history};
use etcdbr_tests::tiny;
use sha2::{Digest, Sha256};

const COPIES: &str = "prod/etcdbr-presign/";

async fn site_with_backup() -> (S3Server, Site, Etcd) {
    let server = S3Server::start(Mode::Ecs, BUCKET).await;
    let site = Site::on(&server);
    let source = Etcd::start(EtcdVersion::V3_5).await;
    write_history(&mut source.client().await, 300).await;
    site.backup(&source);
    (server, site, source)
}

fn copies(server: &S3Server) -> Vec<String> {
    server.keys().into_iter().filter(|key| key.starts_with(COPIES)).collect()
}

/// A snapshot as etcd's own tools take it: an image and its SHA-256.
fn assert_is_snapshot(bytes: &[u8]) {
    assert_eq!(bytes.len() % 512, 32);
    let (image, digest) = bytes.split_at(bytes.len() - 32);
    assert_eq!(Sha256::digest(image).as_slice(), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_backup_restores_without_credentials() {
    let (server, site, source) = site_with_backup().await;
    let picture = Picture::of(&mut source.client().await).await;
    let lent = site.command(&["presign", "--allow-plaintext"]).succeed();
    let url = lent.stdout.trim().to_owned();
    assert!(url.starts_with(server.endpoint()) && lent.stdout.lines().count() == 1, "{}", lent.stdout);
    for words in ["can be fetched until", "in the clear", "etcdbr presign --delete --storage-provider S3"] {
        assert!(lent.stderr.contains(words), "{}", lent.stderr);
    }
    let keys = copies(&server);
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(url.contains(&keys[0]) && keys[0].len() == COPIES.len() + "1763724000000-0badf00d.db".len());
    assert_is_snapshot(&server.object(&keys[0]).unwrap());

    let seat = Seat::new("m0");
    let cluster = initial_cluster(std::slice::from_ref(&seat));
    let restore = Etcdbr::new(["restore", "--name", &seat.name, "--initial-cluster", &cluster, "--data-dir"]);
    let outcome = restore.arg(site.path("restored")).env("ETCDBR_SNAPSHOT", &url).succeed();
    let signature = url.split("X-Amz-Signature=").nth(1).unwrap().split('&').next().unwrap();
    assert!(signature.len() == 64 && !(outcome.stdout + &outcome.stderr).contains(signature));
    let etcd = Etcd::builder(EtcdVersion::V3_5).seat(seat).data_dir(&site.path("restored")).start().await;
    picture.assert_seen_by(&mut etcd.client().await).await;

    // A copy is no backup.
    let listed = site.command(&["list", "--output=json"]).succeed().json();
    assert_eq!((listed["lineages"].as_array().unwrap().len(), &listed["foreign_objects"]), (1, &0.into()), "{listed}");
    // The next call tells of it, and --delete takes both away, and nothing else.
    let again = site.command(&["presign", "--allow-plaintext", "--expires=168h", "--output=json"]).succeed().json();
    assert_eq!((&again["earlier"]["copies"], &again["temporary_credentials"]), (&1.into(), &false.into()), "{again}");
    assert_eq!(again["expires"], again["signature_expires"]);
    let deleted = site.command(&["presign", "--delete", "--output=json"]).succeed().json();
    assert_eq!(deleted["deleted"].as_array().unwrap().len(), 2, "{deleted}");
    assert!(copies(&server).is_empty() && server.keys().len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_or_must_not_be_lent_is_refused_before_anything_is_sent() {
    let (server, site, source) = site_with_backup().await;
    let objects = server.keys();
    let presign = |more: &[&str]| site.command(&["presign"]).args(more);
    assert_failed(&presign(&[]).run(), 4, &["is encrypted", "--allow-plaintext"]);
    let long = presign(&["--allow-plaintext", "--max-url-length=200"]).run();
    assert_failed(&long, 2, &["characters, more than 200", "--store-prefix", "--max-url-length"]);
    let token = "t".repeat(900);
    let session = || presign(&["--allow-plaintext", "--output=json"]).env("AWS_SESSION_TOKEN", &token);
    assert_failed(&session().run(), 2, &["more than 1024", "temporary credentials", "lasting ones"]);
    for (expires, words) in [("169h", "seven days"), ("100ms", "one second"), ("soon", "no duration")] {
        assert_failed(&presign(&["--allow-plaintext", "--expires", expires]).run(), 2, &[words]);
    }
    let lineage = "1763724000000-00000000cafe0001-0badf00d";
    assert_failed(&presign(&["--allow-plaintext", "--lineage", lineage]).run(), 3, &["does not hold lineage"]);
    assert_failed(&presign(&["--delete", "--lineage", lineage]).run(), 2, &["--delete is given together"]);
    assert_eq!(server.keys(), objects);

    let local = Site::local();
    local.backup(&source);
    let outcome = local.command(&["presign", "--allow-plaintext"]).run();
    assert_failed(&outcome, 2, &["no URL leads into", "etcdbr export"]);

    // Where the reader takes more, temporary credentials do; that they may end sooner is said.
    let lent = session().arg("--max-url-length=4000").succeed();
    assert!(lent.stderr.contains("may end sooner"), "{}", lent.stderr);
    let told = lent.json();
    assert_eq!((&told["temporary_credentials"], &told["session_expires"]), (&true.into(), &serde_json::Value::Null));
    // What is not encrypted needs no permission.
    let open = S3Server::start(Mode::Plain, BUCKET).await;
    let unencrypted = Site::on(&open);
    unencrypted.unkeyed(&["snapshot", "--once", "--endpoints", &source.endpoint()]).succeed();
    unencrypted.unkeyed(&["presign"]).succeed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_upload_fails_is_taken_back() {
    let (server, site, _source) = site_with_backup().await;
    let objects = server.keys();
    server.fail_nth(Operation::Put, 1, Act::Answer(403, "AccessDenied"));
    assert_failed(&site.command(&["presign", "--allow-plaintext"]).run(), 8, &[COPIES]);
    assert_eq!(server.keys(), objects);
    // Every answer is lost, so that the object is there and nobody knows.
    server.fail_all(Operation::Put, Act::LoseAnswer);
    assert_failed(&site.command(&["presign", "--allow-plaintext"]).run(), 7, &[COPIES]);
    assert_eq!(server.keys(), objects);
    assert!(server.count(Operation::Delete) >= 2);
    // And where it cannot be removed, that is said.
    server.fail_all(Operation::Delete, Act::Answer(403, "AccessDenied"));
    let outcome = site.command(&["presign", "--allow-plaintext"]).run();
    assert_failed(&outcome, 7, &["may be left behind, in the clear", "etcdbr presign --delete"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_during_the_upload_leaves_no_copy() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    for i in 0..24 {
        client.put(format!("noise/{i}"), Noise::new(i).bytes(1 << 20), None).await.unwrap();
    }
    site.backup(&source);
    let (objects, parts) = (server.keys(), server.count(Operation::Part));
    server.fail_nth(Operation::Part, 2, Act::Silence);
    let mut running = site.command(&["presign", "--allow-plaintext"]).spawn();
    while server.count(Operation::Part) < parts + 2 {
        assert!(!running.ended(), "the upload was over before it could be stopped");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    running.interrupt();
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    assert_eq!((server.keys(), server.pending()), (objects, Vec::new()));
}

fn request(part_bytes: usize) -> PresignRequest {
    PresignRequest {
        selection: Selection::Latest,
        lifetime: Duration::from_secs(3600),
        max_url_chars: 1024,
        plaintext: Plaintext::Allowed,
        limits: ReadLimits::default(),
        upload: CopyLimits { part_bytes, parallel_parts: 2 },
    }
}

async fn lend(archive: &Archive, part_bytes: usize) -> Result<PresignSummary> {
    let context = tiny::context();
    run_presign(archive, plan_presign(archive, request(part_bytes), &context).await?, &context).await
}

/// A small backup in a bucket, and the same bucket with planned faults before it.
async fn tiny_bucket() -> (S3Server, Archive, Arc<FaultyStore>) {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let store = open(&server.options(BUCKET)).await.unwrap();
    let archive = tiny::archive(store.clone(), tiny::keyring());
    let image = tiny::image();
    tiny::write_full(&archive, tiny::LIMITS, tiny::REVISION, (&image, &image)).await.unwrap();
    (server, archive, Arc::new(FaultyStore::new(store)))
}

/// For every n the n-th call fails: there is a URL and its copy, or neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_call_leaves_a_url_or_nothing() {
    for part_bytes in [1 << 20, 6000] {
        for strike in [Strike::Before, Strike::After] {
            for nth in 1.. {
                let (server, _, faulty) = tiny_bucket().await;
                faulty.fail_nth(nth, None, strike, ErrorKind::Unavailable);
                let what = format!("parts of {part_bytes}, call {nth} {strike:?}");
                let lent = lend(&tiny::archive(faulty.clone(), tiny::keyring()), part_bytes).await;
                if faulty.total() < nth {
                    let lent = lent.expect(&what);
                    let object = server.object(&lent.key).expect(&what);
                    assert!(object[..object.len() - 32] == tiny::image(), "{what}");
                    assert_is_snapshot(&object);
                    assert!(nth > 6, "{what}: too few calls");
                    break;
                }
                match lent {
                    // What is only told of earlier copies may fail.
                    Ok(lent) => assert_eq!((copies(&server), lent.earlier), (vec![lent.key], None), "{what}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}");
                        assert_eq!(copies(&server), Vec::<String>::new(), "{what}: {error}");
                    }
                }
                assert_eq!(server.pending(), Vec::<String>::new(), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_copy_is_removed_where_its_url_cannot_be_signed() {
    let (server, _, faulty) = tiny_bucket().await;
    let archive = tiny::archive(faulty.clone(), tiny::keyring());
    // The first signature only tries.
    faulty.fail_nth(2, Some(Call::Presign), Strike::Before, ErrorKind::Denied);
    assert_eq!(lend(&archive, 6000).await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(faulty.count(Call::Complete) == 1 && copies(&server).is_empty());
}

#[tokio::test]
async fn a_damaged_backup_is_not_lent() {
    let (server, archive, _) = tiny_bucket().await;
    let image = tiny::image();
    let mut other = image.clone();
    other[5000] ^= 1;
    tiny::write_full(&archive, tiny::LIMITS, tiny::REVISION, (&other, &image)).await.unwrap();
    for entry in archive.catalogue().await.unwrap().newest_first() {
        let selection = Selection::Backup(entry.name);
        let context = tiny::context();
        let plan = plan_presign(&archive, PresignRequest { selection, ..request(6000) }, &context).await.unwrap();
        let lent = run_presign(&archive, plan, &context).await;
        assert_eq!(lent.is_ok(), !copies(&server).is_empty());
        if let Err(error) = lent {
            assert_eq!(error.kind(), ErrorKind::Damaged);
            return;
        }
        archive
            .delete_copies(&archive.copies().await.unwrap().copies.iter().map(|copy| copy.name).collect::<Vec<_>>())
            .await
            .unwrap();
    }
    panic!("the damaged backup was lent");
}

#[tokio::test]
async fn only_copies_of_ours_are_deleted() {
    let (server, archive, _) = tiny_bucket().await;
    let store = open(&server.options(BUCKET)).await.unwrap();
    let now = Clock::system().now();
    let key = |age_ms: i64| {
        let name = PlainCopyName { created: UnixMillis(now.0 - age_ms), random: 7 };
        ArchivePrefix::new(tiny::PREFIX).unwrap().copy_key(&name)
    };
    let (hour_ms, day_ms) = (3_600_000, 86_400_000);
    let (old, young) = (key(8 * day_ms), key(hour_ms));
    let (abandoned, under_way) = (key(7 * hour_ms), key(2 * hour_ms));
    let foreign = [
        "prod/etcdbr-presign/notes.txt".to_owned(),
        format!("{old}.bak"),
        format!("{COPIES}deeper/{}", old.strip_prefix(COPIES).unwrap()),
        format!("staging/{}", old.strip_prefix("prod/").unwrap()),
        old.strip_prefix("prod/").unwrap().to_owned(),
        "prod/etcdbr-presign".to_owned(),
    ];
    for key in foreign.iter().chain([&old, &young]) {
        store.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    for key in [&abandoned, &under_way, &foreign[1]] {
        let upload = store.start_upload(key, 5 << 20).await.unwrap();
        upload.put_part(PartNumber(1), Bytes::from_static(b"x")).await.unwrap();
    }
    let before = server.keys();
    let sweep = async |older_than: Duration| {
        let plan = plan_sweep(&archive, SweepRequest { older_than }, &tiny::context()).await.unwrap();
        run_sweep(&archive, &plan, &tiny::context()).await.unwrap();
        plan
    };
    let plan = sweep(Duration::from_secs(7 * 86_400)).await;
    assert_eq!((plan.delete.len(), plan.abort.len(), plan.kept, plan.foreign), (1, 0, 3, 4), "{plan:?}");
    assert_eq!(gone(&before, &server.keys()), [old]);
    let plan = sweep(Duration::ZERO).await;
    assert_eq!((plan.delete.len(), plan.abort.len(), plan.kept), (1, 1, 1), "{plan:?}");
    assert_eq!(gone(&before, &server.keys()).len(), 2);
    assert!(foreign.iter().all(|key| server.object(key).is_some()));
    assert!(!server.pending().contains(&abandoned) && server.pending().contains(&under_way));
    assert_eq!(archive.catalogue().await.unwrap().newest_first().len(), 1);
}

fn gone(before: &[String], after: &[String]) -> Vec<String> {
    before.iter().filter(|key| !after.contains(key)).cloned().collect()
}

#[tokio::test]
async fn a_signature_tells_when_it_ends() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let store = open(&server.options(BUCKET)).await.unwrap();
    let presigner = store.presigner().unwrap();
    let now = UnixMillis(1_767_323_045_999);
    let url = presigner.presign_read("a b/k+ü.db", now, Duration::from_secs(60)).await.unwrap();
    let text = url.url.expose();
    assert!(text.starts_with(&format!("{}/{BUCKET}/a%20b/k%2B%C3%BC.db?", server.endpoint())), "{text}");
    for part in ["X-Amz-Date=20260102T030405Z", "X-Amz-Expires=60", "X-Amz-SignedHeaders=host"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!((url.signature_end.to_string(), url.session), ("2026-01-02T03:05:05.000Z".into(), SessionEnd::Lasting));
    assert!(!format!("{url:?}").contains("X-Amz-Signature"));
}
