//! `etcdbr export`: any backup as a plain snapshot that etcd's own tools take, or no file at all.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use etcdbr_engine::archive::{Archive, Keyring, KeyringSource, WriteLimits};
use etcdbr_engine::store::LocalStore;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat, initial_cluster};
use etcdbr_tests::etcdbr::Etcdbr;
use etcdbr_tests::load::Noise;
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Picture, Site, assert_failed, assert_lives, write_history};
use etcdbr_tests::tiny;
use sha2::{Digest, Sha256};

fn export(site: &Site, to: &Path) -> Etcdbr {
    site.command(&["export", "--allow-plaintext", "--output=json"]).arg("--to").arg(to)
}

/// The archive of a site, written to from here.
fn archive(site: &Site) -> Archive {
    let (keyring, _) = Keyring::load(&KeyringSource::File(site.path("key"))).unwrap();
    tiny::archive(Arc::new(LocalStore::new(site.path("archive")).unwrap()), keyring)
}

fn etcdutl(version: EtcdVersion, args: &[&str]) {
    let output = Command::new(version.dir().join("etcdutl")).args(args).output().unwrap();
    assert!(output.status.success(), "{version:?} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn etcds_own_tools_of_every_version_restore_it() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    write_history(&mut client, 300).await;
    let picture = Picture::of(&mut client).await;
    site.backup(&source);
    drop(source);
    let file = site.path("snapshot.db");
    let told = export(&site, &file).succeed().json();

    let bytes = std::fs::read(&file).unwrap();
    let (image, sha256) = bytes.split_at(bytes.len() - 32);
    assert_eq!(Sha256::digest(image)[..], *sha256);
    assert_eq!((image.len() % 512, &told["file_bytes"]), (0, &bytes.len().into()));
    let found = std::fs::metadata(&file).unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.nlink()), (0o600, 1));
    assert_eq!(told["revision"], picture.keyspace.revision);

    for version in [EtcdVersion::V3_5, EtcdVersion::V3_6, EtcdVersion::V3_7] {
        let seat = Seat::new("m0");
        let dir = site.path(&format!("{version:?}"));
        let copy = site.path("copy.db");
        // The tools write into what they read.
        std::fs::copy(&file, &copy).unwrap();
        etcdutl(version, &["snapshot", "status", copy.to_str().unwrap()]);
        std::fs::copy(&file, &copy).unwrap();
        let cluster = initial_cluster(std::slice::from_ref(&seat));
        etcdutl(
            version,
            &[
                "snapshot",
                "restore",
                copy.to_str().unwrap(),
                "--data-dir",
                dir.to_str().unwrap(),
                "--name=m0",
                &format!("--initial-cluster={cluster}"),
                &format!("--initial-advertise-peer-urls={}", seat.peer_url()),
            ],
        );
        let mut etcd = Etcd::builder(version).seat(seat).data_dir(&dir).start().await;
        picture.assert_seen_by(&mut etcd.client().await).await;
        assert_lives(&mut etcd, &picture).await;
    }
}

#[tokio::test]
async fn what_was_encrypted_leaves_in_the_clear_only_when_that_is_said() {
    let site = Site::local();
    let image = tiny::image();
    let name =
        tiny::write_full(&archive(&site), WriteLimits::default(), tiny::REVISION, (&image, &image)).await.unwrap();
    let file = site.path("snapshot.db");
    let run = || site.command(&["export"]).arg("--to").arg(&file);
    assert_failed(&run().run(), 4, &[&name.to_string(), "--allow-plaintext"]);
    assert!(!file.exists());
    run().arg("--allow-plaintext").succeed();
    assert_eq!(std::fs::read(&file).unwrap(), [&image[..], &Sha256::digest(&image)].concat());
    // What was never encrypted needs no leave.
    let open = Site::local();
    let store = Arc::new(LocalStore::new(open.path("archive")).unwrap());
    let plain = tiny::archive(store, Keyring::default());
    tiny::write_full(&plain, WriteLimits::default(), tiny::REVISION, (&image, &image)).await.unwrap();
    open.unkeyed(&["export"]).arg("--to").arg(open.path("snapshot.db")).succeed();
}

#[tokio::test]
async fn a_file_that_exists_is_not_replaced() {
    let site = Site::local();
    let image = tiny::image();
    tiny::write_full(&archive(&site), WriteLimits::default(), tiny::REVISION, (&image, &image)).await.unwrap();
    let file = site.path("snapshot.db");
    std::fs::write(&file, "precious").unwrap();
    assert_failed(&export(&site, &file).run(), 4, &[file.to_str().unwrap(), "exists already"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert_failed(&export(&site, &site.path("absent/snapshot.db")).run(), 9, &["absent"]);
    assert_eq!(others(&site), Vec::<PathBuf>::new());
}

/// What lies beside archive, key and a file of the test's own.
fn others(site: &Site) -> Vec<PathBuf> {
    let known = ["archive", "key", "snapshot.db"].map(|name| site.path(name));
    let all = std::fs::read_dir(site.path("")).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| !known.contains(path)).collect()
}

#[tokio::test]
async fn a_backup_that_is_not_sound_makes_no_file() {
    let site = Site::local();
    let (image, other) = (tiny::image(), tiny::image_with(&[b'y'; 1500]));
    let file = site.path("exported.db");
    // Every frame is genuine, and the whole is not what was backed up.
    let name = tiny::write_full(&archive(&site), tiny::LIMITS, tiny::REVISION, (&image, &other)).await.unwrap();
    assert_failed(&export(&site, &file).run(), 6, &[&name.to_string(), "SHA-256 of its footer"]);
    // Genuine, and no database.
    let noise = Noise::new(3).bytes(40_960);
    let name = tiny::write_full(&archive(&site), tiny::LIMITS, tiny::REVISION, (&noise, &noise)).await.unwrap();
    let named = export(&site, &file).args(["--backup", &name.to_string()]);
    assert_failed(&named.run(), 6, &[&name.to_string()]);
    // Sound, and then damaged.
    let name = tiny::write_full(&archive(&site), tiny::LIMITS, tiny::REVISION, (&image, &image)).await.unwrap();
    let object = site.path("archive/prod/etcdbr/v1").join(name.to_string());
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let named = export(&site, &file).args(["--backup", &name.to_string()]);
    assert_failed(&named.run(), 6, &[&name.to_string()]);
    assert_eq!(others(&site), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_export_leaves_is_removed_by_the_next() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    // More than one read fetches whole.
    for i in 0..5 {
        client.put(format!("noise-{i}"), Noise::new(i).bytes(1 << 20), None).await.unwrap();
    }
    site.backup(&source);
    let file = site.path("exported.db");
    // The read that follows those of the footer and the header never comes to its end.
    let before = server.count(Operation::Get);
    server.fail_nth(Operation::Get, 3, Act::Silence);
    let mut running = export(&site, &file).spawn();
    while server.count(Operation::Get) < before + 3 || others(&site).is_empty() {
        assert!(!running.ended(), "the export has ended: {}", running.said());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    running.kill9();
    assert_eq!(running.wait().code, None);
    assert_eq!(others(&site).len(), 1);
    export(&site, &file).succeed();
    assert_eq!(others(&site), [file]);
}
