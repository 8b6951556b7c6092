//! The size of what is restored, which way it was made, and that every key's versions go on as the source's do: a day of
//! churn against few keys, and an hour of it on a large base. Time is compressed: a round of writes and a compaction stand
//! for five minutes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use etcd_client::{Client, CompactionOptions, Txn, TxnOp};
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat};
use etcdbr_tests::keyspace::{Keyspace, current_revision, hash_kv};
use etcdbr_tests::load::{Load, fill};
use etcdbr_tests::scenario::{Site, put_every_key};
use etcdbr_tests::sidecar::{Captured, Sidecar};
use serde_json::Value;

/// Puts in a revision.
const PUTS: usize = 5;
const VALUE_BYTES: usize = 1_000;
/// Keys that are overwritten, one after the other.
const KEYS: usize = 400;

/// Rounds of overwriting a few keys, each of so many revisions; a compaction leaves the last ones.
#[derive(Clone, Copy)]
struct Churn {
    rounds: usize,
    revisions: usize,
    /// A sidecar that comes back needs a few hundred revisions to know its source again.
    kept_rounds: usize,
}

/// A captured history, and the source, which has come to its end.
struct Story {
    site: Site,
    source: Etcd,
    lineage: String,
    last: i64,
}

impl Churn {
    /// One round; the revision that it leads to.
    async fn round(self, client: &mut Client, round: usize) -> i64 {
        let (prefix, noise_percent) = ("/churned/".to_owned(), 10);
        let load = Load { prefix, keys: KEYS, value_bytes: VALUE_BYTES, noise_percent, seed: 7 };
        let mut revision = 0;
        for n in 0..self.revisions {
            let put = |i: usize| {
                let nth = (round * self.revisions + n) * PUTS + i;
                TxnOp::put(load.key(nth % KEYS), load.value(nth), None)
            };
            let answer = client.txn(Txn::new().and_then((0..PUTS).map(put).collect::<Vec<_>>())).await.unwrap();
            revision = answer.header().unwrap().revision();
        }
        revision
    }

    /// All rounds, captured by `sidecar`; the revision that the source is compacted at in the end.
    async fn run(self, client: &mut Client, sidecar: &mut Sidecar) -> i64 {
        let mut ends = Vec::new();
        for round in 0..self.rounds {
            ends.push(self.round(client, round).await);
            if let Some(n) = round.checked_sub(self.kept_rounds) {
                client.compact(ends[n], Some(CompactionOptions::new().with_physical())).await.unwrap();
            }
        }
        sidecar.durable(ends[self.rounds - 1]).await;
        ends[self.rounds - 1 - self.kept_rounds]
    }
}

/// `base` written and captured in a full; then churn; then its last compaction is known.
async fn story(base: Load, churn: Churn) -> Story {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = source.client().await;
    fill(&client, &base).await;
    let mut sidecar = Sidecar::start(&site, &[source.endpoint()]);
    sidecar.opened(1).await;
    let compacted = churn.run(&mut client, &mut sidecar).await;
    sidecar.stop();
    // A sidecar that begins asks at once how far its source is compacted, and no more for a minute; the next delta tells.
    let mut sidecar = Sidecar::start(&site, &[source.endpoint()]);
    let mut puts = 0;
    while known_compaction(&site).await < compacted {
        client.put("/churned/last", format!("{puts}"), None).await.unwrap();
        sidecar.durable(current_revision(&mut client).await).await;
        puts += 1;
        assert!(puts < 100, "no delta tells of the compaction at {compacted}");
    }
    let last = current_revision(&mut client).await;
    sidecar.stop();
    let captured = Captured::of(&site).await;
    let lineage = captured.lineages()[0].id.to_string();
    Story { site, source, lineage, last }
}

/// The compact revision that the newest delta tells of.
async fn known_compaction(site: &Site) -> i64 {
    let captured = Captured::of(site).await;
    assert_eq!(captured.lineages().len(), 1, "one history");
    let Some(newest) = captured.lineages()[0].backups.last() else { return 0 };
    let reader = captured.archive().open(&newest.name).await.expect("an object can be opened");
    reader.footer().facts.capture.compact_revision.map_or(0, |revision| revision.0)
}

