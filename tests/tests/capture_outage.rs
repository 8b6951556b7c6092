//! A store that is down or slow: what waits is merged, so that there are few objects when it is back, and every revision
//! of the outage restores.

use etcd_client::{Client, PutOptions};
use etcdbr_engine::format::NameKind;
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdVersion};
use etcdbr_tests::keyspace::{current_revision, hash_kv};
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site};
use etcdbr_tests::sidecar::{Captured, Sidecar};

/// One delta for each of `rounds`, far more than there are uploads at once.
async fn write_rounds(client: &mut Client, rounds: usize) {
    for round in 0..rounds {
        for i in 0..5 {
            client.put(format!("/outage/{i}"), format!("{round}"), None).await.unwrap();
        }
        client.delete("/outage/3", None).await.unwrap();
        // Longer than the period of deltas: each round is one of its own.
        tokio::time::sleep(std::time::Duration::from_millis(110)).await;
    }
}

/// The ranges of the deltas of the only lineage.
fn deltas(captured: &Captured) -> Vec<(i64, i64)> {
    let [lineage] = captured.lineages()[..] else { panic!("there is one lineage") };
    let range = |kind| if let NameKind::Delta { first, last } = kind { Some((first.0, last.0)) } else { None };
    lineage.backups.iter().filter_map(|entry| range(entry.name.kind)).collect()
}

/// Each revision of `revisions`, restored, hashes as the source does.
async fn assert_each_restores(site: &Site, client: &mut Client, revisions: impl Iterator<Item = i64>) {
    for revision in revisions {
        let dir = site.path(&format!("at-{revision}"));
        let run = site.command(&["restore", "--revision", &revision.to_string()]).arg("--data-dir").arg(&dir);
        run.succeed();
        let database = Database::in_dir(&dir);
        database.assert_sound();
        let source = hash_kv(client, revision).await;
        assert_eq!(database.revision(), revision);
        assert_eq!(database.hash_kv(revision, source.compact_revision), source, "at {revision}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_becomes_few_objects_and_every_revision_of_it_restores() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    client.put("/outage/first", "x", None).await.unwrap();
    let mut sidecar = Sidecar::start_every(&site, &[etcd.endpoint()], "100ms", &[]);
    sidecar.opened(1).await;
    let before = current_revision(&mut client).await;
    server.fail_all(Operation::Put, Act::Answer(503, "ServiceUnavailable"));
    write_rounds(&mut client, 30).await;
    let lease = client.lease_grant(7_200, None).await.unwrap().id();
    client.put("/outage/leased", "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    write_rounds(&mut client, 10).await;
    sidecar.said("waits for the store", 1).await;
    assert!(server.keys().len() <= 2, "nothing but the full, and the list of leases that may have come before");
    server.heal();
    let last = current_revision(&mut client).await;
    sidecar.durable(last).await;
    sidecar.stop();
    let captured = Captured::on(&server, &site).await;
    let deltas = deltas(&captured);
    // Those that had been sent when the store failed, and what had waited behind them.
    assert!(deltas.len() <= 12, "{deltas:?}");
    assert!(deltas.iter().any(|(first, last)| last - first > 60), "{deltas:?}");
    let lineage = captured.lineages()[0];
    assert_eq!(captured.leases(lineage).await.get(&lease), Some(&7_200));
    // Every record, every digest; and some moments inside of what was merged, by the source's own hash.
    let (_, records) = captured.records(lineage).await;
    assert_eq!(records.last().map(|record| record.main.0), Some(last));
    assert_each_restores(&site, &mut client, (before..=last).step_by(23).chain([last])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_merged_deltas_are_stored_it_goes_on_without_a_gap() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    client.put("/outage/first", "x", None).await.unwrap();
    let mut sidecar = Sidecar::start_every(&site, &[etcd.endpoint()], "100ms", &[]);
    sidecar.opened(1).await;
    let before = current_revision(&mut client).await;
    server.fail_all(Operation::Put, Act::Answer(503, "ServiceUnavailable"));
    write_rounds(&mut client, 20).await;
    sidecar.said("waits for the store", 1).await;
    server.heal();
    // The wide one is on its way, and its answer does not come.
    sidecar.said("are stored as one", 1).await;
    sidecar.kill9();
    let said = Captured::on(&server, &site).await;
    assert!(!deltas(&said).is_empty());
    write_rounds(&mut client, 3).await;
    let mut sidecar = Sidecar::start_every(&site, &[etcd.endpoint()], "100ms", &[]);
    sidecar.said("going on with lineage", 1).await;
    let last = current_revision(&mut client).await;
    sidecar.durable(last).await;
    sidecar.stop();
    let captured = Captured::on(&server, &site).await;
    let (_, records) = captured.records(captured.lineages()[0]).await;
    assert_eq!(records.last().map(|record| record.main.0), Some(last));
    assert_each_restores(&site, &mut client, (before..=last).step_by(29)).await;
}
