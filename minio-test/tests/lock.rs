//! A bucket that locks objects: what is removed is hidden and told so, locked versions stay, and come back.

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::minio::Minio;
use etcdbr_tests::scenario::{BUCKET, Site};
use serde_json::Value;

async fn locked(minio: &Minio) -> Site {
    minio.create_locked_bucket(BUCKET, 1).await;
    Site::s3(&minio.endpoint(), minio.access_key(), minio.secret_key(), BUCKET)
}

fn key_of(backup: &Value) -> String {
    format!("prod/etcdbr/v1/{}", backup["backup"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_hides_what_is_locked_and_says_so() {
    let minio = Minio::start().await;
    let site = locked(&minio).await;
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    etcd.client().await.put("/locked", "x", None).await.unwrap();
    let backups: Vec<Value> = (0..3).map(|_| site.backup(&etcd)).collect();
    let held = key_of(&backups[0]);
    minio.hold(BUCKET, &held).await;

    let gc = ["gc", "--garbage-collection-policy=LimitBased", "-m=1", "--output=json"];
    let outcome = site.command(&gc).succeed().json();
    assert_eq!(outcome["deleted"].as_array().unwrap().len(), 2, "{outcome}");
    assert_eq!((&outcome["hidden"], outcome["refused"].as_array().unwrap().len()), (&Value::from(2), 0), "{outcome}");
    assert_eq!(minio.keys(BUCKET).await, [key_of(&backups[2])]);
    site.backup(&etcd);
    let told = site.command(&gc[..3]).succeed().stdout;
    assert!(told.contains("1 of them are hidden only: the bucket keeps their versions"), "{told}");

    // Nothing was taken away: without its delete marker the backup is there again, and restores.
    let listed = minio.client().list_object_versions().bucket(BUCKET).send().await.unwrap();
    let versions = listed.versions();
    assert_eq!((versions.len(), listed.delete_markers().len()), (4, 3), "{versions:?}");
    for version in versions {
        let delete = minio.client().delete_object().bucket(BUCKET).key(version.key().unwrap());
        delete.version_id(version.version_id().unwrap()).send().await.expect_err("a version is locked");
    }
    let marker = listed.delete_markers().iter().find(|marker| marker.key() == Some(&held)).unwrap();
    let shown = minio.client().delete_object().bucket(BUCKET).key(&held).version_id(marker.version_id().unwrap());
    shown.send().await.unwrap();
    let name = backups[0]["backup"].as_str().unwrap();
    let restored = site.command(&["restore", "--output=json", "--backup", name]).arg("--data-dir");
    assert_eq!(restored.arg(site.path("restored")).succeed().json()["revision"], backups[0]["revision"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_of_locks_and_of_versions() {
    let minio = Minio::start().await;
    let site = locked(&minio).await;
    let told = site.command(&["doctor", "--only=store"]).run().stdout;
    assert!(told.contains("on: each new object is kept for 1 days (COMPLIANCE)"), "{told}");
    assert!(told.contains("what is removed is hidden"), "{told}");
    assert!(minio.keys(BUCKET).await.is_empty());

    minio.create_bucket("plain").await;
    let site = Site::s3(&minio.endpoint(), minio.access_key(), minio.secret_key(), "plain");
    let told = site.command(&["doctor", "--only=store"]).succeed().stdout;
    assert!(told.contains("off: what is removed is gone") && told.contains("and are gone"), "{told}");
}

/// A plain copy that is deleted must not seem to be gone where its plaintext stays as a version.
#[tokio::test(flavor = "multi_thread")]
async fn a_plain_copy_that_is_only_hidden_is_called_so() {
    let minio = Minio::start().await;
    let site = locked(&minio).await;
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    site.backup(&etcd);
    site.command(&["presign", "--allow-plaintext"]).succeed();
    let outcome = site.command(&["presign", "--delete", "--output=json"]).succeed();
    assert_eq!(outcome.json()["hidden"], true, "{}", outcome.stdout);
    assert!(outcome.stderr.contains("as plain as before"), "{}", outcome.stderr);
}