fn db_bytes(data_dir: &Path) -> u64 {
    std::fs::metadata(data_dir.join("member/snap/db")).unwrap().len()
}

/// Bytes of the source's database, as etcd itself tells.
async fn source_bytes(client: &mut Client) -> u64 {
    client.status().await.unwrap().db_size().unsigned_abs()
}

impl Story {
    fn restore(&self, seats: &[Seat], own: usize, name: &str) -> (PathBuf, Value) {
        let dir = self.site.path(name);
        let revision = self.last.to_string();
        let run = self.site.restore(seats, own, &dir).args(["--lineage", &self.lineage, "--revision", &revision]);
        let told = run.arg("--output=json").succeed().json();
        let database = Database::in_dir(&dir);
        database.assert_sound();
        assert_eq!(database.revision(), self.last);
        (dir, told)
    }

    /// Puts every key once on the source and on the restored ones, and once more after they were started again: versions
    /// and create revisions are equal each time.
    async fn counts_on(&self, alone: &Path, seat: Seat) {
        let mut source = self.source.client().await;
        let keys: BTreeSet<Vec<u8>> = Keyspace::read(&mut source).await.entries.into_keys().collect();
        assert!(keys.len() > 100, "{}", keys.len());
        let mut alone = Etcd::builder(EtcdVersion::V3_6).seat(seat).data_dir(alone).start().await;
        let seats = Seat::several(3);
        let dirs: Vec<PathBuf> =
            (0..seats.len()).map(|own| self.restore(&seats, own, &format!("of-three-{own}")).0).collect();
        let mut three = EtcdCluster::start_restored(EtcdVersion::V3_6, seats, &dirs).await;
        for time in ["once", "twice"] {
            put_every_key(&mut source, &keys, time).await;
            let expected = Keyspace::read(&mut source).await;
            put_every_key(&mut alone.client().await, &keys, time).await;
            Keyspace::read(&mut alone.client().await).await.assert_same(&expected);
            put_every_key(&mut three.members[0].client().await, &keys, time).await;
            for member in &three.members {
                Keyspace::read(&mut member.client().await).await.assert_same(&expected);
            }
            let mut hashes = Vec::new();
            for member in &three.members {
                hashes.push(hash_kv(&mut member.client().await, expected.revision).await);
            }
            assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
            alone.restart().await;
            three.members[1].restart().await;
        }
        Keyspace::read(&mut alone.client().await).await.assert_same(&Keyspace::read(&mut source).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_churn_is_rewritten_as_small_as_the_source_defragmented() {
    let base = Load { keys: 300, ..Load::small(300) };
    let story = story(base, Churn { rounds: 288, revisions: 30, kept_rounds: 20 }).await;
    let seat = Seat::new("m0");
    let (dir, told) = story.restore(std::slice::from_ref(&seat), 0, "alone");
    assert_eq!(told["way"], "rewrite", "{told}");
    let mut client = story.source.client().await;
    client.defragment().await.unwrap();
    let (restored, source) = (db_bytes(&dir), source_bytes(&mut client).await);
    println!("a day: {restored} bytes restored, {source} in the source defragmented");
    assert!(source > 1 << 20, "{source}");
    assert!(restored * 100 <= source * 105, "{restored} bytes, where the source has {source}");
    story.counts_on(&dir, seat).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_churn_is_appended_to_a_large_base() {
    let base = Load { keys: 6_000, value_bytes: 4_000, ..Load::small(6_000) };
    let story = story(base, Churn { rounds: 12, revisions: 100, kept_rounds: 6 }).await;
    let seat = Seat::new("m0");
    let (dir, told) = story.restore(std::slice::from_ref(&seat), 0, "alone");
    assert_eq!(told["way"], "append", "{told}");
    let source = source_bytes(&mut story.source.client().await).await;
    let restored = db_bytes(&dir);
    println!("an hour: {restored} bytes restored, {source} in the source");
    assert!(source > 20 << 20, "{source}");
    assert!(restored * 100 <= source * 150, "{restored} bytes, where the source has {source}");
    story.counts_on(&dir, seat).await;
}
