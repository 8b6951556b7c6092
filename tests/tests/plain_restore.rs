//! Plain snapshots: those of every etcd restore, from a file and from a URL; what is not right is refused, by name, and
//! leaves nothing behind.

use std::path::{Path, PathBuf};

use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat, initial_cluster};
use etcdbr_tests::etcdbr::{Etcdbr, Outcome};
use etcdbr_tests::file_server::{Act, FileServer, SECRET};
use etcdbr_tests::pages::{BRANCH, LEAF, Pages};
use etcdbr_tests::scenario::{Picture, assert_failed, assert_lives, write_history};
use etcdbr_tests::tls::TestTls;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A snapshot of a small etcd, as `etcdctl snapshot save` writes it, and a place beside it.
struct Saved {
    dir: TempDir,
    source: Etcd,
    picture: Picture,
}

impl Saved {
    async fn of(version: EtcdVersion, keys: usize) -> Self {
        let source = Etcd::start(version).await;
        let mut client = source.client().await;
        write_history(&mut client, keys).await;
        let picture = Picture::of(&mut client).await;
        let dir = tempfile::Builder::new().prefix("etcdbr-plain").tempdir().unwrap();
        source.etcdctl(&["snapshot", "save", dir.path().join("snapshot.db").to_str().unwrap()]);
        Self { dir, source, picture }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn snapshot(&self) -> PathBuf {
        self.path("snapshot.db")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.snapshot()).unwrap()
    }

    /// Writes a changed snapshot; its path.
    fn changed(&self, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = self.bytes();
        change(&mut bytes);
        let path = self.path("changed.db");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Fails unless a restore of `snapshot` fails with this exit code and these words, and leaves no trace.
    fn assert_refused(&self, snapshot: &Path, more: &[&str], code: i32, words: &[&str]) {
        let before = self.names();
        let target = self.path("target");
        assert_failed(&restore(snapshot, &Seat::new("m0"), &target).args(more).run(), code, words);
        assert_eq!(self.names(), before);
    }

    fn names(&self) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    }
}

fn restore(snapshot: &Path, seat: &Seat, target: &Path) -> Etcdbr {
    member(Etcdbr::new(["restore", "--snapshot"]).arg(snapshot), seat, target)
}

fn member(run: Etcdbr, seat: &Seat, target: &Path) -> Etcdbr {
    let cluster = initial_cluster(std::slice::from_ref(seat));
    run.args(["--name", &seat.name, "--initial-cluster", &cluster, "--data-dir"]).arg(target)
}

