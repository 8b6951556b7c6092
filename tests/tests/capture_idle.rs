//! A cluster in which nothing happens.

use std::time::Duration;

use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::s3::{Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site};
use etcdbr_tests::sidecar::{Captured, Sidecar};

const SMALL_BYTES: u64 = 4 << 10;
/// With it, sixty marks and the rollup of an hour of them are less than one object a minute.
const APART_MS: i64 = 61_000;

async fn puts(server: &S3Server, sidecar: &Sidecar, count: u64) {
    let started = std::time::Instant::now();
    while server.count(Operation::Put) < count {
        assert!(started.elapsed() < Duration::from_secs(180), "{count} PUTs: {}", sidecar.words());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The full, a mark that tells of the leases, and then nothing for a minute, but that nothing happened.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_costs_a_small_object_a_minute() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    etcd.client().await.put("/idle", "x", None).await.unwrap();
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    puts(&server, &sidecar, 3).await;
    sidecar.stop();
    assert_eq!(server.count(Operation::Put), 3);
    let captured = Captured::on(&server, &site).await;
    let [full, first, second] = &captured.lineages()[0].backups[..] else { panic!("{:?}", captured.catalogue) };
    let apart_ms = second.name.created.0 - first.name.created.0;
    assert!(apart_ms >= APART_MS, "{apart_ms} ms between {} and {}", first.name, second.name);
    assert!(first.name.created.0 - full.name.created.0 < APART_MS, "the first mark comes with the full");
    assert!(first.stored_bytes.max(second.stored_bytes) <= SMALL_BYTES, "{first:?} {second:?}");
}
