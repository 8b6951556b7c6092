//! What goes wrong at the operator's hands or around the process: a clear error, the exit code of its kind, and nothing
//! changed.

use std::path::Path;

use etcd_client::{Client, Permission};
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::etcdbr::{Etcdbr, Outcome};
use etcdbr_tests::fake_etcd::{FakeEtcd, Script, SnapshotFault};
use etcdbr_tests::load::Noise;
use etcdbr_tests::plant::{Planted, image_of};
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site, assert_failed, write_history};
use etcdbr_tests::tmpfs::Tmpfs;

/// A small backup in a local archive; its name.
async fn site_with_backup() -> (Site, Etcd, String) {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    write_history(&mut source.client().await, 100).await;
    let name = site.backup(&source)["backup"].as_str().unwrap().to_owned();
    (site, source, name)
}

fn restore(site: &Site, dir: &Path) -> Outcome {
    site.restore(&[Seat::new("m0")], 0, dir).run()
}

fn assert_untouched(site: &Site) {
    let left: Vec<_> = std::fs::read_dir(site.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let strange: Vec<_> =
        left.iter().filter(|name| !["key", "archive", "other-key"].iter().any(|known| *name == known)).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[tokio::test]
async fn a_wrong_key_and_no_key() {
    let (site, _source, name) = site_with_backup().await;
    let other = site.path("other-key");
    Etcdbr::new(["keygen", "--key-file"]).arg(&other).succeed();
    let dir = site.path("restored");
    let run = || site.unkeyed(&["restore"]).arg("--data-dir").arg(&dir);
    let told = site.command(&["list", "--details"]).succeed().stdout;
    let id = told.split("key ").nth(1).unwrap()[..16].to_owned();
    assert_failed(&run().run(), 5, &[&name, &id, "no key was given"]);
    assert_failed(&run().arg("--encryption-key-file").arg(&other).run(), 5, &[&name, &id, "the keyring has"]);
    assert_failed(&run().env("ETCDBR_ENCRYPTION_KEY", "hunter2").run(), 5, &["is not a keyring"]);
    assert_untouched(&site);
}

/// A secret that got lost on its way must not turn into a backup in the clear.
#[tokio::test]
async fn a_key_variable_that_is_empty() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    for empty in ["", " \n"] {
        let run = site.unkeyed(&["snapshot", "--once", "--endpoints", &source.endpoint()]);
        assert_failed(&run.env("ETCDBR_ENCRYPTION_KEY", empty).run(), 5, &["ETCDBR_ENCRYPTION_KEY", "holds no key"]);
    }
    assert_eq!(files_under(&site.path("archive")), 0);
}

#[tokio::test]
async fn a_backup_that_was_changed_or_renamed() {
    let (site, _source, name) = site_with_backup().await;
    let object = site.path("archive/prod/etcdbr/v1").join(&name);
    let bytes = std::fs::read(&object).unwrap();
    let dir = site.path("restored");
    for place in [20, bytes.len() / 2, bytes.len() - 3] {
        let mut bad = bytes.clone();
        bad[place] ^= 1;
        std::fs::write(&object, bad).unwrap();
        assert_failed(&restore(&site, &dir), 6, &[&name]);
    }
    std::fs::write(&object, &bytes[..bytes.len() - 100]).unwrap();
    assert_failed(&restore(&site, &dir), 6, &[&name]);
    std::fs::write(&object, &bytes).unwrap();
    let (stem, nonce) = name.split_at(name.len() - 16);
    let renamed = format!("{stem}{:016x}", u64::from_str_radix(nonce, 16).unwrap() ^ 1);
    std::fs::rename(&object, object.with_file_name(renamed.rsplit('/').next().unwrap())).unwrap();
    assert_failed(&restore(&site, &dir), 6, &[&renamed]);
    assert_untouched(&site);
}

#[tokio::test]
async fn a_data_dir_that_must_not_be_touched() {
    let (site, mut source, _) = site_with_backup().await;
    let in_use = source.data_dir().to_owned();
    assert_failed(&restore(&site, &in_use), 4, &["etcd is running"]);
    source.stop();
    assert_failed(&restore(&site, &in_use), 4, &["member"]);
    source.restart().await;
    let other = source.home().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("precious"), "data").unwrap();
    assert_failed(&restore(&site, &other), 4, &["precious"]);
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 1);
}

