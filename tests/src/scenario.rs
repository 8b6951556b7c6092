//! What most tests do: fill an etcd, back it up, restore it, and see that the new one is the old one and lives.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_client::{Client, CompactionOptions, DeleteOptions, PutOptions, Txn, TxnOp};
use etcdbr_engine::store::{LocalStore, ObjectStore};
use tempfile::TempDir;

use crate::accounts::{Accounts, ROOT};
use crate::database::Database;
use crate::etcd::{Etcd, EtcdBuilder, EtcdVersion, Seat, initial_cluster};
use crate::etcdbr::{Etcdbr, Outcome};
use crate::keyspace::{HashKv, Keyspace, current_revision, hash_kv};
use crate::load::{Load, fill, mixed_history};
use crate::minio::Minio;
use crate::s3::S3Server;

/// The bucket of archives in a MinIO.
pub const BUCKET: &str = "etcd-backup";

/// An archive as the command line names it, with a key, and a place for what is restored.
#[derive(Debug)]
pub struct Site {
    home: TempDir,
    flags: Vec<OsString>,
    env: Vec<(String, String)>,
}

impl Site {
    fn new(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let home = tempfile::Builder::new().prefix("etcdbr-site").tempdir().expect("a temporary directory");
        Etcdbr::new(["keygen", "--key-file"]).arg(home.path().join("key")).succeed();
        let flags = flags.iter().map(OsString::from).collect();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { home, flags, env }
    }

    /// A directory.
    pub fn local() -> Self {
        let mut site = Self::new(&["--storage-provider=Local", "--store-prefix=prod"], &[]);
        site.flags.extend(["--store-container".into(), site.home.path().join("archive").into()]);
        site
    }

    /// A store that speaks S3, with path-style keys of its own.
    pub fn s3(endpoint: &str, access_key: &str, secret_key: &str, bucket: &str) -> Self {
        let (endpoint, container) =
            (format!("--store-endpoint-override={endpoint}"), format!("--store-container={bucket}"));
        let flags = ["--storage-provider=S3", &endpoint, &container, "--store-prefix=prod"];
        Self::new(
            &flags,
            &[("AWS_ACCESS_KEY_ID", access_key), ("AWS_SECRET_ACCESS_KEY", secret_key), ("AWS_REGION", "us-east-1")],
        )
    }

    /// The bucket of an in-process S3.
    pub fn on(server: &S3Server) -> Self {
        Self::s3(server.endpoint(), server.access_key(), server.secret_key(), BUCKET)
    }

    /// A new bucket of a MinIO.
    pub async fn minio(minio: &Minio) -> Self {
        minio.create_bucket(BUCKET).await;
        Self::s3(&minio.endpoint(), minio.access_key(), minio.secret_key(), BUCKET)
    }

    /// The store of a site with a directory.
    ///
    /// # Panics
    /// Where it cannot be one.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        let dir = self.path("archive");
        Arc::new(LocalStore::new(dir.to_str().expect("a path of ours is text")).expect("a directory"))
    }

    /// A path beside the archive.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A command on this archive, without its key.
    pub fn unkeyed(&self, args: &[&str]) -> Etcdbr {
        let run = Etcdbr::new(args).args(&self.flags);
        self.env.iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    /// A command on this archive, with its key.
    pub fn command(&self, args: &[&str]) -> Etcdbr {
        self.unkeyed(args).arg("--encryption-key-file").arg(self.path("key"))
    }

    /// An encrypted full of `etcd`; its JSON.
    pub fn backup(&self, etcd: &Etcd) -> serde_json::Value {
        self.command(&["snapshot", "--once", "--output=json", "--endpoints", &etcd.endpoint()]).succeed().json()
    }

    /// An encrypted full of `etcd`, on which authentication is on; its JSON.
    pub fn backup_as_root(&self, etcd: &Etcd) -> serde_json::Value {
        let run = self.command(&["snapshot", "--once", "--output=json", "--endpoints", &etcd.endpoint()]);
        run.args(["--etcd-username", ROOT.0]).env("ETCDBR_ETCD_PASSWORD", ROOT.1).succeed().json()
    }

    /// The latest backup restored for a member alone; `version` is not started on it yet.
    pub fn restore_alone(&self, version: EtcdVersion, name: &str) -> Restored {
        let seat = Seat::new("m0");
        let dir = self.path(name);
        let json = self.restore(std::slice::from_ref(&seat), 0, &dir).arg("--output=json").succeed().json();
        let database = Database::in_dir(&dir);
        database.assert_sound();
        Restored { json, database, etcd: Etcd::builder(version).seat(seat).data_dir(&dir), dir }
    }

    /// The restore of the latest backup for the member of `seats` at `own`, into `data_dir`.
    pub fn restore(&self, seats: &[Seat], own: usize, data_dir: &Path) -> Etcdbr {
        let seat = &seats[own];
        let run = self.command(&["restore", "--name", &seat.name, "--initial-cluster", &initial_cluster(seats)]);
        run.args(["--initial-advertise-peer-urls", &seat.peer_url(), "--data-dir"]).arg(data_dir)
    }
}

/// A data directory that was restored for a member alone.
#[derive(Debug)]
pub struct Restored {
    /// What the restore told.
    pub json: serde_json::Value,
    /// The database as the restore left it.
    pub database: Database,
    /// The etcd that is to run on it.
    pub etcd: EtcdBuilder,
    /// Where it is.
    pub dir: PathBuf,
}

