//! A disk that takes no more, and a process that is killed while it writes: the target is as it was, or whole.
//!
//! The kernel refuses in two ways here: a limit on the size of files works everywhere and for everybody; a small file
//! system of its own is a disk that is really full, where mounting is allowed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcdbr_engine::archive::{Keyring, KeyringSource, WriteLimits};
use etcdbr_engine::store::LocalStore;
use etcdbr_tests::etcdbr::{Etcdbr, Running};
use etcdbr_tests::fake_etcd::{FakeEtcd, Script};
use etcdbr_tests::load::Noise;
use etcdbr_tests::scenario::{Site, assert_failed};
use etcdbr_tests::tiny;
use etcdbr_tests::tmpfs::Tmpfs;

/// Bytes of the image of [`site`], about.
const IMAGE_BYTES: u64 = 80_000;

/// An archive with a backup of some pages.
async fn site() -> Site {
    let site = Site::local();
    let (keyring, _) = Keyring::load(&KeyringSource::File(site.path("key"))).unwrap();
    let archive = tiny::archive(Arc::new(LocalStore::new(site.path("archive")).unwrap()), keyring);
    let image = tiny::image_with(&Noise::new(1).bytes(12_000));
    assert!((IMAGE_BYTES..IMAGE_BYTES * 5 / 4).contains(&(image.len() as u64)), "{}", image.len());
    tiny::write_full(&archive, WriteLimits::default(), tiny::REVISION, (&image, &image)).await.unwrap();
    site
}

fn restore(site: &Site, data_dir: &Path) -> Etcdbr {
    site.command(&["restore"]).arg("--data-dir").arg(data_dir)
}

/// Everything under `dir`, with its mode.
fn picture(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mut all = vec![(dir.to_owned(), std::fs::metadata(dir).unwrap().permissions().mode())];
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        all.extend(picture(&entry.unwrap().path()));
    }
    all.sort();
    all
}

fn is_whole(data_dir: &Path) -> bool {
    ["snap/db", "snap/0000000000000001-0000000000000001.snap", "wal/0000000000000000-0000000000000000.wal"]
        .iter()
        .all(|file| data_dir.join("member").join(file).exists())
}

