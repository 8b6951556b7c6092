//! The databases to measure with, kept from run to run: one freshly loaded, one that has been worn by use.
//!
//! Each is one snapshot file as etcd 3.5.1 streams it, trailer included. etcd's own `etcdutl` makes data directories
//! of it, so that every version serves the same pages in the same places.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use etcd_client::{Client, CompactionOptions, Txn, TxnOp};
use etcdbr_engine::bbolt::{BoltFile, check};
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::keyspace::current_revision;
use etcdbr_tests::load::Noise;
use tokio::task::JoinSet;

use crate::drain::drain;
use crate::leaves::scattered_leaves;
use crate::objects::Objects;

/// Part of the files' names: another generator makes other files.
const GENERATION: &str = "v1";
/// What the objects are made from.
pub(crate) const SEED: u64 = 20;
const TXN_OPS: usize = 128;
const TXN_BYTES: usize = 1 << 20;
const IN_FLIGHT: usize = 8;
/// What a key and its record take beside their bytes, and what a page loses at its end.
const RECORD_BYTES: u64 = 96;
const PAGE_FILL_PERCENT: u64 = 74;
/// A churned database has at least so many free pages of a hundred.
const FREE_PERCENT: u64 = 30;
/// Of a hundred objects, so many are written again in one round, and so many deleted.
const REWRITTEN_PERCENT: u64 = 50;
const DELETED_PERCENT: u64 = 3;
const ROUNDS: u64 = 4;
const QUOTA_BYTES: u64 = 16 << 30;
/// Trailer of a snapshot: the SHA-256 of what is before.
const TRAILER_BYTES: usize = 32;

/// How a database came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wear {
    /// Written once, in order.
    Fresh,
    /// Rewritten several times with compactions: a third of it free, leaves all over the file.
    Churned,
}

impl Wear {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Churned => "churned",
        }
    }
}

/// A database in a file.
#[derive(Debug, Clone)]
pub(crate) struct Dataset {
    /// How it came to be.
    pub(crate) wear: Wear,
    /// The snapshot file.
    pub(crate) snapshot: PathBuf,
    /// Bytes of the database.
    pub(crate) bytes: u64,
    size: u64,
}

impl Dataset {
    /// The database of about `size` bytes from `cache`, or made there.
    ///
    /// # Panics
    /// Where etcd cannot make it.
    pub(crate) async fn prepare(cache: &Path, size: u64, wear: Wear) -> Self {
        let snapshot = cache.join(format!("{}-{size}-{GENERATION}.db", wear.name()));
        if !snapshot.exists() {
            make_both(cache, size).await;
        }
        let bytes = snapshot.metadata().expect("it was made").len() - TRAILER_BYTES as u64;
        Self { wear, snapshot, bytes, size }
    }

    /// How many objects it was made of.
    pub(crate) fn keys(&self) -> u64 {
        keys_of(&Objects::new(SEED), self.size)
    }

    /// Makes `data_dir` of it, for etcd `version`, with that version's own tool.
    ///
    /// # Panics
    /// Where that fails.
    pub(crate) fn unpack(&self, version: EtcdVersion, data_dir: &Path) {
        let mut command = std::process::Command::new(version.dir().join("etcdutl"));
        command.args(["snapshot", "restore"]).arg(&self.snapshot).arg("--data-dir").arg(data_dir);
        let output = command.output().expect("etcdutl runs");
        assert!(output.status.success(), "etcdutl: {}", String::from_utf8_lossy(&output.stderr));
    }
}

async fn make_both(cache: &Path, size: u64) {
    let work = tempfile::Builder::new().prefix("making-").tempdir_in(cache).expect("the cache is writable");
    let data_dir = work.path().join("data");
    let etcd = Etcd::builder(EtcdVersion::V3_5_1).quota(QUOTA_BYTES).data_dir(&data_dir);
    // The default pauses 100 ms after every 1,000 records.
    let etcd = etcd.arg("--experimental-compaction-batch-limit=20000").start().await;
    let objects = Objects::new(SEED);
    let keys = keys_of(&objects, size);
    note(&format!("loading {keys} objects, about {} MB", size / 1_000_000));
    let client = etcd.client().await;
    write(&client, &objects, (0..keys).map(|i| Write::Put(i, 0))).await;
    save(&etcd, cache, work.path(), size, Wear::Fresh).await;
    for round in 1..=ROUNDS {
        churn(&client, &objects, keys, round).await;
    }
    save(&etcd, cache, work.path(), size, Wear::Churned).await;
}

