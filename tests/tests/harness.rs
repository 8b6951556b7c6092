//! The harness itself: servers start, crash, come back and stop, and the independent client sees what was written.

use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion};
use etcdbr_tests::keyspace::{Keyspace, hash_kv};
use etcdbr_tests::load::{Load, fill, mixed_history};
use etcdbr_tests::minio::Minio;
use etcdbr_tests::tls::TestTls;

#[tokio::test]
async fn every_version_starts_and_serves_what_was_written() {
    for version in EtcdVersion::MINORS.into_iter().chain([EtcdVersion::V3_5_1]) {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let leases = mixed_history(&mut client).await;
        let seen = Keyspace::read(&mut client).await;
        assert!(seen.entries.len() > 40, "{version:?}: {}", seen.entries.len());
        assert_eq!(seen.leases.keys().count(), leases.len(), "{version:?}");
        let status = etcd.etcdctl(&["endpoint", "status"]);
        assert!(status.contains(version.tool().trim_start_matches("etcd-")), "{version:?}: {status}");
    }
}

#[tokio::test]
async fn what_was_written_survives_kill_9_and_a_restart() {
    let mut etcd = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = etcd.client().await;
    fill(&client, &Load::small(500)).await;
    let before = Keyspace::read(&mut client).await;
    let hash = hash_kv(&mut client, 0).await;
    etcd.kill9();
    etcd.restart().await;
    let mut client = etcd.client().await;
    before.assert_same(&Keyspace::read(&mut client).await);
    assert_eq!(hash, hash_kv(&mut client, 0).await);
}

#[tokio::test]
async fn three_members_form_a_cluster() {
    let cluster = EtcdCluster::start(EtcdVersion::V3_6, 3).await;
    let leader = cluster.leader().await;
    cluster.members[leader].client().await.put("key", "value", None).await.expect("a put");
    for etcd in &cluster.members {
        assert_eq!(Keyspace::read(&mut etcd.client().await).await.entries.len(), 1);
    }
}

#[tokio::test]
async fn a_member_with_tls_serves_a_client_with_a_certificate() {
    let tls = Arc::new(TestTls::generate());
    let etcd = Etcd::builder(EtcdVersion::V3_5).tls(&tls).start().await;
    assert!(etcd.endpoint().starts_with("https://"));
    etcd.client().await.put("key", "value", None).await.expect("a put");
    let bare = etcd_client::Client::connect([etcd.endpoint().replace("https", "http")], None).await;
    let refused = match bare {
        Err(_) => true,
        Ok(mut client) => client.get("key", None).await.is_err(),
    };
    assert!(refused, "a client without a certificate was served");
}

#[tokio::test]
async fn a_keyspace_that_differs_is_told_apart() {
    let etcd = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = etcd.client().await;
    client.put("a", "1", None).await.expect("a put");
    let before = Keyspace::read(&mut client).await;
    client.put("a", "2", None).await.expect("a put");
    let after = Keyspace::read(&mut client).await;
    let difference = std::panic::catch_unwind(|| before.assert_same(&after)).expect_err("they differ");
    assert!(difference.downcast_ref::<String>().expect("a message").contains("key a:"));
}

#[tokio::test]
async fn a_server_stops_when_it_is_dropped() {
    let etcd = Etcd::start(EtcdVersion::V3_5).await;
    let pid = etcd.pid();
    let data_dir = etcd.data_dir().to_owned();
    assert!(data_dir.join("member").exists());
    drop(etcd);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!data_dir.exists());
}

#[tokio::test]
async fn a_minio_keeps_objects_and_tells_of_pending_multiparts() {
    let minio = Minio::start().await;
    minio.create_bucket("bucket").await;
    let client = minio.client();
    let body = ByteStream::from_static(b"bytes");
    client.put_object().bucket("bucket").key("a/b").body(body).send().await.expect("an object");
    assert_eq!(minio.objects("bucket").await, [("a/b".to_owned(), b"bytes".to_vec())]);
    assert_eq!(minio.pending_multiparts_on_drive(), 0);
    let upload = client.create_multipart_upload().bucket("bucket").key("c").send().await.expect("an upload");
    assert_eq!(minio.pending_multiparts("bucket", "c").await, 1);
    assert_eq!(minio.pending_multiparts_on_drive(), 1);
    let id = upload.upload_id().expect("an id");
    client.abort_multipart_upload().bucket("bucket").key("c").upload_id(id).send().await.expect("aborted");
    assert_eq!(minio.pending_multiparts("bucket", "c").await, 0);
    assert_eq!(minio.pending_multiparts_on_drive(), 0);
}
