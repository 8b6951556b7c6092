//! A database file as our engine reads it, with no etcd in the path: its records, its buckets, its HashKV.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Buf;
use etcd_client::Client;
use etcdbr_engine::bbolt::{BoltFile, Extension, check};
use etcdbr_engine::datadir::{HashPoint, decode_record, hash_kv};
use etcdbr_engine::record::{Change, Record};
use etcdbr_engine::revision::Revision;
use etcdbr_proto::mvccpb::KeyValue;
use prost::Message;

use crate::keyspace::HashKv;

/// What a snapshot stream has behind the database.
const TRAILER_BYTES: usize = 32;

/// Key and value of each entry of a bucket.
pub type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The bytes of a database.
#[derive(Debug, Clone)]
pub struct Database(Vec<u8>);

impl Database {
    /// That of a data dir on which no etcd runs.
    ///
    /// # Panics
    /// Where there is none.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self(std::fs::read(data_dir.join("member/snap/db")).expect("a data dir has a database"))
    }

    /// What a running etcd streams, to a client that is not ours.
    ///
    /// # Panics
    /// Where the stream ends early.
    pub async fn snapshot(client: &mut Client) -> Self {
        let mut stream = client.snapshot().await.expect("a snapshot");
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await.expect("a snapshot stream") {
            bytes.extend_from_slice(message.blob());
        }
        assert_eq!(bytes.len() % 512, TRAILER_BYTES, "a snapshot ends with its SHA-256");
        bytes.truncate(bytes.len() - TRAILER_BYTES);
        Self(bytes)
    }

    fn file(&self) -> BoltFile<'_> {
        BoltFile::open(&self.0).expect("a database")
    }

    /// Fails unless every page is as etcd's own writer would have it.
    ///
    /// # Panics
    /// Where it is not.
    pub fn assert_sound(&self) {
        check(&self.file()).expect("a sound tree");
    }

    /// The entries of bucket `name`; none where there is no such bucket.
    pub fn bucket(&self, name: &str) -> Entries {
        let file = self.file();
        let mut entries = Entries::new();
        let Some(bucket) = file.bucket(name.as_bytes()).expect("a root") else { return entries };
        let mut cursor = file.cursor(&bucket);
        let mut entry = cursor.first().expect("a bucket");
        while let Some(found) = entry {
            entries.insert(found.key.to_vec(), found.value.to_vec());
            entry = cursor.next().expect("a bucket");
        }
        entries
    }

    /// The names of all buckets.
    pub fn bucket_names(&self) -> Vec<String> {
        let buckets = self.file().buckets().expect("a root");
        buckets.into_iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// All records, in order.
    pub fn records(&self) -> Vec<Record> {
        let record = |(key, value): (&Vec<u8>, &Vec<u8>)| decode_record(key, value).expect("a record");
        self.bucket("key").iter().map(record).collect()
    }

    /// Every user key that a record names, dead ones included; the marker of a revision bump names none.
    pub fn keys(&self) -> BTreeSet<Vec<u8>> {
        let key = |record: Record| KeyValue::decode(record.value).expect("a key and value").key.to_vec();
        self.records().into_iter().map(key).filter(|key| !key.is_empty()).collect()
    }

    /// The records that are tombstones of revision `main`.
    pub fn tombstones_at(&self, main: i64) -> usize {
        let at = |record: &Record| record.main == Revision(main) && record.change == Change::Tombstone;
        self.records().iter().filter(|record| at(record)).count()
    }

    /// The revision of the compaction that was asked for last.
    pub fn scheduled_compaction(&self) -> Option<i64> {
        self.meta_revision("scheduledCompactRev")
    }

    /// The revision of the compaction that was finished last.
    pub fn finished_compaction(&self) -> Option<i64> {
        self.meta_revision("finishedCompactRev")
    }

    fn meta_revision(&self, name: &str) -> Option<i64> {
        self.bucket("meta").get(name.as_bytes()).map(|value| value.as_slice().get_i64())
    }

    /// The revision that is compacted, finished or not; -1 for none, as etcd has it.
    pub fn floor(&self) -> i64 {
        self.scheduled_compaction().max(self.finished_compaction()).unwrap_or(-1)
    }

    /// The revision at which an etcd on this database starts.
    pub fn revision(&self) -> i64 {
        self.records().last().map_or(1, |record| record.main.0).max(self.floor())
    }

    /// HashKV at `revision` of an etcd that is compacted at `compact_revision` (-1: at none).
    pub fn hash_kv(&self, revision: i64, compact_revision: i64) -> HashKv {
        let entries = self.bucket("key");
        let compact = (compact_revision >= 0).then_some(Revision(compact_revision));
        let point = HashPoint { revision: Revision(revision), compact };
        let hash = hash_kv(|| Ok(entries.iter().map(Ok)), point).expect("records");
        HashKv { hash, compact_revision }
    }

    /// Puts `entries` in place of those of bucket `name`, in the data dir that it came from.
    ///
    /// # Panics
    /// Where the file cannot be written.
    pub fn replace_in(&self, data_dir: &Path, name: &str, entries: &Entries) {
        let file = self.file();
        let used = usize::try_from(file.used_bytes()).expect("a size that fits memory");
        let mut extension = Extension::begin(file, self.0[..used].to_vec()).expect("a root");
        extension.replace(name.as_bytes(), entries.iter().map(Ok)).expect("entries in order");
        let extended = extension.finish().expect("a new root");
        let mut bytes = extended.out;
        for (offset, meta) in extended.metas {
            let start = usize::try_from(offset).expect("an offset that fits memory");
            bytes[start..start + meta.len()].copy_from_slice(&meta);
        }
        std::fs::write(data_dir.join("member/snap/db"), bytes).expect("the database can be written");
    }
}