/// No output shows what the URL's query holds.
fn discreet(outcome: Outcome) -> Outcome {
    assert!(!outcome.stdout.contains(SECRET) && !outcome.stderr.contains(SECRET), "{outcome:?}");
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_every_version_restore_from_a_file_and_from_a_url() {
    for version in EtcdVersion::MINORS {
        let saved = Saved::of(version, 500).await;
        let before = (saved.bytes(), saved.snapshot().metadata().unwrap().modified().unwrap());
        let (server, seat) = (FileServer::start(saved.bytes()).await, Seat::new("m0"));
        let (from_file, from_url) = (saved.path("from-file"), saved.path("from-url"));
        let told = restore(&saved.snapshot(), &seat, &from_file).succeed();
        assert!(told.stdout.contains("proven: SHA-256 at the snapshot's end, tree of the database"), "{}", told.stdout);
        let url = Etcdbr::new(["restore", "--output=json"]).env("ETCDBR_SNAPSHOT", server.url());
        let told = discreet(member(url, &seat, &from_url).succeed()).json();
        assert_eq!(told["proof"]["integrity"], "sha256-trailer", "{told}");
        assert_eq!((&told["proof"]["tree"], &told["proof"]["hashkv"]), (&"sound".into(), &serde_json::Value::Null));
        assert_eq!(told["revision"], saved.picture.keyspace.revision, "{told}");
        for target in [from_file, from_url] {
            let mut etcd = Etcd::builder(version).seat(seat.clone()).data_dir(&target).start().await;
            saved.picture.assert_seen_by(&mut etcd.client().await).await;
            assert_lives(&mut etcd, &saved.picture).await;
        }
        let after = (saved.bytes(), saved.snapshot().metadata().unwrap().modified().unwrap());
        assert!(before == after, "the snapshot was touched");
    }
}

#[tokio::test]
async fn a_file_copied_from_a_data_directory_restores_only_when_told_to() {
    let mut saved = Saved::of(EtcdVersion::V3_5, 300).await;
    let db = saved.source.data_dir().join("member/snap/db");
    saved.assert_refused(&db, &["--skip-hash-check"], 4, &["an etcd is running on", "snapshot save"]);
    saved.source.stop();
    let copy = saved.path("copy.db");
    std::fs::copy(&db, &copy).unwrap();
    saved.assert_refused(&copy, &[], 4, &["copy.db", "no SHA-256", "--skip-hash-check"]);
    let (seat, target) = (Seat::new("m0"), saved.path("target"));
    let told = restore(&copy, &seat, &target).args(["--skip-hash-check"]).succeed().stdout;
    for words in ["proven: tree of the database", "NOT PROVEN (--skip-hash-check)"] {
        assert!(told.contains(words), "{told}");
    }
    let etcd = Etcd::builder(EtcdVersion::V3_5).seat(seat).data_dir(&target).start().await;
    saved.picture.assert_seen_by(&mut etcd.client().await).await;
}

#[tokio::test]
async fn a_trailer_that_is_wrong_missing_or_short() {
    let saved = Saved::of(EtcdVersion::V3_6, 50).await;
    let whole = saved.bytes().len();
    let wrong = ["changed.db", "SHA-256 at its end is not that of its contents"];
    let changed = saved.changed(|bytes| bytes[whole - 1] ^= 1);
    saved.assert_refused(&changed, &[], 6, &wrong);
    // A byte of a free page or of a value: no check of the tree would see it.
    let changed = saved.changed(|bytes| bytes[whole - 33] ^= 1);
    saved.assert_refused(&changed, &[], 6, &wrong);
    let changed = saved.changed(|bytes| bytes.truncate(whole - 32));
    saved.assert_refused(&changed, &[], 4, &["changed.db", "no SHA-256", "--skip-hash-check"]);
    for cut in [1, 31, 33, 100] {
        let changed = saved.changed(|bytes| bytes.truncate(whole - cut));
        saved.assert_refused(&changed, &[], 6, &["changed.db", "cut short"]);
    }
    // Whole pages are missing, and a SHA-256 of what is left is in its place.
    let changed = saved.changed(|bytes| {
        bytes.truncate(whole - 32 - 4096);
        seal(bytes);
    });
    saved.assert_refused(&changed, &[], 6, &["cut short"]);
    saved.assert_refused(&changed, &["--skip-hash-check"], 6, &["cut short"]);
    let changed = saved.changed(|bytes| bytes.clear());
    saved.assert_refused(&changed, &["--skip-hash-check"], 6, &["empty"]);
    // The wrong one does no harm to those who do not look at it.
    let changed = saved.changed(|bytes| bytes[whole - 1] ^= 1);
    let told = restore(&changed, &Seat::new("m0"), &saved.path("target")).args(["--skip-hash-check"]).succeed();
    assert!(told.stdout.contains("NOT PROVEN (--skip-hash-check)"), "{}", told.stdout);
}

/// Puts the SHA-256 of `image` behind it.
fn seal(image: &mut Vec<u8>) {
    let digest = Sha256::digest(&*image);
    image.extend_from_slice(&digest);
}

/// Each with the SHA-256 that it should have: what refuses it is the check of the tree.
#[tokio::test]
async fn a_tree_that_is_damaged() {
    let saved = Saved::of(EtcdVersion::V3_5, 600).await;
    type Damage = fn(&mut Pages<'_>);
    let damages: [(Damage, &str); 4] = [
        (|pages| pages.link_to_itself(BRANCH), "referred to twice"),
        (|pages| pages.reach_outside(LEAF), "element outside itself"),
        (|pages| pages.lower_a_key(LEAF), "out of order"),
        (|pages| pages.leave_one(BRANCH), "less than two children"),
    ];
    for (damage, words) in damages {
        let changed = saved.changed(|bytes| {
            bytes.truncate(bytes.len() - 32);
            damage(&mut Pages::of(bytes));
            seal(bytes);
        });
        saved.assert_refused(&changed, &[], 6, &["changed.db", words]);
    }
    // And the page editor does what it says: an untouched image passes.
    let changed = saved.changed(|bytes| {
        bytes.truncate(bytes.len() - 32);
        seal(bytes);
    });
    restore(&changed, &Seat::new("m0"), &saved.path("target")).succeed();
}

#[tokio::test]
async fn what_is_no_snapshot() {
    let saved = Saved::of(EtcdVersion::V3_5, 10).await;
    let absent = saved.path("absent.db");
    saved.assert_refused(&absent, &[], 3, &["there is no file", "absent.db"]);
    saved.assert_refused(saved.dir.path(), &[], 2, &["is a directory"]);
    saved.assert_refused(Path::new("s3://bucket/key"), &[], 2, &["--snapshot", "s3://"]);
    saved.assert_refused(Path::new(""), &[], 2, &["--snapshot", "empty"]);
    let lineage = "1763724000000-00000000cafe0001-0badf00d";
    saved.assert_refused(&saved.snapshot(), &["--lineage", lineage], 2, &["--lineage", "--snapshot"]);
    let run = member(Etcdbr::new(["restore", "--skip-hash-check"]), &Seat::new("m0"), &saved.path("target"));
    assert_failed(&run.run(), 2, &["--skip-hash-check is given without --snapshot"]);
    for (bytes, words) in [
        (b"<html>It is gone</html>".as_slice(), "HTML"),
        (b"\x1f\x8b\x08\0compressed", "gzip -d"),
        (b"\x89ETCDBR\n\0\x01", "--backup"),
    ] {
        let changed = saved.changed(|changed| *changed = bytes.to_vec());
        saved.assert_refused(&changed, &[], 6, &["changed.db", words]);
    }
    let file_url = format!("file://{}", saved.snapshot().display());
    restore(Path::new(&file_url), &Seat::new("m0"), &saved.path("target")).succeed();
}

/// What a server does wrong ends in an error of its own, and the target does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails() {
    let saved = Saved::of(EtcdVersion::V3_5, 600).await;
    let bytes = saved.bytes();
    // A second range, so that something is on the disk already.
    let large = [bytes.clone(), vec![0; 9 << 20]].concat();
    let mut other = large.clone();
    other[5_000_000] ^= 1;
    let expired = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
    let page = "<!DOCTYPE html><title>Sign in</title>";
    for (nth, act, code, words) in [
        (1, Act::Answer(200, page.into()), 6, &["HTML"][..]),
        (1, Act::Answer(403, expired.into()), 8, &["the URL expired", "etcdbr presign"]),
        (2, Act::Answer(403, expired.into()), 8, &["the URL expired"]),
        (1, Act::Answer(404, String::new()), 3, &["no such file"]),
        (2, Act::Answer(404, String::new()), 3, &["no such file"]),
        (2, Act::Replace(other.into()), 6, &["changed while it was downloaded"]),
        (2, Act::Answer(503, String::new()), 7, &["503"]),
        (1, Act::Redirect("ftp://elsewhere".into()), 2, &["redirects"]),
    ] {
        let server = FileServer::start(large.clone()).await;
        server.fail_from(nth, act);
        let url = format!("{}&X-Amz-Date=20260102T030405Z&X-Amz-Expires=60", server.url());
        let before = saved.names();
        let outcome = discreet(restore(Path::new(&url), &Seat::new("m0"), &saved.path("target")).run());
        let named = format!("{}/backups/snapshot.db?…", server.origin());
        assert_failed(&outcome, code, &[words, &[named.as_str()]].concat());
        assert_eq!(saved.names(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_every_manner_restores() {
    let saved = Saved::of(EtcdVersion::V3_5, 600).await;
    let tls = TestTls::generate();
    let plain = FileServer::start(saved.bytes()).await;
    plain.fail_nth(1, Act::CutBody(100_000));
    let without_ranges = FileServer::start(saved.bytes()).await;
    without_ranges.manner(|manner| (manner.ranges, manner.etag, manner.last_modified) = (false, "", false));
    without_ranges.fail_nth(1, Act::CutBody(200_000));
    let secure = FileServer::start_tls(saved.bytes(), &tls).await;
    for (number, server) in [plain, without_ranges, secure].iter().enumerate() {
        let (seat, target) = (Seat::new("m0"), saved.path(&format!("target-{number}")));
        // What the machine knows of an archive, and cannot use, is no hindrance.
        let run = restore(Path::new(&server.url()), &seat, &target)
            .env("ETCDBR_STORAGE_PROVIDER", "S3")
            .env("ETCDBR_STORE_CONTAINER", "no-such-bucket")
            .env("ETCDBR_ENCRYPTION_KEY_FILE", "/no/such/key");
        discreet(run.arg("--store-cacert").arg(tls.ca()).succeed());
        let etcd = Etcd::builder(EtcdVersion::V3_5).seat(seat).data_dir(&target).start().await;
        saved.picture.assert_seen_by(&mut etcd.client().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_from_one_plain_snapshot_form_a_cluster() {
    let saved = Saved::of(EtcdVersion::V3_6, 200).await;
    let server = FileServer::start(saved.bytes()).await;
    let seats = Seat::several(3);
    let cluster = initial_cluster(&seats);
    let run = |own: usize| {
        let run = Etcdbr::new(["restore", "--initial-cluster", &cluster, "--name", &seats[own].name, "--data-dir"]);
        run.arg(saved.path(&seats[own].name)).env("ETCDBR_SNAPSHOT", server.url())
    };
    let plan = discreet(run(0).arg("--dry-run").succeed()).stdout;
    assert!(plan.contains("with the URL in ETCDBR_SNAPSHOT") && plan.matches("etcdbr restore --data-dir").count() == 3);
    assert!(!saved.path("m0").exists(), "{plan}");
    let dirs: Vec<_> = (0..3)
        .map(|own| {
            discreet(run(own).succeed());
            saved.path(&seats[own].name)
        })
        .collect();
    let cluster = EtcdCluster::start_restored(EtcdVersion::V3_6, seats, &dirs).await;
    for member in &cluster.members {
        saved.picture.assert_seen_by(&mut member.client().await).await;
    }
    // A file is named on every line.
    let file = restore(&saved.snapshot(), &Seat::new("m0"), &saved.path("new")).arg("--dry-run").succeed().stdout;
    assert!(file.contains("reads     a file"), "{file}");
}
