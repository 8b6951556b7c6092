//! The S3 store against a real MinIO: real signatures, real limits.

use std::sync::Arc;

use bytes::Bytes;
use etcdbr_engine::ErrorKind;
use etcdbr_engine::secret::SecretText;
use etcdbr_engine::store::conformance::{self, Scale};
use etcdbr_engine::store::{
    ByteRange, Credentials, ListQuery, ObjectStore, PartNumber, Provider, StaticKeys, StoreOptions, open,
};
use etcdbr_tests::minio::Minio;

const BUCKET: &str = "etcd-backup";

fn options(minio: &Minio, bucket: &str, secret: &str) -> StoreOptions {
    let mut options = StoreOptions::new(Provider::S3, bucket);
    options.endpoint = Some(minio.endpoint());
    options.credentials = Credentials::Static(StaticKeys {
        access_key: SecretText::new(minio.access_key()),
        secret_key: SecretText::new(secret),
        session_token: None,
    });
    options
}

async fn start() -> (Minio, Arc<dyn ObjectStore>) {
    let minio = Minio::start().await;
    minio.create_bucket(BUCKET).await;
    let store = open(&options(&minio, BUCKET, minio.secret_key())).await.unwrap();
    (minio, store)
}

#[tokio::test]
async fn minio_conforms() {
    let (minio, store) = start().await;
    conformance::run(store.as_ref(), "some/prefix", &Scale::real()).await.assert_clean();
    assert!(minio.keys(BUCKET).await.is_empty(), "the suite leaves nothing");
}

#[tokio::test]
async fn minio_as_ecs_conforms() {
    let (minio, _) = start().await;
    let lookup = |name: &str| match name {
        "ECS_ENDPOINT" => Some(minio.endpoint().replace("http://", "")),
        "ECS_ACCESS_KEY_ID" => Some(minio.access_key().to_owned()),
        "ECS_SECRET_ACCESS_KEY" => Some(minio.secret_key().to_owned()),
        "ECS_DISABLE_SSL" => Some("true".to_owned()),
        _ => None,
    };
    let store = open(&StoreOptions::ecs_from_env(BUCKET, None, lookup).unwrap()).await.unwrap();
    let scale = Scale { listed_keys: 20, ..Scale::real() };
    conformance::run(store.as_ref(), "some/prefix", &scale).await.assert_clean();
}

#[tokio::test]
async fn a_wrong_secret_is_denied_and_an_unknown_bucket_not_found() {
    let (minio, _) = start().await;
    let store = open(&options(&minio, BUCKET, "wrong-secret")).await.unwrap();
    let error = store.put("k", Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.next_step().unwrap().contains("secret"), "{error:?}");
    let store = open(&options(&minio, "nowhere", minio.secret_key())).await.unwrap();
    for error in [
        store.put("k", Bytes::from_static(b"x")).await.unwrap_err(),
        store.list(&ListQuery::default()).await.unwrap_err(),
        store.start_upload("k", 5 << 20).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.to_string().contains("nowhere"), "{error:?}");
    }
}

#[tokio::test]
async fn an_upload_that_was_begun_by_a_killed_process_is_found() {
    let (minio, store) = start().await;
    let upload = store.start_upload("a/b/upload", 5 << 20).await.unwrap();
    upload.put_part(PartNumber(1), Bytes::from(vec![1; 5 << 20])).await.unwrap();
    drop(upload);
    let found = store.pending_uploads("a/").await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].key, "a/b/upload");
    store.abort_pending(&found[0]).await.unwrap();
    assert_eq!(minio.pending_multiparts(BUCKET, "a/b/upload").await, 0);
    assert!(store.read("a/b/upload", ByteRange::Suffix(1), None).await.is_err());
}
