//! Many narrow deltas: with their rollups a restore asks a real MinIO for few objects, and gives what it gave without them.

use std::time::Duration;

use etcdbr_engine::store::open;
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::hour::History;
use etcdbr_tests::keyspace::{HashKv, current_revision, hash_kv};
use etcdbr_tests::load::mixed_history;
use etcdbr_tests::minio::Minio;
use etcdbr_tests::scenario::{BUCKET, Site};
use etcdbr_tests::sidecar::{Captured, Sidecar};

/// A delta a second for a quarter of an hour: of an hour there would be a few rollups more.
const NARROW: usize = 900;
const SECOND: Duration = Duration::from_secs(1);

/// A moment, and what etcd says of it.
#[derive(Clone, Copy)]
struct Moment {
    revision: i64,
    hash: HashKv,
}

/// LISTs and GETs of its restore with `flags`.
async fn restored(minio: &Minio, site: &Site, Moment { revision, hash }: Moment, flags: &[&str]) -> (u64, u64) {
    let before = minio.requests().await;
    let (seat, dir) = (Seat::new("m0"), site.path("restored"));
    let run = site.restore(std::slice::from_ref(&seat), 0, &dir);
    run.args(["--revision", &revision.to_string()]).args(flags).succeed();
    let after = minio.requests().await;
    assert_eq!(Database::in_dir(&dir).hash_kv(revision, hash.compact_revision), hash);
    std::fs::remove_dir_all(&dir).unwrap();
    let made = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
    (made("ListObjectsV2"), made("GetObject"))
}

#[tokio::test(flavor = "multi_thread")]
async fn rollups_make_many_deltas_cheap_to_restore() {
    let (captured_at, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_6).await);
    let mut client = etcd.client().await;
    mixed_history(&mut client).await;
    let mut sidecar = Sidecar::start(&captured_at, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    for i in 0..NARROW + 100 {
        client.put(format!("/narrow/{}", i % 300), i.to_string(), None).await.unwrap();
    }
    let revision = current_revision(&mut client).await;
    sidecar.durable(revision).await;
    sidecar.stop();
    let newest = Moment { revision, hash: hash_kv(&mut client, revision).await };

    let minio = Minio::start().await;
    let site = Site::minio(&minio).await;
    std::fs::copy(captured_at.path("key"), site.path("key")).unwrap();
    let source = captured_at.store();
    let history = History::read(&Captured::of(&captured_at).await, source.as_ref()).await;
    assert_eq!(history.revisions(), NARROW + 100);
    let store = open(&minio.options(BUCKET)).await.unwrap();
    let archive = Captured::in_store(store.clone(), site.path("key")).await.archive().clone();
    history.put((&archive, store.as_ref()), NARROW, SECOND).await;

    // However the database is made: nothing small is fetched twice.
    for flags in [&[][..], &["--defragment"]] {
        let (lists, gets) = restored(&minio, &site, newest, flags).await;
        println!("{NARROW} deltas: {lists} LISTs, {gets} GETs");
        assert!(lists == 1 && (NARROW as u64..NARROW as u64 + 20).contains(&gets), "{lists} LISTs, {gets} GETs");
    }
    let rollups = history.roll_up(&archive, SECOND * NARROW as u32).await;
    // One in the middle, too, of revisions that wide objects hold.
    let middle = Moment { revision: revision - 500, hash: hash_kv(&mut client, revision - 500).await };
    for (moment, flags) in [(newest, &[][..]), (newest, &["--defragment"]), (middle, &[])] {
        let (lists, gets) = restored(&minio, &site, moment, flags).await;
        println!("{NARROW} deltas and {rollups} rollups: {lists} LISTs, {gets} GETs");
        assert!(lists <= 6 && gets <= 100, "{lists} LISTs, {gets} GETs");
    }
}
