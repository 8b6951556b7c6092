//! Databases whose trees we wrote, under real etcds: written from nothing, carried on, and cut off.
//!
//! Each is a restored data dir whose `member/snap/db` was replaced. The server must hash what we hash, and then do what
//! finds a wrong tree out: overwrite, delete, compact, defragment, start again. What it leaves is checked once more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use etcd_client::{Client, CompactionOptions, DeleteOptions, GetOptions};
use etcdbr_engine::bbolt::{BoltFile, BulkWriter, Entry, Extension, TreeFacts, Written, check};
use etcdbr_engine::datadir::{HashPoint, hash_kv, record_key_parts};
use etcdbr_engine::record::{Change, Record};
use etcdbr_engine::revision::Revision;
use etcdbr_proto::mvccpb::KeyValue;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::keyspace::{self, Keyspace, current_revision};
use etcdbr_tests::load::{Load, Noise, fill, mixed_history};
use etcdbr_tests::scenario::Site;
use prost::Message;

/// A data dir that was restored from `source` and not started yet.
struct Restored {
    site: Site,
    seat: Seat,
    version: EtcdVersion,
    source: Etcd,
    /// The keys of the source when it was backed up.
    before: Keyspace,
}

impl Restored {
    async fn of(version: EtcdVersion) -> Self {
        let source = Etcd::start(version).await;
        let mut client = source.client().await;
        mixed_history(&mut client).await;
        fill(&client, &Load::small(700)).await;
        for i in 0..120 {
            client.put(format!("/late/{:02}", i % 40), format!("{i}"), None).await.unwrap();
            if i % 9 == 0 {
                client.delete(format!("/late/{:02}", i % 40), None).await.unwrap();
            }
        }
        let before = Keyspace::read(&mut client).await;
        let (site, seat) = (Site::local(), Seat::new("m0"));
        site.backup(&source);
        let restored = Self { site, seat, version, source, before };
        let dir = restored.dir();
        restored.site.restore(std::slice::from_ref(&restored.seat), 0, &dir).succeed();
        restored
    }

    fn dir(&self) -> PathBuf {
        self.site.path("restored")
    }

    fn db(&self) -> Vec<u8> {
        std::fs::read(db_path(&self.dir())).unwrap()
    }

    /// Starts an etcd on the data dir with another db.
    async fn start(&self, db: &[u8]) -> Etcd {
        std::fs::write(db_path(&self.dir()), db).unwrap();
        Etcd::builder(self.version).seat(self.seat.clone()).data_dir(&self.dir()).start().await
    }
}

fn db_path(data_dir: &Path) -> PathBuf {
    data_dir.join("member/snap/db")
}

fn facts(db: &[u8]) -> TreeFacts {
    check(&BoltFile::open(db).unwrap()).unwrap()
}

fn bulk_copy(db: &[u8]) -> Vec<u8> {
    let file = BoltFile::open(db).unwrap();
    let mut writer = BulkWriter::create(Vec::new(), file.meta().page_size).unwrap();
    for (name, bucket) in file.buckets().unwrap() {
        writer.start(name).unwrap();
        let mut cursor = file.cursor(&bucket);
        let mut entry = cursor.first().unwrap();
        while let Some(found) = entry {
            writer.push(found).unwrap();
            entry = cursor.next().unwrap();
        }
    }
    with_metas(Vec::new(), writer.finish().unwrap())
}

fn extended<'a>(db: &'a [u8], change: impl FnOnce(&mut Extension<'a, Vec<u8>>)) -> Vec<u8> {
    let file = BoltFile::open(db).unwrap();
    let mut extension = Extension::begin(file, Vec::new()).unwrap();
    change(&mut extension);
    with_metas(db[..file.used_bytes() as usize].to_vec(), extension.finish().unwrap())
}

fn with_metas(mut bytes: Vec<u8>, written: Written<Vec<u8>>) -> Vec<u8> {
    bytes.extend_from_slice(&written.out);
    for (offset, meta) in written.metas {
        bytes[offset as usize..][..meta.len()].copy_from_slice(&meta);
    }
    bytes
}

