//! Presigned URLs that a real MinIO has checked, read as others read them: HyperShift's `curl`, and etcd's own tools.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat, initial_cluster};
use etcdbr_tests::etcdbr::Etcdbr;
use etcdbr_tests::load::Noise;
use etcdbr_tests::minio::Minio;
use etcdbr_tests::scenario::{BUCKET, Picture, Site, assert_failed, assert_lives, write_history};

/// Runs a program that is not ours to its end, which must be success; its output.
fn succeed(mut command: Command) -> String {
    let output = command.output().expect("the program runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// As the init container does: whatever comes is written, without a look at the status.
fn curl(url: &str, file: &Path) {
    let mut command = Command::new("curl");
    command.arg("--silent").arg("-o").arg(file).arg(url);
    succeed(command);
}

fn etcdutl(version: EtcdVersion, args: &[&str]) -> Command {
    let mut command = Command::new(version.dir().join("etcdutl"));
    command.args(args);
    command
}

/// Nothing that our store code could take credentials from.
fn without_credentials(args: &[&str]) -> Etcdbr {
    Etcdbr::new(args).env("HOME", "/nonexistent").env("AWS_CONFIG_FILE", "/nonexistent")
}

#[tokio::test]
async fn a_presigned_url_feeds_hypershift_and_our_own_restore() {
    let minio = Minio::start().await;
    let site = Site::minio(&minio).await;
    let source = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = source.client().await;
    write_history(&mut client, 1000).await;
    // Several parts of an upload, several ranges of a download.
    for i in 0..20 {
        client.put(format!("noise/{i}"), Noise::new(i).bytes(1 << 20), None).await.unwrap();
        client.delete(format!("noise/{i}"), None).await.unwrap();
    }
    let picture = Picture::of(&mut client).await;
    let backup = site.backup(&source);
    drop(source);
    let lent = site.command(&["presign", "--allow-plaintext", "--output=json"]).succeed().json();
    let url = lent["url"].as_str().unwrap();
    assert!(url.len() <= 1024 && lent["url_characters"] == url.len() && lent["backup"] == backup["backup"], "{lent}");

    let snapshot = site.path("snapshot");
    curl(url, &snapshot);
    assert_eq!(snapshot.metadata().unwrap().len(), lent["snapshot_bytes"].as_u64().unwrap());
    for version in [EtcdVersion::V3_5, EtcdVersion::V3_6, EtcdVersion::V3_7] {
        let (seat, dir) = (Seat::new("m0"), site.path(&format!("{version:?}")));
        let file = snapshot.to_str().unwrap();
        let status = succeed(etcdutl(version, &["snapshot", "status", "-w", "json", file]));
        assert!(status.contains(&format!("\"revision\":{}", picture.keyspace.revision)), "{status}");
        let mut restore = etcdutl(version, &["snapshot", "restore", file, "--name", &seat.name]);
        restore.args(["--initial-cluster", &initial_cluster(std::slice::from_ref(&seat))]);
        restore.args(["--initial-advertise-peer-urls", &seat.peer_url(), "--data-dir"]).arg(&dir);
        succeed(restore);
        let etcd = Etcd::builder(version).seat(seat).data_dir(&dir).start().await;
        picture.assert_seen_by(&mut etcd.client().await).await;
    }

    let (seat, dir) = (Seat::new("m0"), site.path("ours"));
    let restore = without_credentials(&["restore", "--snapshot", url, "--output=json", "--name", &seat.name]);
    let restore = restore.args(["--initial-cluster", &initial_cluster(std::slice::from_ref(&seat)), "--data-dir"]);
    let outcome = restore.arg(&dir).succeed();
    assert!(!(outcome.stdout.clone() + &outcome.stderr).contains("X-Amz-"), "{outcome:?}");
    assert_eq!(outcome.json()["proof"]["integrity"], "sha256-trailer");
    let mut etcd = Etcd::builder(EtcdVersion::V3_5).seat(seat).data_dir(&dir).start().await;
    picture.assert_seen_by(&mut etcd.client().await).await;
    assert_lives(&mut etcd, &picture).await;

    let key = lent["key"].as_str().unwrap();
    assert_eq!(minio.keys(BUCKET).await.len(), 2);
    let deleted = site.command(&["presign", "--delete"]).succeed().stdout;
    assert!(deleted.contains(key), "{deleted}");
    assert_eq!(minio.keys(BUCKET).await, [format!("prod/etcdbr/v1/{}", backup["backup"].as_str().unwrap())]);
}

#[tokio::test]
async fn urls_that_minio_refuses_say_why() {
    let minio = Minio::start().await;
    let site = Site::minio(&minio).await;
    let source = Etcd::start(EtcdVersion::V3_5).await;
    write_history(&mut source.client().await, 20).await;
    site.backup(&source);
    let presign = |expires: &str| {
        let lent = site.command(&["presign", "--allow-plaintext", "--expires", expires]).succeed();
        lent.stdout.trim().to_owned()
    };
    let refused = |url: &str, code: i32, words: &[&str]| {
        let run = without_credentials(&["restore", "--data-dir"]).arg(site.path("restored"));
        let outcome = run.env("ETCDBR_SNAPSHOT", url).run();
        assert_failed(&outcome, code, words);
        assert!(!outcome.stderr.contains("X-Amz-") && !site.path("restored").exists(), "{}", outcome.stderr);
    };
    let short = presign("1s");
    let fetched = site.path("fetched");
    let expired = || {
        curl(&short, &fetched);
        std::fs::read_to_string(&fetched).is_ok_and(|text| text.contains("Request has expired"))
    };
    while !expired() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    refused(&short, 8, &["the URL expired at 20", "etcdbr presign"]);
    let good = presign("1h");
    // As a shell leaves it where it was not quoted.
    refused(good.split('&').next().unwrap(), 8, &["quoted"]);
    refused(&good.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200"), 8, &["quoted"]);
    site.command(&["presign", "--delete"]).succeed();
    refused(&good, 3, &["no such file"]);
    // An error page that was fetched as if it were the snapshot.
    let run = without_credentials(&["restore", "--data-dir"]).arg(site.path("restored"));
    assert_failed(&run.arg("--snapshot").arg(&fetched).run(), 6, &["XML"]);
}
