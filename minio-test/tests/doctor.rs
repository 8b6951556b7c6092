//! `etcdbr doctor` finds nothing wrong with a MinIO.

use etcdbr_tests::minio::Minio;
use etcdbr_tests::scenario::{BUCKET, Site};

#[tokio::test(flavor = "multi_thread")]
async fn minio_is_a_good_store() {
    let minio = Minio::start().await;
    let site = Site::minio(&minio).await;
    let json = site.command(&["doctor", "--only=store", "--output=json"]).succeed().json();
    let findings = json["findings"].as_array().unwrap();
    for finding in findings {
        assert_eq!(finding["verdict"], "good", "{finding}");
    }
    assert_eq!(findings.len(), 11, "{findings:#?}");
    assert!(minio.keys(BUCKET).await.is_empty());
}