/// All entries of the `key` bucket.
fn records(db: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let file = BoltFile::open(db).unwrap();
    let mut cursor = file.cursor(&file.bucket(b"key").unwrap().unwrap());
    let mut records = Vec::new();
    let mut entry = cursor.first().unwrap();
    while let Some(Entry { key, value }) = entry {
        records.push((key.to_vec(), value.to_vec()));
        entry = cursor.next().unwrap();
    }
    records
}

fn last_revision(db: &[u8]) -> i64 {
    record_key_parts(&records(db).last().unwrap().0).unwrap().0.0
}

/// `revisions` further revisions on keys of their own, some with several records, deletes and large values among them.
fn further(after: i64, revisions: i64) -> Vec<Record> {
    let mut noise = Noise::new(11);
    let mut lives = vec![(0, 0); 300];
    let mut records = Vec::new();
    for main in after + 1..=after + revisions {
        for sub in 0..1 + (noise.next_u64() % 3) as i64 {
            // Of a transaction each record is of another key.
            let slot = ((noise.next_u64() % 100) * 3) as usize + sub as usize;
            let (created, version) = &mut lives[slot];
            let gone = *version > 0 && noise.next_u64().is_multiple_of(6);
            let mut kv = KeyValue { key: format!("/further/{slot:03}").into(), ..Default::default() };
            if gone {
                *version = 0;
            } else {
                *created = if *version == 0 { main } else { *created };
                *version += 1;
                kv.create_revision = *created;
                kv.mod_revision = main;
                kv.version = *version;
                let len = if main % 250 == 0 { 40_000 } else { noise.next_u64() % 500 };
                kv.value = noise.bytes(len as usize).into();
            }
            let change = if gone { Change::Tombstone } else { Change::Put };
            records.push(Record { main: Revision(main), sub, change, value: kv.encode_to_vec().into() });
        }
    }
    records
}

/// Create revision, mod revision and version of every key that `records` leave.
fn alive(records: &[Record]) -> Vec<(Vec<u8>, (i64, i64, i64))> {
    let mut alive = BTreeMap::new();
    for record in records {
        let kv = KeyValue::decode(&record.value[..]).unwrap();
        match record.change {
            Change::Put => alive.insert(kv.key.to_vec(), (kv.create_revision, kv.mod_revision, kv.version)),
            Change::Tombstone => alive.remove(&kv.key[..]),
        };
    }
    alive.into_iter().collect()
}

/// The server's HashKV at `revision` is ours over `db`, computed with its own compact revision.
async fn assert_hashes(client: &mut Client, db: &[u8], revision: i64) {
    let served = keyspace::hash_kv(client, 0).await;
    let compact = (served.compact_revision >= 0).then_some(Revision(served.compact_revision));
    let entries = records(db);
    let point = HashPoint { revision: Revision(revision), compact };
    let ours = hash_kv(|| Ok(entries.iter().map(|(key, value)| Ok((key, value)))), point);
    assert_eq!(ours.unwrap(), served.hash, "HashKV at {revision}, compacted at {compact:?}");
}

async fn compact(client: &mut Client) {
    let revision = current_revision(client).await;
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
}

/// Everything that rebalances trees; then what is left on disk is sound by the strict check.
async fn assert_lives(mut etcd: Etcd, expected: &Keyspace) {
    let mut client = etcd.client().await;
    let (key, entry) = expected.entries.iter().next_back().unwrap();
    client.put(key.clone(), "again", None).await.unwrap();
    let kv = client.get(key.clone(), None).await.unwrap().kvs()[0].clone();
    assert_eq!(kv.mod_revision(), expected.revision + 1, "revisions go on");
    assert_eq!((kv.version(), kv.create_revision()), (entry.version + 1, entry.create_revision), "versions go on");
    // First the compaction that leaves holes, so that leaves become underfilled; then one that leaves nothing.
    for key in expected.entries.keys().step_by(3) {
        client.delete(key.clone(), None).await.unwrap();
    }
    compact(&mut client).await;
    let half = Keyspace::read(&mut client).await;
    etcd.restart().await;
    let mut client = etcd.client().await;
    half.assert_same(&Keyspace::read(&mut client).await);
    client.delete("", Some(DeleteOptions::new().with_all_keys())).await.unwrap();
    compact(&mut client).await;
    client.defragment().await.unwrap();
    client.put("/after", "all", None).await.unwrap();
    etcd.restart().await;
    let mut client = etcd.client().await;
    let left = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
    assert_eq!(left.kvs().iter().map(|kv| kv.key().to_vec()).collect::<Vec<_>>(), [b"/after"]);
    etcd.stop();
    facts(&std::fs::read(db_path(etcd.data_dir())).unwrap());
}

