//! Any moment of a captured history comes back, and a real etcd goes on from it as the source would have.

use std::collections::BTreeSet;

use etcd_client::{Client, PutOptions};
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat};
use etcdbr_tests::keyspace::{Keyspace, current_revision};
use etcdbr_tests::load::{edge_history, mixed_history};
use etcdbr_tests::scenario::{Picture, Site, assert_failed, put_every_key, write_history};
use etcdbr_tests::sidecar::{Captured, Sidecar};
use serde_json::Value;

/// A site whose archive holds a captured history, and the pictures that were taken of it.
struct Story {
    site: Site,
    source: Etcd,
    pictures: Vec<Picture>,
    keys: BTreeSet<Vec<u8>>,
}

/// A full, and deltas with all that happens to an etcd; pictures in between.
async fn story(version: EtcdVersion) -> Story {
    let site = Site::local();
    let source = Etcd::start(version).await;
    let mut client = source.client().await;
    write_history(&mut client, 200).await;
    let mut sidecar = Sidecar::start(&site, &[source.endpoint()]);
    sidecar.opened(1).await;
    let mut pictures = vec![Picture::of(&mut client).await];
    mixed_history(&mut client).await;
    pictures.push(Picture::of(&mut client).await);
    edge_history(&mut client).await;
    let lease = client.lease_grant(7_200, None).await.unwrap().id();
    client.put("/history/late", "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    pictures.push(Picture::of(&mut client).await);
    for i in 0..200 {
        client.put(format!("/churned/{}", i % 7), format!("{i}"), None).await.unwrap();
    }
    client.delete("/churned/3", None).await.unwrap();
    pictures.push(Picture::of(&mut client).await);
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let keys = Database::snapshot(&mut client).await.keys();
    Story { site, source, pictures, keys }
}

/// What a restore told, and the etcd that runs on it.
struct Revived {
    json: Value,
    database: Database,
    etcd: Etcd,
}

async fn revive(site: &Site, version: EtcdVersion, name: &str, flags: &[&str]) -> Revived {
    let (seat, dir) = (Seat::new("m0"), site.path(name));
    let run = site.restore(std::slice::from_ref(&seat), 0, &dir);
    let json = run.args(flags).arg("--output=json").succeed().json();
    let database = Database::in_dir(&dir);
    database.assert_sound();
    Revived { json, database, etcd: Etcd::builder(version).seat(seat).data_dir(&dir).start().await }
}

/// The etcd holds what `picture` shows; where it has compacted less than the source had, its own hash is another one, and
/// that of its records at the source's compact revision is the source's.
async fn assert_shows(revived: &Revived, picture: &Picture) {
    let revision = picture.keyspace.revision;
    assert_eq!(revived.json["revision"], revision);
    assert_eq!(revived.database.revision(), revision);
    assert_eq!(revived.database.hash_kv(revision, picture.hash.compact_revision), picture.hash);
    let mut client = revived.etcd.client().await;
    let seen = Keyspace::read(&mut client).await;
    assert_eq!(seen.revision, revision);
    assert!(seen.entries == picture.keyspace.entries, "{:?} is not shown", picture.keyspace.entries.keys());
    let served = etcdbr_tests::keyspace::hash_kv(&mut client, 0).await;
    assert_eq!(revived.database.hash_kv(revision, served.compact_revision), served);
}

/// Every key is put once: versions and create revisions go on as the source's would have.
async fn assert_counts_on(client: &mut Client, picture: &Picture, keys: &BTreeSet<Vec<u8>>) {
    put_every_key(client, keys, "once more").await;
    let after = Keyspace::read(client).await;
    for key in keys {
        let (now, then) = (&after.entries[key], picture.keyspace.entries.get(key));
        let (version, create) = then.map_or((1, now.mod_revision), |then| (then.version + 1, then.create_revision));
        let name = String::from_utf8_lossy(key);
        assert_eq!((now.version, now.create_revision), (version, create), "version and create revision of {name}");
    }
}

async fn every_moment_is_served(version: EtcdVersion) {
    let Story { site, pictures, keys, mut source } = story(version).await;
    for (n, picture) in pictures.iter().enumerate() {
        for flags in [&[][..], &["--defragment"][..]] {
            let revision = picture.keyspace.revision.to_string();
            let flags = [flags, &["--revision", &revision]].concat();
            let mut revived = revive(&site, version, &format!("{n}{}", flags.len()), &flags).await;
            assert_shows(&revived, picture).await;
            let mut client = revived.etcd.client().await;
            assert_counts_on(&mut client, picture, &keys).await;
            let now = Picture::of(&mut client).await;
            revived.etcd.restart().await;
            now.assert_seen_by(&mut revived.etcd.client().await).await;
        }
    }
    // And the newest is the source itself, what it does next included.
    let mut revived = revive(&site, version, "newest", &[]).await;
    let mut client = source.client().await;
    put_every_key(&mut client, &keys, "on both").await;
    put_every_key(&mut revived.etcd.client().await, &keys, "on both").await;
    let expected = Keyspace::read(&mut client).await;
    let seen = Keyspace::read(&mut revived.etcd.client().await).await;
    assert!(seen.entries == expected.entries, "the two went different ways");
    assert_eq!(seen.revision, expected.revision);
    source.stop();
    revived.etcd.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_is_served_by_etcd_3_4() {
    every_moment_is_served(EtcdVersion::V3_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_is_served_by_etcd_3_5() {
    every_moment_is_served(EtcdVersion::V3_5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_is_served_by_etcd_3_6() {
    every_moment_is_served(EtcdVersion::V3_6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_is_served_by_etcd_3_7() {
    every_moment_is_served(EtcdVersion::V3_7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moments_are_named_by_time_and_by_what_was_deleted() {
    let Story { site, pictures, .. } = story(EtcdVersion::V3_6).await;
    let last = pictures.last().unwrap().keyspace.revision;
    let dry = |flags: &[&str]| {
        let run = site.command(&["restore", "--dry-run", "--output=json"]).args(flags);
        run.arg("--data-dir").arg(site.path("never")).run()
    };
    let deleted = dry(&["--before-delete=/churned/3"]);
    assert_eq!(deleted.json()["deleted_at"], last, "{}", deleted.stderr);
    assert_eq!(deleted.json()["revision"], last - 1);
    let newest = dry(&[]).json();
    assert_eq!(newest["revision"], last);
    // Which way such a small database goes is a matter of pages.
    let way = newest["way"].as_str().unwrap();
    assert!(["append", "rewrite"].contains(&way), "{newest}");
    assert!(newest["deltas"].as_i64().unwrap() >= 1 && newest["records_bytes"].as_i64().unwrap() > 0, "{newest}");
    let later = dry(&["--at=2100-01-01T00:00:00Z"]).json();
    assert_eq!((&later["revision"], &later["mark"]["revision"]), (&last.into(), &last.into()));
    // At a mark that a restore told of it is that revision again.
    let time = later["mark"]["time"].as_str().unwrap();
    assert_eq!(dry(&["--at", time]).json()["revision"], last);
    assert_failed(&dry(&["--at=2000-01-01T00:00:00Z"]), 3, &["does not hold anything of 2000-01-01"]);
    assert_failed(&dry(&["--revision=1000000"]), 3, &["does not reach 1000000"]);
    assert_failed(&dry(&["--before-delete=/absent"]), 3, &["/absent"]);
    assert_failed(&dry(&["--revision=7", "--at=2000-01-01T00:00:00Z"]), 2, &["cannot be used with"]);
    let run = site.command(&["restore", "--dry-run"]).arg("--data-dir").arg(site.path("never"));
    let text = run.succeed().stdout;
    for word in ["lineage", "reaches   revision", "records   about", &format!("way       {way}"), "memory"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    assert!(!site.path("never").exists());
}

/// Each member is restored by a run of its own: from a full and the deltas that follow it, to the same moment. What
/// each counts on from is the same too, also where one of them has started once more than the others.
async fn three_members_of_a_chain(version: EtcdVersion) {
    let Story { site, pictures, keys, mut source } = story(version).await;
    let lineage = Captured::of(&site).await.lineages()[0].id.to_string();
    let picture = pictures.last().unwrap();
    let revision = picture.keyspace.revision.to_string();
    for way in [&[][..], &["--defragment"]] {
        let seats = Seat::several(3);
        let dirs: Vec<_> = (0..3).map(|own| site.path(&format!("of-three-{own}-{}", way.len()))).collect();
        for (own, dir) in dirs.iter().enumerate() {
            let refused = site.restore(&seats, own, dir).args(way).run();
            assert_failed(&refused, 4, &["--initial-cluster names 3 members"]);
            let told = site.restore(&seats, own, dir).args(["--lineage", &lineage, "--revision", &revision]);
            let told = told.args(way).arg("--output=json").succeed().json();
            assert!(told["deltas"].as_i64().unwrap() >= 1, "{told}");
        }
        let databases: Vec<_> = dirs.iter().map(|dir| Database::in_dir(dir)).collect();
        assert!(databases.iter().all(|database| database.bucket("key") == databases[0].bucket("key")));
        let mut cluster = EtcdCluster::start_restored(version, seats, &dirs).await;
        for member in &cluster.members {
            let seen = Keyspace::read(&mut member.client().await).await;
            assert!(seen.entries == picture.keyspace.entries, "{} shows something else", member.seat().name);
        }
        cluster.members[1].restart().await;
        assert_counts_on(&mut cluster.members[0].client().await, picture, &keys).await;
        let expected = Keyspace::read(&mut cluster.members[0].client().await).await;
        for member in &cluster.members {
            Keyspace::read(&mut member.client().await).await.assert_same(&expected);
            let hash = etcdbr_tests::keyspace::hash_kv(&mut member.client().await, expected.revision).await;
            let first =
                etcdbr_tests::keyspace::hash_kv(&mut cluster.members[0].client().await, expected.revision).await;
            assert_eq!(hash, first, "HashKV of {}", member.seat().name);
        }
    }
    source.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_of_a_chain_count_on_alike_on_3_5() {
    three_members_of_a_chain(EtcdVersion::V3_5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_of_a_chain_count_on_alike_on_3_7() {
    three_members_of_a_chain(EtcdVersion::V3_7).await;
}