#[tokio::test]
async fn a_restore_that_the_disk_refuses_leaves_the_target_as_it_was() {
    let site = site().await;
    std::fs::create_dir_all(site.path("target/existing/lost+found")).unwrap();
    std::fs::set_permissions(site.path("target/existing"), Permissions::from_mode(0o750)).unwrap();
    let before = picture(&site.path("target"));
    for data_dir in ["target/existing", "target/absent", "target/parents/are/absent"].map(|name| site.path(name)) {
        // In the middle of the image; and where the WAL is given its 64 MB.
        for (largest, file) in [(IMAGE_BYTES / 2, "snap/db"), (8 << 20, ".wal")] {
            let outcome = restore(&site, &data_dir).largest_file(largest).run();
            assert_failed(&outcome, 9, &[file, "too large"]);
            assert_eq!(picture(&site.path("target")), before, "{} up to {largest}", data_dir.display());
        }
        restore(&site, &data_dir).largest_file(80 << 20).succeed();
        assert!(is_whole(&data_dir));
        std::fs::remove_dir_all(data_dir.join("member")).unwrap();
        for made in ["target/absent", "target/parents"] {
            let _ = std::fs::remove_dir_all(site.path(made));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_the_disk_refuses_is_none() {
    for (image_bytes, largest) in [(256 << 10, 64 << 10), (24 << 20, 4 << 20), (24 << 20, 12 << 20)] {
        let site = Site::local();
        let image = Bytes::from(Noise::new(1).bytes(image_bytes));
        let etcd = FakeEtcd::start(Script { image, ..Script::default() }).await;
        let run = || site.command(&["snapshot", "--once", "--min-chunk-size=5MiB", "--endpoints", &etcd.endpoint]);
        assert_failed(&run().largest_file(largest).run(), 9, &["archive/prod/etcdbr/v1/", "too large"]);
        assert_eq!(std::fs::read_dir(site.path("archive")).unwrap().count(), 0, "{image_bytes} up to {largest}");
        etcd.streams_are_closed().await;
        run().succeed();
    }
}

#[tokio::test]
async fn what_only_looks_leaves_nothing_either() {
    let site = site().await;
    let file = site.path("exported.db");
    for command in ["export", "verify", "status"] {
        let run = site.command(&[command]);
        let run = match command {
            "export" => run.args(["--allow-plaintext", "--to"]).arg(&file),
            "status" => run.arg("--backup=latest").arg("--scratch-dir").arg(site.path("")),
            _ => run.arg("--scratch-dir").arg(site.path("")),
        };
        assert_failed(&run.largest_file(IMAGE_BYTES / 2).run(), 9, &["too large"]);
        let mut left: Vec<_> =
            std::fs::read_dir(site.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["archive", "key"], "{command}");
    }
}

/// A restore, stopped where `there` is true for the first time; `None` where it was over before.
async fn stopped_at(mut running: Running, there: impl Fn() -> bool) -> Option<Running> {
    loop {
        if running.ended() {
            return None;
        }
        if there() {
            running.freeze();
            return Some(running);
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

/// The stage of a restore into `dir`.
fn stage(dir: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    names.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("etcdbr-")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_under_a_restore() {
    let site = site().await;
    let Some(mount) = Tmpfs::mount(&site.path("mount"), "size=120m") else {
        println!("skipped: this machine does not allow mounts");
        return;
    };
    let filler = mount.path().join("filler");
    let data_dir = mount.path().join("etcd");
    let running = stopped_at(restore(&site, &data_dir).spawn(), || stage(mount.path()).is_some()).await;
    let running = running.expect("a WAL of 64 MB takes its time");
    // All that is left, and whatever the restore has not taken yet.
    let mut left = 120 << 20;
    while left > 4096 {
        let file = std::fs::File::options().create(true).append(true).open(&filler).unwrap();
        let end = file.metadata().unwrap().len();
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, left).is_err() {
            left /= 2;
        }
    }
    running.thaw();
    let outcome = running.wait();
    if outcome.code == Some(0) {
        println!("skipped: the restore had its space before it could be stopped");
        return;
    }
    assert_failed(&outcome, 9, &["etcdbr-", "free some space"]);
    assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 1, "only the filler");
    std::fs::remove_file(&filler).unwrap();
    restore(&site, &data_dir).succeed();
    assert!(is_whole(&data_dir));
}

/// kill -9 where each of these has come into being: what is left is the target as it was, or the whole of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_is_none_and_the_next_clears_up() {
    let site = site().await;
    let mut killed = 0;
    for existing in [false, true] {
        for point in [
            "",
            "member",
            "member/snap/db",
            "member/snap/0000000000000001-0000000000000001.snap",
            "member/wal/0000000000000000-0000000000000000.wal",
        ] {
            let target = tempfile::tempdir_in(site.path("")).unwrap();
            let data_dir = target.path().join("etcd");
            if existing {
                std::fs::create_dir(&data_dir).unwrap();
                std::fs::set_permissions(&data_dir, Permissions::from_mode(0o750)).unwrap();
            }
            let stage_in = if existing { data_dir.clone() } else { target.path().to_owned() };
            let at_point = || stage(&stage_in).is_some_and(|stage| stage.join(point).exists());
            if let Some(running) = stopped_at(restore(&site, &data_dir).spawn(), at_point).await {
                running.kill9();
                assert_eq!(running.wait().code, None);
                killed += 1;
            }
            if data_dir.join("member").exists() {
                assert!(is_whole(&data_dir), "{point}: half of it is there");
                continue;
            }
            assert_eq!(data_dir.exists(), existing, "{point}");
            restore(&site, &data_dir).succeed();
            assert!(is_whole(&data_dir), "{point}");
            assert_eq!(stage(&stage_in), None, "{point}: a leftover");
            if existing {
                assert_eq!(std::fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o750);
            }
        }
    }
    assert!(killed >= 4, "only {killed} restores could be killed in time");
}