#[tokio::test]
async fn a_mount_point_is_filled_and_a_full_one_left_alone() {
    let (site, _source, _) = site_with_backup().await;
    for (options, code) in [("size=200m", 0), ("size=20m", 9), ("size=200m,nr_inodes=4", 9)] {
        let Some(mount) = Tmpfs::mount(&site.path("mount"), options) else {
            println!("skipped: this machine does not allow mounts");
            return;
        };
        let outcome = restore(&site, mount.path());
        assert_eq!(outcome.code, Some(code), "{options}: {}", outcome.stderr);
        let left: Vec<_> = std::fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let expected: &[&str] = if code == 0 { &["member"] } else { &[] };
        assert_eq!(left, expected, "{options}");
    }
}

#[tokio::test]
async fn an_archive_on_a_full_disk_takes_nothing() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    source.client().await.put("noise", Noise::new(1).bytes(1 << 20), None).await.unwrap();
    let Some(mount) = Tmpfs::mount(&site.path("archive"), "size=256k") else {
        println!("skipped: this machine does not allow mounts");
        return;
    };
    let outcome = site.command(&["snapshot", "--once", "--endpoints", &source.endpoint()]).run();
    assert_failed(&outcome, 9, &["free some space"]);
    assert_eq!(files_under(mount.path()), 0);
}

#[tokio::test]
async fn an_image_that_is_no_database() {
    let site = Site::local();
    for (image, words) in [(vec![0; 40_960], "meta"), (Noise::new(7).bytes(40_960), "meta"), (vec![], "image")] {
        let _ = std::fs::remove_dir_all(site.path("archive"));
        let name = Planted::new(&site, &image, 99).write(&site).await;
        let outcome = restore(&site, &site.path("restored"));
        assert_failed(&outcome, 6, &[&name]);
        println!("{words}: {}", outcome.stderr);
    }
    let _ = std::fs::remove_file(site.path("image"));
    assert_untouched(&site);
}

#[tokio::test]
async fn an_image_that_is_older_than_its_name() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    source.client().await.put("k", "v", None).await.unwrap();
    Planted::new(&site, &image_of(&source), 99).write(&site).await;
    assert_failed(&restore(&site, &site.path("restored")), 6, &["revision 2", "older than the 99"]);
    assert_untouched(&site);
}

/// Every frame is genuine, and the whole is not what was backed up.
#[tokio::test]
async fn an_image_without_the_sha256_of_its_footer() {
    let site = Site::local();
    let name = Planted::new(&site, &[1; 40_960], 99).promising(&[2; 40_960]).write(&site).await;
    assert_failed(&restore(&site, &site.path("restored")), 6, &[&name, "SHA-256 of its footer"]);
    assert_untouched(&site);
}

#[tokio::test]
async fn an_etcd_that_is_down() {
    let site = Site::local();
    let seat = Seat::new("nobody");
    let outcome = site.command(&["snapshot", "--once", "--endpoints", &seat.client_url()]).run();
    assert_failed(&outcome, 7, &[&seat.client_url(), "--endpoints"]);
    assert_untouched(&site);
}

#[tokio::test]
async fn an_etcd_that_needs_a_login() {
    let site = Site::local();
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    enable_auth(&mut client).await;
    let run = || site.command(&["snapshot", "--once", "--endpoints", &source.endpoint()]);
    assert_failed(&run().run(), 8, &["--etcd-username"]);
    assert_failed(&run().args(["--etcd-username=root", "--etcd-password=wrong"]).run(), 8, &["root"]);
    assert_failed(&run().args(["--etcd-username=reader", "--etcd-password=r"]).run(), 8, &["reader"]);
    assert_failed(&run().arg("--etcd-username=root").run(), 2, &["--etcd-password"]);
    assert_untouched(&site);
    run().arg("--etcd-username=root").env("ETCDBR_ETCD_PASSWORD", "secret\n").succeed();
}

