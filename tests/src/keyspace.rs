//! What an etcd serves, read through a client that is not ours: two of these are equal, or a restore was wrong.

use std::collections::BTreeMap;

use etcd_client::{Client, GetOptions, LeaseTimeToLiveOptions, SortOrder, SortTarget};
use sha2::{Digest, Sha256};

const PAGE: i64 = 1_000;

/// One key as etcd serves it; the value by its digest and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The revision that created it.
    pub create_revision: i64,
    /// The revision that wrote it last.
    pub mod_revision: i64,
    /// How often it was written since its creation.
    pub version: i64,
    /// Its lease, 0 for none.
    pub lease: i64,
    /// The value's length.
    pub value_len: usize,
    /// The value's SHA-256.
    pub value_sha256: [u8; 32],
}

/// A lease as etcd serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The TTL in seconds that it was granted with.
    pub granted_ttl: i64,
    /// The keys that hang on it, sorted.
    pub keys: Vec<Vec<u8>>,
}

/// Every key and lease at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    /// The revision at which it was read.
    pub revision: i64,
    /// By key.
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// By id.
    pub leases: BTreeMap<i64, Lease>,
}

/// What the Maintenance API answers for HashKV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// The hash over the records above the compact revision, up to the one asked for.
    pub hash: u32,
    /// The compact revision.
    pub compact_revision: i64,
}

impl Keyspace {
    /// Reads everything that `client` sees, at its current revision.
    ///
    /// # Panics
    /// Where etcd refuses.
    pub async fn read(client: &mut Client) -> Self {
        let revision = current_revision(client).await;
        Self::read_at(client, revision).await
    }

    /// Reads all keys at `revision`, and the leases of now.
    ///
    /// # Panics
    /// Where etcd refuses, as it does for a compacted revision.
    pub async fn read_at(client: &mut Client, revision: i64) -> Self {
        Self { revision, entries: read_entries(client, revision).await, leases: read_leases(client).await }
    }

    /// Fails with the first differences where `self` is not what `other` is.
    ///
    /// # Panics
    /// Where they differ: that is its purpose.
    pub fn assert_same(&self, other: &Self) {
        let mut differences = Vec::new();
        compare(
            "key",
            &self.entries,
            &other.entries,
            |key| String::from_utf8_lossy(key).into_owned(),
            &mut differences,
        );
        compare("lease", &self.leases, &other.leases, |id| format!("{id:x}"), &mut differences);
        if self.revision != other.revision {
            differences.push(format!("revision: {} against {}", self.revision, other.revision));
        }
        assert!(
            differences.is_empty(),
            "{} differences, among {} keys and {}:\n{}",
            differences.len(),
            self.entries.len(),
            other.entries.len(),
            differences[..differences.len().min(10)].join("\n")
        );
    }
}

fn compare<K: Ord, V: PartialEq + std::fmt::Debug>(
    what: &str,
    left: &BTreeMap<K, V>,
    right: &BTreeMap<K, V>,
    show: impl Fn(&K) -> String,
    differences: &mut Vec<String>,
) {
    for (key, value) in left {
        match right.get(key) {
            Some(other) if other == value => {}
            other => differences.push(format!("{what} {}: {value:?} against {other:?}", show(key))),
        }
    }
    for (key, value) in right.iter().filter(|(key, _)| !left.contains_key(key)) {
        differences.push(format!("{what} {}: none against {value:?}", show(key)));
    }
}

async fn read_entries(client: &mut Client, revision: i64) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    let mut from = vec![0];
    loop {
        let options = GetOptions::new()
            .with_from_key()
            .with_limit(PAGE)
            .with_revision(revision)
            .with_sort(SortTarget::Key, SortOrder::Ascend);
        let mut page = client.get(from, Some(options)).await.expect("a range read");
        let more = page.more();
        for kv in page.take_kvs() {
            let entry = Entry {
                create_revision: kv.create_revision(),
                mod_revision: kv.mod_revision(),
                version: kv.version(),
                lease: kv.lease(),
                value_len: kv.value().len(),
                value_sha256: Sha256::digest(kv.value()).into(),
            };
            entries.insert(kv.key().to_vec(), entry);
        }
        match entries.last_key_value() {
            Some((last, _)) if more => from = [last.as_slice(), &[0]].concat(),
            _ => return entries,
        }
    }
}

async fn read_leases(client: &mut Client) -> BTreeMap<i64, Lease> {
    let ids: Vec<i64> = client.leases().await.expect("the list of leases").leases().iter().map(|l| l.id()).collect();
    let mut leases = BTreeMap::new();
    for id in ids {
        let options = LeaseTimeToLiveOptions::new().with_keys();
        let answer = client.lease_time_to_live(id, Some(options)).await.expect("a lease's time to live");
        let mut keys = answer.keys().to_vec();
        keys.sort();
        leases.insert(id, Lease { granted_ttl: answer.granted_ttl(), keys });
    }
    leases
}

/// The revision of the newest write, by a linearizable read.
///
/// # Panics
/// Where etcd refuses.
pub async fn current_revision(client: &mut Client) -> i64 {
    let answer = client.get("etcdbr-revision", None).await.expect("a read");
    answer.header().expect("every answer has a header").revision()
}

/// HashKV of the member that `client` is connected to, at `revision` (0: the newest).
///
/// # Panics
/// Where etcd refuses.
pub async fn hash_kv(client: &mut Client, revision: i64) -> HashKv {
    let answer = client.hash_kv(revision).await.expect("HashKV");
    HashKv { hash: answer.hash(), compact_revision: answer.compact_version() }
}
