//! What most tests do: fill an etcd, back it up, restore it, and see that the new one is the old one and lives.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use etcd_client::{Client, CompactionOptions, PutOptions};
use tempfile::TempDir;

use crate::etcd::{Etcd, Seat, initial_cluster};
use crate::etcdbr::{Etcdbr, Outcome};
use crate::keyspace::{HashKv, Keyspace, hash_kv};
use crate::load::{Load, fill, mixed_history};
use crate::minio::Minio;

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

    /// A new bucket of a MinIO.
    pub async fn minio(minio: &Minio) -> Self {
        minio.create_bucket(BUCKET).await;
        Self::s3(&minio.endpoint(), minio.access_key(), minio.secret_key(), BUCKET)
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

    /// The restore of the latest backup for the member of `seats` at `own`, into `data_dir`.
    pub fn restore(&self, seats: &[Seat], own: usize, data_dir: &Path) -> Etcdbr {
        let seat = &seats[own];
        let run = self.command(&["restore", "--name", &seat.name, "--initial-cluster", &initial_cluster(seats)]);
        run.args(["--initial-advertise-peer-urls", &seat.peer_url(), "--data-dir"]).arg(data_dir)
    }
}

/// What an etcd held, to be held against another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Keys and leases.
    pub keyspace: Keyspace,
    /// HashKV at the same revision.
    pub hash: HashKv,
}

impl Picture {
    /// What `client` sees now.
    pub async fn of(client: &mut Client) -> Self {
        let keyspace = Keyspace::read(client).await;
        let hash = hash_kv(client, keyspace.revision).await;
        Self { keyspace, hash }
    }

    /// Fails unless `client` sees the same.
    ///
    /// # Panics
    /// Where it does not.
    pub async fn assert_seen_by(&self, client: &mut Client) {
        let seen = Self::of(client).await;
        self.keyspace.assert_same(&seen.keyspace);
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

/// Fails unless `outcome` is this exit code and says all of `words`.
///
/// # Panics
/// Where it is not.
pub fn assert_failed(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{}{}", outcome.stdout, outcome.stderr);
    outcome.assert_refused(words);
}