async fn enable_auth(client: &mut Client) {
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap_or_else(|error| panic!("{error}"));
    client.user_add("reader", "r", None).await.unwrap();
    client.role_add("reads").await.unwrap();
    let everything = Permission::read("").with_all_keys();
    client.role_grant_permission("reads", everything).await.unwrap();
    client.user_grant_role("reader", "reads").await.unwrap();
    client.auth_enable().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_stream_that_is_cut_or_altered() {
    let long = 64 << 10;
    let faults = [
        (SnapshotFault::EndAfter(long), 6),
        (SnapshotFault::WrongDigest, 6),
        (SnapshotFault::FailAfter(long), 7),
        (SnapshotFault::StallAfter(long), 7),
    ];
    for (snapshot_fault, code) in faults {
        let site = Site::local();
        let fake = FakeEtcd::start(Script { snapshot_fault, ..Script::default() }).await;
        let run =
            site.command(&["snapshot", "--once", "--etcd-snapshot-stall-timeout=300ms", "--endpoints", &fake.endpoint]);
        assert_failed(&run.run(), code, &[&fake.endpoint]);
        assert_eq!(files_under(&site.path("archive")), 0, "{snapshot_fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_fails_and_recovers() {
    let source = Etcd::start(EtcdVersion::V3_5).await;
    source.client().await.put("noise", Noise::new(1).bytes(1 << 20), None).await.unwrap();
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let run = || site.command(&["snapshot", "--once", "--endpoints", &source.endpoint()]);
    server.fail_nth(Operation::Put, 1, Act::Answer(403, "AccessDenied"));
    assert_failed(&run().run(), 8, &["etcdbr/v1/"]);
    server.fail_nth(Operation::Put, 1, Act::Answer(404, "NoSuchBucket"));
    assert_failed(&run().run(), 3, &[BUCKET]);
    assert_eq!((server.keys(), server.pending()), (vec![], vec![]));
    for act in [Act::Answer(500, "InternalError"), Act::Answer(503, "SlowDown"), Act::CutRequest(1000), Act::LoseAnswer]
    {
        server.fail_nth(Operation::Put, 1, act);
        run().succeed();
    }
    assert_eq!(server.keys().len(), 4);
    let dir = site.path("restored");
    server.fail_nth(Operation::Get, 1, Act::Answer(403, "AccessDenied"));
    assert_failed(&restore(&site, &dir), 8, &["etcdbr/v1/"]);
    assert!(!dir.exists());
    for act in [Act::Answer(503, "SlowDown"), Act::CutBody(100)] {
        server.fail_nth(Operation::Get, 1, act);
    }
    assert_eq!(restore(&site, &dir).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_during_an_upload_leaves_no_object_and_no_multipart() {
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    for i in 0..12 {
        client.put(format!("noise/{i}"), Noise::new(i).bytes(1 << 20), None).await.unwrap();
    }
    for operation in [Operation::Create, Operation::Part] {
        for terminate in [false, true] {
            let server = S3Server::start(Mode::Plain, BUCKET).await;
            let site = Site::on(&server);
            let act = if operation == Operation::Create { Act::LoseAnswer } else { Act::Silence };
            server.fail_nth(operation, 1, act);
            // An upload whose beginning was lost is begun again; hold that one.
            server.fail_nth(operation, 2, Act::Silence);
            let run = site.command(&["snapshot", "--once", "--min-chunk-size=5MiB", "--endpoints", &source.endpoint()]);
            let running = run.spawn();
            wait_until(|| server.count(operation) >= 2).await;
            if terminate {
                running.terminate()
            } else {
                running.interrupt()
            }
            let outcome = running.wait();
            assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
            assert_eq!((server.keys(), server.pending()), (vec![], vec![]), "{operation:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_during_a_restore_leaves_nothing() {
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    // More than one read fetches whole.
    for i in 0..5 {
        client.put(format!("noise-{i}"), Noise::new(i).bytes(1 << 20), None).await.unwrap();
    }
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    site.backup(&source);
    server.fail_nth(Operation::Get, 3, Act::Silence);
    let before = server.count(Operation::Get);
    let dir = site.path("restored");
    let running = site.restore(&[Seat::new("m0")], 0, &dir).spawn();
    wait_until(|| server.count(Operation::Get) >= before + 3).await;
    running.interrupt();
    assert_eq!(running.wait().code, Some(130));
    assert_untouched(&site);
}

#[tokio::test]
async fn words_that_cannot_be_right() {
    let site = Site::local();
    let dir = site.path("restored");
    let restore = || site.command(&["restore"]).arg("--data-dir").arg(&dir);
    for (args, words) in [
        (vec!["--name=m9", "--initial-cluster=m0=http://h:2380"], vec!["m9", "--initial-cluster"]),
        (vec!["--initial-cluster=m0=ftp://h:2380"], vec!["--initial-cluster"]),
        (
            vec!["--initial-cluster=m0=http://h:2380", "--initial-advertise-peer-urls=http://i:2380"],
            vec!["--initial-advertise-peer-urls"],
        ),
        (vec!["--store-prefix=a/../b"], vec!["--store-prefix"]),
        (vec!["--backup=latest"], vec!["latest"]),
    ] {
        assert_failed(&restore().args(args).run(), 2, &words);
    }
    assert_failed(&restore().run(), 3, &["holds no backup"]);
    let seat = Seat::new("nobody");
    let snapshot = || site.command(&["snapshot", "--endpoints", &seat.client_url()]);
    assert_failed(&snapshot().arg("--delta-snapshot-period=50ms").run(), 2, &["--delta-snapshot-period", "100ms"]);
    assert_failed(&snapshot().arg("--delta-snapshot-memory-limit=1KiB").run(), 2, &["1MiB"]);
    assert_failed(&snapshot().arg("--schedule=61 * * * *").run(), 2, &["--schedule", "five fields"]);
    assert_failed(&snapshot().arg("--schedule-time-zone=Mars").run(), 2, &["--schedule-time-zone", "Mars"]);
    assert_failed(&snapshot().args(["--schedule=", "--delta-snapshot-period=0"]).run(), 2, &["backs nothing up"]);
    assert_failed(&snapshot().arg("--full-after-deltas-bytes=0").run(), 2, &["--full-after-deltas-bytes"]);
    assert_failed(&snapshot().arg("--memory-limit=1KiB").run(), 2, &["--memory-limit", "1MiB"]);
    assert_failed(&snapshot().args(["--once", "--min-chunk-size=1MiB"]).run(), 2, &["5MiB"]);
    assert_failed(&snapshot().args(["--once", "--compression-level=99"]).run(), 2, &["99"]);
    assert_failed(&Etcdbr::new(["snapshot", "--once", "--storage-provider=FTP"]).run(), 2, &["FTP"]);
    let without = Etcdbr::new(["list", "--storage-provider=ECS", "--store-container=b"]).run();
    assert_failed(&without, 2, &["ECS_ENDPOINT", "ECS_ACCESS_KEY_ID", "ECS_SECRET_ACCESS_KEY"]);
    assert_untouched(&site);
}

#[tokio::test]
async fn an_unencrypted_backup_among_encrypted_ones() {
    let (site, source, name) = site_with_backup().await;
    let plain = site.unkeyed(&["snapshot", "--once", "--endpoints", &source.endpoint()]).run();
    assert_failed(&plain, 4, &[&name, "--encryption-key-file"]);
    let lines = site.unkeyed(&["list"]).succeed().stdout;
    assert_eq!(lines.matches("/full/").count(), 1, "{lines}");
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it did not come about within a minute");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn files_under(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().map(|entry| if entry.path().is_dir() { files_under(&entry.path()) } else { 1 }).sum()
}