/// Saves what `etcd` has under its final name, once it is known to be what it should be.
async fn save(etcd: &Etcd, cache: &Path, work: &Path, size: u64, wear: Wear) {
    let unfinished = work.join("snapshot");
    drain(&etcd.endpoint(), Some(&unfinished)).await;
    let bytes = std::fs::read(&unfinished).expect("it was written");
    let file = BoltFile::open(&bytes[..bytes.len() - TRAILER_BYTES]).expect("etcd's own database");
    let facts = check(&file).expect("etcd's own database is sound");
    let free = facts.free_pages * 100 / (facts.used_pages + facts.free_pages);
    let scattered = scattered_leaves(&bytes);
    note(&format!(
        "{}: {} MB, {free} % free pages, {scattered} % of leaves scattered",
        wear.name(),
        bytes.len() / 1_000_000
    ));
    if wear == Wear::Churned {
        assert!(free >= FREE_PERCENT, "only {free} % of the pages are free");
    }
    let path = cache.join(format!("{}-{size}-{GENERATION}.db", wear.name()));
    std::fs::rename(&unfinished, path).expect("a rename within the cache");
}

fn keys_of(objects: &Objects, size: u64) -> u64 {
    let mut bytes = 0;
    let fits = |i: &u64| {
        let record = objects.key(*i).len() + objects.value(*i, 0).len();
        bytes += record as u64 + RECORD_BYTES;
        bytes * 100 / PAGE_FILL_PERCENT < size
    };
    (0..).take_while(fits).count() as u64
}

/// One write.
#[derive(Debug, Clone, Copy)]
enum Write {
    Put(u64, u64),
    Delete(u64),
}

/// Half of the objects again, in no order, a few deleted and made again in a later round; then a compaction.
async fn churn(client: &Client, objects: &Objects, keys: u64, round: u64) {
    let mut noise = Noise::new(SEED + round);
    let one = move || {
        let i = noise.next_u64() % keys;
        if noise.next_u64() % 100 < DELETED_PERCENT { Write::Delete(i) } else { Write::Put(i, round) }
    };
    let writes = usize::try_from(keys * REWRITTEN_PERCENT / 100).expect("a size that fits memory");
    write(client, objects, std::iter::repeat_with(one).take(writes)).await;
    let mut client = client.clone();
    let revision = current_revision(&mut client).await;
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.expect("a compaction");
}

/// Sends `writes` in large transactions, several in flight; no transaction names a key twice.
async fn write(client: &Client, objects: &Objects, writes: impl Iterator<Item = Write>) {
    let mut flights = JoinSet::new();
    let (mut batch, mut keys, mut bytes) = (Vec::new(), HashSet::new(), 0);
    for write in writes {
        let (i, op) = match write {
            Write::Put(i, generation) => {
                let value = objects.value(i, generation);
                bytes += value.len();
                (i, TxnOp::put(objects.key(i), value, None))
            }
            Write::Delete(i) => (i, TxnOp::delete(objects.key(i), None)),
        };
        if !keys.insert(i) {
            continue;
        }
        batch.push(op);
        if batch.len() == TXN_OPS || bytes >= TXN_BYTES {
            send(client, &mut flights, std::mem::take(&mut batch)).await;
            keys.clear();
            bytes = 0;
        }
    }
    send(client, &mut flights, batch).await;
    flights.join_all().await;
}

async fn send(client: &Client, flights: &mut JoinSet<()>, batch: Vec<TxnOp>) {
    if flights.len() >= IN_FLIGHT {
        flights.join_next().await.expect("flights are under way").expect("a transaction succeeds");
    }
    let mut client = client.clone();
    flights.spawn(async move {
        client.txn(Txn::new().and_then(batch)).await.expect("a transaction");
    });
}

#[allow(clippy::print_stderr, reason = "it takes minutes, and whoever waits wants to know for what")]
fn note(line: &str) {
    eprintln!("bench: {line}");
}