impl Restored {
    /// Fails unless the database, read without any etcd, is the one that was pictured.
    ///
    /// # Panics
    /// Where it is not.
    pub fn assert_is(&self, picture: &Picture) {
        assert_eq!(self.json["revision"], picture.keyspace.revision, "the revision that the restore tells");
        assert_eq!(self.database.revision(), picture.keyspace.revision, "the revision of the database");
        assert_eq!(self.database.floor(), picture.hash.compact_revision, "the compact revision of the database");
        let native = self.database.hash_kv(picture.keyspace.revision, picture.hash.compact_revision);
        assert_eq!(native, picture.hash, "HashKV computed from the database");
    }
}

/// What an etcd held, to be held against another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Keys and leases.
    pub keyspace: Keyspace,
    /// Users and roles.
    pub accounts: Accounts,
    /// HashKV at the same revision.
    pub hash: HashKv,
}

impl Picture {
    /// What `client` sees now.
    pub async fn of(client: &mut Client) -> Self {
        let keyspace = Keyspace::read(client).await;
        let hash = hash_kv(client, keyspace.revision).await;
        Self { keyspace, accounts: Accounts::read(client).await, hash }
    }

    /// Fails unless `client` sees the same.
    ///
    /// # Panics
    /// Where it does not.
    pub async fn assert_seen_by(&self, client: &mut Client) {
        let seen = Self::of(client).await;
        self.keyspace.assert_same(&seen.keyspace);
        assert_eq!(self.accounts, seen.accounts, "users and roles");
        assert_eq!(self.hash, seen.hash, "HashKV");
    }
}

/// A history with everything that a restore could lose: transactions, deletes, leases, overwritten values, a
/// compaction in the middle; about `keys` keys.
pub async fn write_history(client: &mut Client, keys: usize) {
    fill(client, &Load::small(keys)).await;
    mixed_history(client).await;
    let answer = client.put("/history/compacted", "here", None).await.expect("a put");
    let revision = answer.header().expect("every answer has a header").revision();
    let physical = Some(CompactionOptions::new().with_physical());
    client.compact(revision - 5, physical).await.expect("a compaction");
    let lease = client.lease_grant(7_200, None).await.expect("a lease").id();
    client.put("/history/leased", "x", Some(PutOptions::new().with_lease(lease))).await.expect("a put");
    client.delete("/history/compacted", None).await.expect("a delete");
    client.put("/history/last", "x", None).await.expect("a put");
}

/// The restored member does what a member does, and still knows it after a restart.
///
/// # Panics
/// Where it does not.
pub async fn assert_lives(etcd: &mut Etcd, before: &Picture) {
    let mut client = etcd.client().await;
    let last = before.keyspace.entries[&b"/history/last"[..]].clone();
    let answer = client.put("/history/last", "again", None).await.expect("a put");
    let revision = answer.header().expect("every answer has a header").revision();
    assert_eq!(revision, before.keyspace.revision + 1, "revisions go on");
    let kv = client.get("/history/last", None).await.expect("a read").kvs()[0].clone();
    assert_eq!((kv.version(), kv.create_revision()), (last.version + 1, last.create_revision), "versions go on");
    let leased = PutOptions::new().with_ignore_lease();
    client.put("/history/leased", "y", Some(leased)).await.expect("a put that keeps its lease");
    client.delete("/history/leased", None).await.expect("a delete");
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.expect("a compaction");
    client.defragment().await.expect("a defragment");
    let now = Picture::of(&mut client).await;
    etcd.restart().await;
    now.assert_seen_by(&mut etcd.client().await).await;
}

/// Puts each of `keys` once, in their order, whatever etcd has of it; those with a lease keep it. Two etcds of one
/// history that do the same are equal afterwards, in versions and create revisions above all: those are counted on from
/// what the server found when it started, which no hash tells.
///
/// # Panics
/// Where etcd refuses.
pub async fn put_every_key(client: &mut Client, keys: &BTreeSet<Vec<u8>>, value: &str) {
    const PUTS: usize = 100;
    let seen = Keyspace::read(client).await;
    let put = |key: &Vec<u8>| {
        let leased = seen.entries.get(key).is_some_and(|entry| entry.lease != 0);
        TxnOp::put(key.clone(), value, leased.then(|| PutOptions::new().with_ignore_lease()))
    };
    let ops: Vec<TxnOp> = keys.iter().map(put).collect();
    for ops in ops.chunks(PUTS) {
        client.txn(Txn::new().and_then(ops)).await.expect("a transaction");
    }
}

/// All of it is deleted, compacted away and defragmented: the tree stays sound, HashKV is ours. Answers what is left, for
/// the next start to serve.
///
/// # Panics
/// Where it is otherwise.
pub async fn end_of_all(client: &mut Client) -> Picture {
    client.delete("\0", Some(DeleteOptions::new().with_from_key())).await.expect("a delete");
    // Two revisions behind the tombstones: newer etcds keep those of the compact revision, and hash what is above it.
    client.put("/after", "compacted", None).await.expect("a put");
    let revision = current_revision(client).await;
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.expect("a compaction");
    client.put("/after", "not compacted", None).await.expect("a put");
    let database = Database::snapshot(client).await;
    database.assert_sound();
    assert_eq!(database.records().len(), 2, "compaction leaves the last put and this one");
    let hash = hash_kv(client, revision + 1).await;
    assert_eq!(database.hash_kv(revision + 1, hash.compact_revision), hash, "HashKV");
    assert_eq!(hash.compact_revision, revision, "what was compacted");
    client.defragment().await.expect("a defragment");
    Picture::of(client).await
}

/// Fails unless `outcome` is this exit code and says all of `words`.
///
/// # Panics
/// Where it is not.
pub fn assert_failed(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{}{}", outcome.stdout, outcome.stderr);
    outcome.assert_refused(words);
}
