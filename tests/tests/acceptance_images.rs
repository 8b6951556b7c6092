//! Images that are not what a quiet etcd gives: in the middle of a compaction, compacted at their very last record, or
//! of an etcd that was itself restored with its revision bumped. And HashKV of all that was compacted meanwhile.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions, DeleteOptions};
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::keyspace::{HashKv, Keyspace, current_revision, hash_kv};
use etcdbr_tests::load::edge_history;
use etcdbr_tests::scenario::{Picture, Site, put_every_key, write_history};

const COMPACTION_LIMIT: Duration = Duration::from_secs(90);

async fn compact(client: &mut Client, revision: i64) {
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
}

/// An etcd whose compactions stop after the first few records, or take seconds where etcd cannot be told so.
async fn start_slow_compactor(version: EtcdVersion) -> Etcd {
    let mut builder = Etcd::builder(version);
    let batch = version.experimental("compaction-batch-limit");
    if version == EtcdVersion::V3_4 {
        builder = builder.arg(&format!("{batch}=1"));
    } else {
        builder = builder.arg(&format!("{batch}=20"));
        builder = builder.arg(&format!("{}=1h", version.experimental("compaction-sleep-interval")));
    }
    builder.start().await
}

/// Waits until the etcd of `client` has finished the compaction at `revision`; its database then.
async fn compacted_database(client: &mut Client, revision: i64) -> Database {
    let deadline = Instant::now() + COMPACTION_LIMIT;
    loop {
        let database = Database::snapshot(client).await;
        if database.finished_compaction() == Some(revision) {
            return database;
        }
        assert!(
            Instant::now() < deadline,
            "the compaction at {revision} is not finished: {:?}",
            database.bucket("meta")
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn in_mid_compaction(source_version: EtcdVersion, targets: &[EtcdVersion]) {
    let site = Site::local();
    let source = start_slow_compactor(source_version).await;
    let mut client = source.client().await;
    for i in 0..1_500 {
        client.put(format!("/key/{:03}", i % 300), format!("value {i}"), None).await.unwrap();
        if i % 9 == 0 {
            client.delete(format!("/key/{:03}", i * 7 % 300), None).await.unwrap();
        }
    }
    let records = Database::snapshot(&mut client).await.records().len();
    let floor = current_revision(&mut client).await - 50;
    client.compact(floor, None).await.unwrap();
    // Until the first records are gone: etcd compacts behind its answer.
    let deadline = Instant::now() + COMPACTION_LIMIT;
    while Database::snapshot(&mut client).await.records().len() == records {
        assert!(Instant::now() < deadline, "the compaction does not begin");
    }
    let picture = Picture::of(&mut client).await;
    assert_eq!(picture.hash.compact_revision, floor);
    site.backup(&source);
    for &version in targets {
        let restored = site.restore_alone(version, &format!("{version:?}"));
        let database = &restored.database;
        assert_eq!((database.scheduled_compaction(), database.finished_compaction()), (Some(floor), None));
        restored.assert_is(&picture);
        let etcd = restored.etcd.start().await;
        let mut client = etcd.client().await;
        picture.assert_seen_by(&mut client).await;
        let compacted = compacted_database(&mut client, floor).await;
        assert!(compacted.records().len() < restored.database.records().len(), "the rest is compacted");
        picture.assert_seen_by(&mut client).await;
        assert_eq!(compacted.hash_kv(picture.keyspace.revision, floor), picture.hash);
    }
}

#[tokio::test]
async fn etcd_3_4_in_mid_compaction() {
    in_mid_compaction(EtcdVersion::V3_4, &[EtcdVersion::V3_4, EtcdVersion::V3_7]).await;
}

#[tokio::test]
async fn etcd_3_5_in_mid_compaction() {
    in_mid_compaction(EtcdVersion::V3_5, &[EtcdVersion::V3_5, EtcdVersion::V3_6]).await;
}

#[tokio::test]
async fn etcd_3_6_in_mid_compaction() {
    in_mid_compaction(EtcdVersion::V3_6, &[EtcdVersion::V3_6, EtcdVersion::V3_4]).await;
}

#[tokio::test]
async fn etcd_3_7_in_mid_compaction() {
    in_mid_compaction(EtcdVersion::V3_7, &[EtcdVersion::V3_7, EtcdVersion::V3_5]).await;
}

/// Old etcds drop the tombstone at the compact revision: no record of the last revision is left, but it was there.
#[tokio::test]
async fn a_compaction_at_the_last_tombstone_keeps_the_revision() {
    for source_version in EtcdVersion::MINORS {
        let site = Site::local();
        let source = Etcd::start(source_version).await;
        let mut client = source.client().await;
        for i in 0..5 {
            client.put(format!("/key/{i}"), "x", None).await.unwrap();
        }
        let deleted = client.delete("/key/3", None).await.unwrap();
        let floor = deleted.header().unwrap().revision();
        compact(&mut client, floor).await;
        // HashKV at the compact revision itself is no measure: newer etcds answer with what they had before.
        let keyspace = Keyspace::read(&mut client).await;
        site.backup(&source);
        client.put("/key/3", "again", None).await.unwrap();
        let next = Picture::of(&mut client).await;
        for version in [EtcdVersion::V3_4, EtcdVersion::V3_7] {
            let restored = site.restore_alone(version, &format!("{version:?}"));
            assert_eq!(restored.json["revision"], floor);
            assert_eq!(restored.database.tombstones_at(floor), usize::from(source_version != EtcdVersion::V3_4));
            let etcd = restored.etcd.start().await;
            let mut client = etcd.client().await;
            keyspace.assert_same(&Keyspace::read(&mut client).await);
            client.put("/key/3", "again", None).await.unwrap();
            next.assert_seen_by(&mut client).await;
        }
    }
}

/// The data dir that the official tool makes of what `etcd` holds.
fn official_restore(etcd: &Etcd, dir: &Path, args: &[&str]) {
    let snapshot = etcd.home().join("snapshot.db");
    etcd.etcdctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
    let mut etcdutl = Command::new(etcd.version().dir().join("etcdutl"));
    etcdutl.args(["snapshot", "restore"]).arg(snapshot).arg("--data-dir").arg(dir).args(args);
    let output = etcdutl.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The tool leaves a record without a value at the new revision, which it marks as compacted.
async fn after_a_bumped_revision(version: EtcdVersion) {
    const BUMP: i64 = 1_000_000;
    let (quiet, written) = (Site::local(), Site::local());
    let dir = quiet.path("bumped");
    let before = {
        let origin = Etcd::start(version).await;
        let mut client = origin.client().await;
        write_history(&mut client, 100).await;
        edge_history(&mut client).await;
        official_restore(&origin, &dir, &[&format!("--bump-revision={BUMP}"), "--mark-compacted"]);
        Keyspace::read(&mut client).await
    };
    let source = Etcd::builder(version).data_dir(&dir).start().await;
    let mut client = source.client().await;
    let keyspace = Keyspace::read(&mut client).await;
    assert_eq!((keyspace.revision, &keyspace.entries), (before.revision + BUMP, &before.entries));
    assert_eq!(quiet.backup(&source)["revision"], keyspace.revision);
    client.put("/next", "x", None).await.unwrap();
    let next = Picture::of(&mut client).await;
    assert_eq!(next.hash.compact_revision, keyspace.revision);
    written.backup(&source);
    let keys = Database::snapshot(&mut client).await.keys();
    put_every_key(&mut client, &keys, "once").await;
    let last = Picture::of(&mut client).await;

    for target in EtcdVersion::MINORS {
        println!("onto {target:?}");
        let restored = quiet.restore_alone(target, &format!("quiet-{target:?}"));
        assert_eq!(restored.json["revision"], keyspace.revision);
        let marker = restored.database.records().pop().unwrap();
        assert_eq!((marker.main.0, marker.value.len()), (keyspace.revision, 0), "the marker is kept");
        let etcd = restored.etcd.start().await;
        let mut client = etcd.client().await;
        keyspace.assert_same(&Keyspace::read(&mut client).await);
        client.put("/next", "x", None).await.unwrap();
        next.assert_seen_by(&mut client).await;
        drop(etcd);

        let restored = written.restore_alone(target, &format!("written-{target:?}"));
        restored.assert_is(&next);
        let mut etcd = restored.etcd.start().await;
        let mut client = etcd.client().await;
        next.assert_seen_by(&mut client).await;
        put_every_key(&mut client, &keys, "once").await;
        last.assert_seen_by(&mut client).await;
        etcd.restart().await;
        last.assert_seen_by(&mut etcd.client().await).await;
    }
}

#[tokio::test]
async fn etcd_3_5_after_a_bumped_revision() {
    after_a_bumped_revision(EtcdVersion::V3_5).await;
}

#[tokio::test]
async fn etcd_3_6_after_a_bumped_revision() {
    after_a_bumped_revision(EtcdVersion::V3_6).await;
}

#[tokio::test]
async fn etcd_3_7_after_a_bumped_revision() {
    after_a_bumped_revision(EtcdVersion::V3_7).await;
}

/// A history without a compaction, in which once no key is alive; its last revision.
async fn rise_and_fall(client: &mut Client) -> i64 {
    for i in 0..150 {
        client.put(format!("/key/{:02}", i % 20), format!("value {i}"), None).await.unwrap();
        if i % 6 == 0 {
            client.delete(format!("/key/{:02}", i * 3 % 20), None).await.unwrap();
        }
    }
    let all = Some(DeleteOptions::new().with_from_key());
    client.delete("\0", all).await.unwrap();
    for i in 0..10 {
        client.put(format!("/key/{i:02}"), "again", None).await.unwrap();
    }
    current_revision(client).await
}

/// HashKV of the member at many revisions up to `last`, all above its compact revision `floor`.
async fn answers(client: &mut Client, floor: i64, last: i64) -> Vec<(i64, HashKv)> {
    let mut answers = Vec::new();
    // The eleventh from the end is the one at which nothing is alive.
    for revision in (floor.max(1) + 1..=last).filter(|revision| revision % 9 == 0 || revision + 11 > last) {
        let hash = hash_kv(client, revision).await;
        assert_eq!(hash.compact_revision, floor, "the member hashes above what it has compacted");
        answers.push((revision, hash));
    }
    answers
}

/// A member hashes what it has not compacted; an image that is compacted less gives the same hash, computed natively.
#[tokio::test]
async fn hashes_of_an_image_are_those_of_a_member_that_has_compacted_more() {
    for version in EtcdVersion::MINORS {
        let source = Etcd::start(version).await;
        let mut client = source.client().await;
        let last = rise_and_fall(&mut client).await;
        let mut images = Vec::new();
        let mut all = Vec::new();
        // The last one leaves nothing alive below it.
        for floor in [-1, 40, 81, last - 11, last - 10] {
            if floor > 0 {
                compact(&mut client, floor).await;
            }
            let site = Site::local();
            site.backup(&source);
            images.push((floor, site.restore_alone(version, "restored").database));
            all.extend(answers(&mut client, floor, last).await);
        }
        assert!(all.len() > 60, "{}", all.len());
        let mut compared = 0;
        for (floor, image) in &images {
            assert_eq!((image.floor(), image.revision()), (*floor, last));
            for (revision, hash) in all.iter().filter(|(_, hash)| hash.compact_revision >= *floor) {
                let native = image.hash_kv(*revision, hash.compact_revision);
                assert_eq!(native, *hash, "{version:?}: revision {revision} of the image compacted at {floor}");
                compared += 1;
            }
        }
        println!("{version:?}: {compared} hashes compared");
    }
}
