//! `etcdbr status` gives the figures of etcd's own `snapshot status`, and changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use etcd_client::CompactionOptions;
use etcdbr_engine::archive::{Keyring, KeyringSource, WriteLimits};
use etcdbr_engine::store::LocalStore;
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::etcdbr::Etcdbr;
use etcdbr_tests::keyspace::Keyspace;
use etcdbr_tests::scenario::{Site, assert_failed, write_history};
use etcdbr_tests::tiny;
use serde_json::Value;
use sha2::{Digest, Sha256};

const FIGURES: [&str; 4] = ["hash", "revision", "totalKey", "totalSize"];

/// What the official tool of `version` says of a copy of `file`: it writes into what it reads.
fn official(version: EtcdVersion, file: &Path) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.db");
    std::fs::copy(file, &copy).unwrap();
    let tool = if version == EtcdVersion::V3_4 { "etcdctl" } else { "etcdutl" };
    let output = Command::new(version.dir().join(tool))
        .args(["snapshot", "status", "--write-out=json"])
        .arg(copy)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn status(file: &Path) -> Value {
    Etcdbr::new(["status", "--output=json"]).arg(file).succeed().json()
}

fn assert_same_figures(ours: &Value, theirs: &Value) {
    for figure in FIGURES {
        assert_eq!(ours[figure], theirs[figure], "{figure}: {ours} and {theirs}");
    }
    let version = theirs.get("version").and_then(Value::as_str).unwrap_or_default();
    assert_eq!(ours["version"], version);
}

fn save(etcd: &Etcd) -> PathBuf {
    let file = etcd.home().join("snapshot.db");
    etcd.etcdctl(&["snapshot", "save", file.to_str().unwrap()]);
    file
}

#[tokio::test]
async fn the_figures_are_those_of_the_tool_of_the_same_version() {
    for version in EtcdVersion::MINORS {
        let mut source = Etcd::start(version).await;
        let mut client = source.client().await;
        write_history(&mut client, 200).await;
        let keyspace = Keyspace::read(&mut client).await;
        let file = save(&source);
        let before = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().mtime_nsec());

        let ours = status(&file);
        assert_same_figures(&ours, &official(version, &file));
        assert_eq!(
            (ours["live_keys"].as_u64(), ours["sha256_checked"].as_bool()),
            (Some(keyspace.entries.len() as u64), Some(true))
        );
        assert_eq!(ours["start_revision"], keyspace.revision);
        let told = Etcdbr::new(["status"]).arg(&file).succeed().stdout;
        assert!(
            told.contains(&format!("{:x}", ours["hash"].as_u64().unwrap())) && told.contains("SHA-256 is right"),
            "{told}"
        );
        let after = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().mtime_nsec());
        assert!(before == after, "the file was changed");

        let db = source.data_dir().join("member/snap/db");
        assert_failed(&Etcdbr::new(["status"]).arg(&db).run(), 4, &["an etcd is running"]);
        source.stop();
        let ours = status(&db);
        assert_same_figures(&ours, &official(version, &db));
        assert_eq!(ours["sha256_checked"], false);
    }
}

#[tokio::test]
async fn a_backup_has_the_figures_of_its_export() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_6).await;
    write_history(&mut source.client().await, 200).await;
    let name = site.backup(&source)["backup"].as_str().unwrap().to_owned();
    let of_backup = site.command(&["status", "--output=json", "--backup=latest"]).succeed().json();
    assert_eq!(of_backup["backup"], name);
    let file = site.path("exported.db");
    site.command(&["export", "--allow-plaintext", "--backup", &name]).arg("--to").arg(&file).succeed();
    assert_same_figures(&of_backup, &official(EtcdVersion::V3_6, &file));
    let none = site.command(&["status", "--output=json", "--backup=latest", "--scratch-dir=/nonexistent"]).run();
    assert_failed(&none, 9, &["/nonexistent"]);
    assert_failed(&site.unkeyed(&["status", "--backup", &name]).run(), 5, &[&name]);
}

/// A compaction at a tombstone takes the last record with it; the server knows where it was, the last record does not.
#[tokio::test]
async fn the_revision_that_an_etcd_starts_at_may_be_beyond_the_last_record() {
    let source = Etcd::start(EtcdVersion::V3_4).await;
    let mut client = source.client().await;
    client.put("kept", "x", None).await.unwrap();
    client.put("gone", "x", None).await.unwrap();
    let answer = client.delete("gone", None).await.unwrap();
    let revision = answer.header().unwrap().revision();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
    let file = save(&source);
    let ours = status(&file);
    assert_same_figures(&ours, &official(EtcdVersion::V3_4, &file));
    assert!(ours["revision"].as_i64().unwrap() < revision, "{ours}");
    assert_eq!((&ours["start_revision"], &ours["compact_revision"]), (&revision.into(), &revision.into()));
    let told = Etcdbr::new(["status"]).arg(&file).succeed().stdout;
    assert!(told.contains(&format!("an etcd starts at {revision}")), "{told}");
}

/// The small image as a file, followed by this.
fn plain(dir: &Path, tail: &[u8]) -> PathBuf {
    let file = dir.join("snapshot.db");
    std::fs::write(&file, [&tiny::image(), tail].concat()).unwrap();
    file
}

#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sha256 = Sha256::digest(tiny::image()).to_vec();
    let run = |file: &Path| Etcdbr::new(["status"]).arg(file).run();
    assert_eq!(run(&plain(dir.path(), &sha256)).code, Some(0));
    assert_eq!(run(&plain(dir.path(), b"")).code, Some(0));

    let mut wrong = sha256.clone();
    wrong[31] ^= 1;
    let file = plain(dir.path(), &wrong);
    assert_failed(&run(&file), 6, &[file.to_str().unwrap(), "SHA-256"]);
    for tail in [&sha256[..31], &[&sha256[..], b"x"].concat()] {
        assert_failed(&run(&plain(dir.path(), tail)), 6, &["snapshot.db"]);
    }
    // Without a SHA-256 only the tree can tell.
    let mut image = tiny::image();
    image.truncate(image.len() - 4096);
    std::fs::write(&file, &image).unwrap();
    assert_failed(&run(&file), 6, &["snapshot.db"]);
    for (bytes, words) in [(&b""[..], "empty"), (b"<html>", "HTML"), (&[0; 8192], "no etcd database")] {
        std::fs::write(&file, bytes).unwrap();
        assert_failed(&run(&file), 6, &["snapshot.db", words]);
    }
    assert_failed(&run(&dir.path().join("absent.db")), 3, &["absent.db"]);
    assert_failed(&Etcdbr::new(["status"]).run(), 2, &["--backup latest"]);
    let both = Etcdbr::new(["status", "--backup=latest"]).arg(&file).run();
    assert_eq!(both.code, Some(2), "{}", both.stderr);
}

/// Who adds up what a page holds must not count it twice, nor trust a backup that is not what its footer says.
#[tokio::test]
async fn a_backup_with_another_image_than_it_promised_has_no_status() {
    let site = Site::local();
    let (keyring, _) = Keyring::load(&KeyringSource::File(site.path("key"))).unwrap();
    let archive = tiny::archive(Arc::new(LocalStore::new(site.path("archive")).unwrap()), keyring);
    let (image, other) = (tiny::image(), tiny::image_with(&[b'y'; 1500]));
    let name = tiny::write_full(&archive, WriteLimits::default(), tiny::REVISION, (&image, &other)).await.unwrap();
    assert_failed(&site.command(&["status", "--backup=latest"]).run(), 6, &[&name.to_string(), "SHA-256"]);
}