#[tokio::test]
async fn a_database_written_from_nothing() {
    for version in EtcdVersion::MINORS {
        let restored = Restored::of(version).await;
        let db = bulk_copy(&restored.db());
        assert_eq!(facts(&db).free_pages, 0, "{version:?}: every page is in use");
        let etcd = restored.start(&db).await;
        let mut client = etcd.client().await;
        assert_hashes(&mut client, &db, restored.before.revision).await;
        restored.before.assert_same(&Keyspace::read(&mut client).await);
        assert_lives(etcd, &restored.before).await;
    }
}

#[tokio::test]
async fn a_database_that_was_carried_on() {
    for version in EtcdVersion::MINORS {
        let restored = Restored::of(version).await;
        let image = restored.db();
        let records = further(last_revision(&image), 2_000);
        let db = extended(&image, |extension| {
            // As deltas come: a piece at a time, into one tree.
            for piece in records.chunks(333) {
                extension.append(b"key", piece.iter().map(|r| Ok((r.bucket_key(), r.value.clone())))).unwrap();
            }
        });
        facts(&db);
        let etcd = restored.start(&db).await;
        let mut client = etcd.client().await;
        assert_hashes(&mut client, &db, restored.before.revision + 2_000).await;
        let now = Keyspace::read(&mut client).await;
        assert_eq!(now.revision, restored.before.revision + 2_000, "{version:?}");
        let is_new = |key: &Vec<u8>| key.starts_with(b"/further/");
        let (new, old): (BTreeMap<_, _>, _) = now.entries.clone().into_iter().partition(|(key, _)| is_new(key));
        restored.before.assert_same(&Keyspace { revision: restored.before.revision, entries: old, ..now.clone() });
        let served: Vec<_> =
            new.into_iter().map(|(key, e)| (key, (e.create_revision, e.mod_revision, e.version))).collect();
        assert_eq!(served, alive(&records), "{version:?}");
        assert_lives(etcd, &now).await;
    }
}

#[tokio::test]
async fn a_database_that_was_cut() {
    for version in EtcdVersion::MINORS {
        let mut restored = Restored::of(version).await;
        let image = restored.db();
        // Behind the source's compaction, before much of the rest.
        let target = last_revision(&image) - 77;
        let mut client = restored.source.client().await;
        let expected = Keyspace::read_at(&mut client, target).await;
        let served = keyspace::hash_kv(&mut client, target).await;
        restored.source.stop();
        let db = extended(&image, |extension| extension.cut(b"key", &(target + 1).to_be_bytes()).unwrap());
        facts(&db);
        assert_eq!(last_revision(&db), target, "{version:?}");
        let etcd = restored.start(&db).await;
        let mut client = etcd.client().await;
        assert_hashes(&mut client, &db, target).await;
        assert_eq!(keyspace::hash_kv(&mut client, 0).await, served, "{version:?}: what the source said");
        let now = Keyspace::read(&mut client).await;
        expected.assert_same(&now);
        assert_lives(etcd, &expected).await;
    }
}

#[tokio::test]
async fn a_database_that_was_cut_and_carried_on() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_7] {
        let restored = Restored::of(version).await;
        let image = restored.db();
        let target = last_revision(&image) - 77;
        let records = further(target, 500);
        let db = extended(&image, |extension| {
            extension.cut(b"key", &(target + 1).to_be_bytes()).unwrap();
            extension.append(b"key", records.iter().map(|r| Ok((r.bucket_key(), r.value.clone())))).unwrap();
        });
        facts(&db);
        let etcd = restored.start(&db).await;
        let mut client = etcd.client().await;
        assert_hashes(&mut client, &db, target + 500).await;
        let now = Keyspace::read(&mut client).await;
        assert_eq!(now.revision, target + 500, "{version:?}");
        assert_lives(etcd, &now).await;
    }
}
