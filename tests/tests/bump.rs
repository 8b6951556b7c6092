//! `--bump-revision` with `--mark-compacted`: watchers that have seen more than the backup holds begin anew.

use etcd_client::{Client, GetOptions, WatchOptions};
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::keyspace::{Keyspace, current_revision, hash_kv};
use etcdbr_tests::scenario::{Picture, Site, assert_failed, assert_lives, write_history};
use serde_json::json;

const BUMP: i64 = 1_000_000;

/// The restore of the latest backup with a bump, for `seat`, into a new directory; the running member and the result.
async fn bumped(site: &Site, version: EtcdVersion, name: &str, bump: i64) -> (Etcd, serde_json::Value) {
    let seat = Seat::new("m0");
    let dir = site.path(name);
    let run = site.restore(std::slice::from_ref(&seat), 0, &dir).arg("--mark-compacted").arg("--output=json");
    let restored = run.arg(format!("--bump-revision={bump}")).succeed().json();
    (Etcd::builder(version).seat(seat).data_dir(&dir).start().await, restored)
}

/// The revision at which a watch from `start` is told that it is compacted.
async fn cancelled_at(client: &mut Client, start: i64) -> i64 {
    let options = WatchOptions::new().with_start_revision(start).with_prefix();
    let mut stream = client.watch("/", Some(options)).await.expect("a watch");
    loop {
        let message = stream.message().await.expect("an answer").expect("a watch goes on");
        if message.canceled() {
            return message.compact_revision();
        }
        assert!(message.created(), "no event comes: {message:?}");
    }
}

async fn read_at(client: &mut Client, revision: i64) -> Result<(), String> {
    let answer = client.get("/history/last", Some(GetOptions::new().with_revision(revision))).await;
    answer.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn revisions_go_on_above_the_bump_and_all_before_is_compacted() {
    for version in EtcdVersion::MINORS {
        let site = Site::local();
        let source = Etcd::start(version).await;
        write_history(&mut source.client().await, 100).await;
        let before = Picture::of(&mut source.client().await).await;
        let backup = site.backup(&source);
        let revision = before.keyspace.revision;
        drop(source);

        let (mut target, restored) = bumped(&site, version, "restored", BUMP).await;
        let top = revision + BUMP;
        assert_eq!((&restored["revision"], &restored["backup_revision"]), (&json!(top), &json!(revision)));
        assert_eq!(restored["compact_revision"], json!(top));
        assert_eq!(restored["proof"]["hashkv"], backup["hashkv"], "the proof comes before the bump");
        let mut client = target.client().await;
        assert_eq!(current_revision(&mut client).await, top, "{version:?}");
        let seen = Keyspace::read(&mut client).await;
        assert_eq!((&seen.entries, &seen.leases), (&before.keyspace.entries, &before.keyspace.leases), "{version:?}");
        for old in [revision, top - 1] {
            assert!(read_at(&mut client, old).await.unwrap_err().contains("compacted"), "{version:?}");
            assert_eq!(cancelled_at(&mut client, old).await, top, "{version:?}");
        }
        assert!(read_at(&mut client, top).await.is_ok(), "{version:?}");

        // Backed up itself, it has a record without a value among its own.
        client.put("/history/after", "the bump", None).await.unwrap();
        let own = Picture::of(&mut client).await;
        assert_eq!(own.keyspace.revision, top + 1, "{version:?}");
        let again = site.backup(&target);
        assert_eq!(again["hashkv"]["hash"], json!(own.hash.hash), "{version:?}: {again}");
        target.stop();
        let seat = Seat::new("m1");
        let dir = site.path("again");
        let name = again["backup"].as_str().unwrap();
        let run = site.restore(std::slice::from_ref(&seat), 0, &dir).args(["--output=json", "--backup", name]);
        let restored = run.succeed().json();
        assert_eq!(restored["proof"]["hashkv"], again["hashkv"], "{version:?}");
        let mut served = Etcd::builder(version).seat(seat).data_dir(&dir).start().await;
        own.assert_seen_by(&mut served.client().await).await;
        assert_lives(&mut served, &own).await;
        site.command(&["verify", "--backup", name]).succeed();
    }
}

/// The marker of a first bump lies among the records that a second one compacts.
#[tokio::test]
async fn a_bump_after_a_bump() {
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_7] {
        let site = Site::local();
        let source = Etcd::start(version).await;
        write_history(&mut source.client().await, 50).await;
        site.backup(&source);
        let revision = current_revision(&mut source.client().await).await;
        drop(source);
        let (first, _) = bumped(&site, version, "first", 1).await;
        let mut client = first.client().await;
        client.put("/history/between", "x", None).await.unwrap();
        assert_eq!(current_revision(&mut client).await, revision + 2);
        let picture = Picture::of(&mut client).await;
        let backup = site.backup(&first)["backup"].as_str().unwrap().to_owned();
        drop(first);
        let seat = Seat::new("m0");
        let dir = site.path("second");
        let run = site.restore(std::slice::from_ref(&seat), 0, &dir).args(["--backup", &backup, "--mark-compacted"]);
        let told = run.arg("--bump-revision=1000").succeed().stdout;
        let top = revision + 2 + 1000;
        assert!(told.contains(&format!("the backup is at revision {}; etcd goes on at {top}", revision + 2)), "{told}");
        let mut target = Etcd::builder(version).seat(seat).data_dir(&dir).start().await;
        let mut client = target.client().await;
        let seen = Keyspace::read(&mut client).await;
        assert_eq!((seen.revision, &seen.entries), (top, &picture.keyspace.entries), "{version:?}");
        client.put("/history/after", "x", None).await.unwrap();
        let hash = hash_kv(&mut client, top + 1).await;
        target.restart().await;
        assert_eq!(hash_kv(&mut target.client().await, top + 1).await, hash, "{version:?}");
    }
}

#[tokio::test]
async fn an_etcd_that_was_never_written_to_can_be_bumped() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    site.backup(&source);
    drop(source);
    let (target, restored) = bumped(&site, EtcdVersion::V3_6, "restored", BUMP).await;
    assert_eq!(restored["revision"], json!(1 + BUMP));
    let answer = target.client().await.put("first", "x", None).await.unwrap();
    assert_eq!(answer.header().unwrap().revision(), 2 + BUMP);
}

#[tokio::test]
async fn one_flag_without_the_other_and_a_bump_beyond_all_revisions() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    site.backup(&source);
    let dir = site.path("restored");
    let run = |args: &[&str]| site.restore(&[Seat::new("m0")], 0, &dir).args(args).run();
    for alone in [&["--bump-revision=5"][..], &["--mark-compacted"]] {
        assert_failed(&run(alone), 2, &["--bump-revision and --mark-compacted"]);
    }
    assert_failed(&run(&["--bump-revision=0", "--mark-compacted"]), 2, &["--bump-revision"]);
    let beyond = ["--bump-revision=9223372036854775807", "--mark-compacted"];
    assert_failed(&run(&beyond), 2, &["--bump-revision 9223372036854775807"]);
    assert!(!dir.exists());
    // Every member gets the same.
    let seats = Seat::several(3);
    let args = ["--dry-run", "--bump-revision=7", "--mark-compacted", "--skip-proof"];
    let plan = site.restore(&seats, 0, &dir).args(args).succeed().stdout;
    assert_eq!(plan.matches("--bump-revision 7 --mark-compacted --skip-proof").count(), 3, "{plan}");
}
