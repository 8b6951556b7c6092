//! The sidecar: every revision of a real etcd is in the archive, whatever happens to either of them; and histories are
//! never mixed.

use etcd_client::{Client, CompactionOptions};
use etcdbr_engine::record::Record;
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion, Seat};
use etcdbr_tests::keyspace::current_revision;
use etcdbr_tests::load::{edge_history, mixed_history, put_some};
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site, assert_failed};
use etcdbr_tests::sidecar::{Captured, Sidecar};

/// Fails with the first record that was captured otherwise than the source stores it.
fn assert_as_stored(captured: &[Record], stored: &[Record]) {
    if let Some(at) = captured.iter().zip(stored).position(|(ours, theirs)| ours != theirs) {
        panic!("record {at} is {:?}, stored as {:?}", captured[at], stored[at]);
    }
    assert_eq!(captured.len(), stored.len());
}

/// The newest lineage holds every record that the source has behind its seam; the source has not compacted since.
async fn assert_captured(captured: &Captured, client: &mut Client) {
    let (seam, records) = captured.records(captured.lineages().last().unwrap()).await;
    let mut stored = Database::snapshot(client).await.records();
    stored.retain(|record| record.main.0 > seam);
    assert_as_stored(&records, &stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_captured() {
    for version in EtcdVersion::MINORS {
        let site = Site::local();
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        put_some(&mut client, 0..20).await;
        let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
        sidecar.opened(1).await;
        // Its compaction is of what the full has.
        mixed_history(&mut client).await;
        let revision = current_revision(&mut client).await;
        sidecar.durable(revision).await;
        sidecar.stop();
        let captured = Captured::of(&site).await;
        let (seam, records) = captured.records(captured.lineages()[0]).await;
        let database = Database::snapshot(&mut client).await;
        let mut stored = database.records();
        let floor = database.floor();
        stored.retain(|record| record.main.0 > floor.max(seam));
        let behind: Vec<_> = records.iter().filter(|record| record.main.0 > floor).cloned().collect();
        assert_as_stored(&behind, &stored);
        assert_eq!(records.last().unwrap().main.0, revision);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_full_holds_is_called_durable() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    // Nothing is written that a delta could tell of.
    assert_eq!(sidecar.durable_revision(), current_revision(&mut client).await);
    sidecar.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_full_that_fails_is_taken_again() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    for operation in [Operation::Put, Operation::Create] {
        server.fail_all(operation, Act::Answer(403, "AccessDenied"));
    }
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.said("capture pauses", 1).await;
    server.heal();
    put_some(&mut client, 20..40).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::on(&server, &site).await, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_during_the_first_full_are_captured() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.said("streaming", 1).await;
    put_some(&mut client, 20..300).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::of(&site).await, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_stores_what_was_captured() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_7).await;
    let mut client = etcd.client().await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    server.fail_all(Operation::Put, Act::Answer(503, "SlowDown"));
    client.put("/last", "x", None).await.unwrap();
    let revision = current_revision(&mut client).await;
    sidecar.said("waits for the store", 1).await;
    server.heal();
    sidecar.stop();
    let captured = Captured::on(&server, &site).await;
    let (_, records) = captured.records(captured.lineages()[0]).await;
    assert_eq!(records.last().map(|record| record.main.0), Some(revision));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_cannot_store_says_so() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_7).await;
    let mut client = etcd.client().await;
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &["--shutdown-timeout=100ms"]);
    sidecar.opened(1).await;
    server.fail_all(Operation::Put, Act::Answer(503, "SlowDown"));
    client.put("/last", "x", None).await.unwrap();
    sidecar.said("waits for the store", 1).await;
    assert_failed(&sidecar.terminate(), 7, &["could not be stored before the shutdown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_it_goes_on_without_a_gap() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_6] {
        let site = Site::local();
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        put_some(&mut client, 0..20).await;
        let mut written = 20;
        for round in 0..5 {
            let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
            match round {
                0 => sidecar.opened(1).await,
                _ => sidecar.said("going on with lineage", 1).await,
            }
            put_some(&mut client, written..written + 60).await;
            written += 60;
            let durable = current_revision(&mut client).await - 30;
            sidecar.durable(durable).await;
            let said = sidecar.durable_revision();
            sidecar.kill9();
            let captured = Captured::of(&site).await;
            assert_eq!(captured.lineages().len(), 1);
            let (_, records) = captured.records(captured.lineages()[0]).await;
            assert!(records.last().is_some_and(|record| record.main.0 >= said), "{said} was said to be durable");
            put_some(&mut client, written..written + 20).await;
            written += 20;
        }
        let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
        sidecar.durable(current_revision(&mut client).await).await;
        sidecar.stop();
        assert_captured(&Captured::of(&site).await, &mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_past_its_position_costs_a_new_full() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    put_some(&mut client, 20..40).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    put_some(&mut client, 40..60).await;
    let revision = current_revision(&mut client).await;
    client.compact(revision - 5, Some(CompactionOptions::new().with_physical())).await.unwrap();
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.said("ends (compacted)", 1).await;
    sidecar.opened(1).await;
    put_some(&mut client, 60..80).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let captured = Captured::of(&site).await;
    assert_eq!(captured.lineages().len(), 2);
    assert_captured(&captured, &mut client).await;
}

/// The cluster is another one with the same ids: restored from an older full, with the same token and peer URLs, and
/// written past the position that the sidecar knows, with the same keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_restored_is_another_history() {
    for restart in [false, true] {
        let site = Site::local();
        let seat = Seat::new("m0");
        let mut etcd = Etcd::builder(EtcdVersion::V3_6).seat(seat.clone()).start().await;
        let mut client = etcd.client().await;
        put_some(&mut client, 0..20).await;
        let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
        sidecar.opened(1).await;
        put_some(&mut client, 20..40).await;
        sidecar.durable(current_revision(&mut client).await).await;
        let stopped = if restart {
            sidecar.stop();
            None
        } else {
            Some(sidecar)
        };
        etcd.stop();
        let dir = site.path("restored");
        let full = Captured::of(&site).await.lineages()[0].latest_full().unwrap().name.to_string();
        site.restore(std::slice::from_ref(&seat), 0, &dir).args(["--backup", &full]).succeed();
        let etcd = Etcd::builder(EtcdVersion::V3_6).seat(seat).data_dir(&dir).start().await;
        let mut client = etcd.client().await;
        put_some(&mut client, 20..21).await;
        for i in 0..60 {
            client.put(format!("/some/{:03}", i % 50), "of another history", None).await.unwrap();
        }
        let mut sidecar = stopped.unwrap_or_else(|| Sidecar::start(&site, &[etcd.endpoint()]));
        sidecar.said("a new full opens another one", 1).await;
        sidecar.opened(if restart { 1 } else { 2 }).await;
        put_some(&mut client, 40..60).await;
        sidecar.durable(current_revision(&mut client).await).await;
        sidecar.stop();
        let captured = Captured::of(&site).await;
        assert_eq!(captured.lineages().len(), 2, "restart: {restart}");
        assert_captured(&captured, &mut client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_the_restart_of_a_member() {
    let site = Site::local();
    let mut etcd = Etcd::start(EtcdVersion::V3_7).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    put_some(&mut client, 20..40).await;
    etcd.kill9();
    etcd.restart().await;
    let mut client = etcd.client().await;
    put_some(&mut client, 40..60).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let captured = Captured::of(&site).await;
    assert_eq!(captured.lineages().len(), 1);
    assert_captured(&captured, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_at_another_member() {
    let site = Site::local();
    let mut cluster = EtcdCluster::start(EtcdVersion::V3_5, 3).await;
    let mut client = cluster.members[0].client().await;
    put_some(&mut client, 0..20).await;
    let endpoints = cluster.endpoints();
    let mut sidecar = Sidecar::start(&site, &endpoints);
    sidecar.opened(1).await;
    for killed in 0..3 {
        let other = (killed + 1) % 3;
        let mut client = cluster.members[other].client().await;
        put_some(&mut client, killed * 20..killed * 20 + 20).await;
        cluster.members[killed].kill9();
        let mut written = 0;
        while written < 20 {
            // An election may be under way.
            written += usize::from(client.put(format!("/some/{written}"), "x", None).await.is_ok());
        }
        cluster.members[killed].restart().await;
    }
    let mut client = cluster.members[0].client().await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let captured = Captured::of(&site).await;
    assert_eq!(captured.lineages().len(), 1);
    assert_captured(&captured, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_for_a_while_loses_nothing() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    server.fail_all(Operation::Put, Act::Answer(503, "ServiceUnavailable"));
    put_some(&mut client, 20..200).await;
    sidecar.said("waits for the store", 1).await;
    server.heal();
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let captured = Captured::on(&server, &site).await;
    assert_eq!(captured.lineages().len(), 1);
    assert_captured(&captured, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_is_lost_is_stored_once() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    server.fail_nth(Operation::Put, 1, Act::LoseAnswer);
    put_some(&mut client, 0..50).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::on(&server, &site).await, &mut client).await;
}

/// At the limit capture pauses, and goes on when the store has taken what waited.
#[tokio::test(flavor = "multi_thread")]
async fn at_the_memory_limit_the_watch_is_given_up() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    let limits = ["--memory-limit=1MiB", "--compression-level=none", "--delta-snapshot-memory-limit=1MiB"];
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &limits);
    sidecar.opened(1).await;
    server.fail_all(Operation::Put, Act::Answer(503, "SlowDown"));
    for i in 0..40 {
        client.put(format!("/large/{i}"), vec![b'x'; 100_000], None).await.unwrap();
    }
    sidecar.said("bytes wait for the store", 1).await;
    server.heal();
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::on(&server, &site).await, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_that_begin_at_once_write_one_lineage() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..300).await;
    let mut one = Sidecar::start(&site, &[etcd.endpoint()]);
    let mut other = Sidecar::start(&site, &[etcd.endpoint()]);
    one.opened(1).await;
    other.opened(1).await;
    put_some(&mut client, 300..400).await;
    let revision = current_revision(&mut client).await;
    one.durable(revision).await;
    other.durable(revision).await;
    put_some(&mut client, 400..420).await;
    let revision = current_revision(&mut client).await;
    one.durable(revision).await;
    other.durable(revision).await;
    one.stop();
    other.stop();
    let captured = Captured::of(&site).await;
    // The younger one has joined the older one's lineage, where they did not begin with the same full.
    let growing: Vec<_> = captured.lineages().into_iter().filter(|lineage| lineage.backups.len() > 1).collect();
    let last = |lineage: &etcdbr_engine::archive::Lineage| {
        lineage.backups.iter().filter(|entry| entry.name.to_string().contains(&format!("{revision:020}"))).count()
    };
    assert_eq!(growing.iter().filter(|lineage| last(lineage) > 0).count(), 1, "{growing:?}");
    let oldest = captured.lineages()[0];
    let (seam, records) = captured.records(oldest).await;
    let mut stored = Database::snapshot(&mut client).await.records();
    stored.retain(|record| record.main.0 > seam);
    assert_as_stored(&records, &stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_come_with_what_they_were_granted() {
    let site = Site::local();
    let etcd = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = etcd.client().await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    edge_history(&mut client).await;
    let ids: Vec<i64> = client.leases().await.unwrap().leases().iter().map(|lease| lease.id()).collect();
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let captured = Captured::of(&site).await;
    let granted = captured.leases(captured.lineages()[0]).await;
    let mut asked = 0;
    for id in ids {
        let answer = client.lease_time_to_live(id, Some(etcd_client::LeaseTimeToLiveOptions::new().with_keys())).await;
        let answer = answer.unwrap();
        if !answer.keys().is_empty() {
            assert_eq!(granted.get(&id), Some(&answer.granted_ttl()), "lease {id}");
            asked += 1;
        }
    }
    assert!(asked > 0);
}
