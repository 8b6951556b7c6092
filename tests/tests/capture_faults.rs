//! The sidecar between an etcd and a store that fail it, each in a way of its own: no revision is missing, none is twice,
//! and no two histories are mixed.

use etcd_client::{Client, CompactionOptions, PutOptions, Txn, TxnOp};
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::keyspace::{current_revision, hash_kv};
use etcdbr_tests::load::put_some;
use etcdbr_tests::proxy::Proxy;
use etcdbr_tests::s3::{Act, Mode, Operation, S3Server};
use etcdbr_tests::scenario::{BUCKET, Site, assert_failed};
use etcdbr_tests::sidecar::{Captured, Sidecar};

/// What it may use beside what it was told may wait for the store.
const OWN_MEMORY_BYTES: u64 = 128 << 20;

/// The newest lineage is one of `lineages`, and holds every record that the source has behind its seam and its floor.
async fn assert_captured(captured: &Captured, lineages: usize, client: &mut Client) {
    assert_eq!(captured.lineages().len(), lineages);
    let (seam, mut records) = captured.records(captured.lineages().last().unwrap()).await;
    let database = Database::snapshot(client).await;
    let floor = database.floor().max(seam);
    let mut stored = database.records();
    stored.retain(|record| record.main.0 > floor);
    records.retain(|record| record.main.0 > floor);
    let differs = records.iter().zip(&stored).position(|(ours, theirs)| ours != theirs);
    assert_eq!((differs, records.len()), (None, stored.len()));
}

// --- the network --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut_loses_nothing() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_6).await);
    let proxy = Proxy::to(&etcd.endpoint()).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[proxy.endpoint()]);
    sidecar.opened(1).await;
    for round in 1..=3 {
        put_some(&mut client, round * 40..round * 40 + 20).await;
        proxy.cut();
        put_some(&mut client, round * 40 + 20..round * 40 + 40).await;
        sidecar.said("capture pauses", round).await;
        proxy.mend();
        sidecar.durable(current_revision(&mut client).await).await;
    }
    sidecar.stop();
    assert_captured(&Captured::of(&site).await, 1, &mut client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_stands_still_loses_nothing() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_7).await);
    let proxy = Proxy::to(&etcd.endpoint()).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[proxy.endpoint()]);
    sidecar.opened(1).await;
    proxy.stall();
    put_some(&mut client, 20..60).await;
    sidecar.said("capture pauses", 1).await;
    proxy.mend();
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::of(&site).await, 1, &mut client).await;
}

// --- the store ----------------------------------------------------------------------------------------------------------

/// The second upload never ends, the third does: nothing behind the first was called durable, and after a kill the whole
/// of it comes again.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_one_and_three_done_two_not_then_a_kill() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    put_some(&mut client, 0..10).await;
    let first = current_revision(&mut client).await;
    sidecar.durable(first).await;
    let (stored, asked) = (server.keys().len(), server.count(Operation::Put));
    server.fail_nth(Operation::Put, 1, Act::Silence);
    put_some(&mut client, 10..20).await;
    until(|| server.count(Operation::Put) > asked).await;
    put_some(&mut client, 20..30).await;
    until(|| server.keys().len() > stored).await;
    assert_eq!(sidecar.durable_revision(), first, "a later upload made an earlier revision durable");
    sidecar.kill9();
    server.heal();
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::on(&server, &site).await, 1, &mut client).await;
}

async fn until(reached: impl Fn() -> bool) {
    let waited = async {
        while !reached() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), waited).await.expect("what was waited for happens");
}

/// As under Kubernetes: whatever is a while old is compacted, also while nothing can be stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_while_etcd_compacts_loses_nothing() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    server.fail_all(Operation::Put, Act::Answer(503, "SlowDown"));
    for round in 1..6 {
        put_some(&mut client, round * 50..round * 50 + 50).await;
        sidecar.said("waits for the store", 1).await;
        let revision = current_revision(&mut client).await;
        client.compact(revision - 5, Some(CompactionOptions::new().with_physical())).await.unwrap();
    }
    server.heal();
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::on(&server, &site).await, 1, &mut client).await;
}

/// A sidecar that starts again does not see its newest deltas: it captures them once more, which adds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_lags_makes_no_gap() {
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    put_some(&mut client, 20..40).await;
    sidecar.durable(current_revision(&mut client).await).await;
    server.lag_listings();
    put_some(&mut client, 40..60).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.kill9();
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    put_some(&mut client, 60..80).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    server.catch_listings_up();
    assert_captured(&Captured::on(&server, &site).await, 1, &mut client).await;
    let json = site.restore(&[Seat::new("m0")], 0, &site.path("restored")).arg("--output=json").succeed().json();
    assert_eq!(json["revision"], current_revision(&mut client).await);
}

// --- other histories ----------------------------------------------------------------------------------------------------

/// Term, index and revision of the restored cluster are all beyond what was stored of the young one, its ids are the same,
/// and its keys too: only the records tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_young_cluster_that_was_restored_and_written_past_is_another_history() {
    let (site, seat) = (Site::local(), Seat::new("m0"));
    let mut etcd = Etcd::builder(EtcdVersion::V3_6).seat(seat.clone()).start().await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..3).await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    put_some(&mut client, 3..6).await;
    client.delete("/some/003", None).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    etcd.stop();
    let dir = site.path("restored");
    let full = Captured::of(&site).await.lineages()[0].latest_full().unwrap().name.to_string();
    site.restore(std::slice::from_ref(&seat), 0, &dir).args(["--backup", &full]).succeed();
    let mut etcd = Etcd::builder(EtcdVersion::V3_6).seat(seat).data_dir(&dir).start().await;
    for _ in 0..3 {
        etcd.stop();
        etcd.restart().await;
    }
    let mut client = etcd.client().await;
    for i in 3..40 {
        client.put(format!("/some/{i:03}"), "of another history", None).await.unwrap();
    }
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.said("a new full opens another one", 1).await;
    sidecar.opened(1).await;
    put_some(&mut client, 40..50).await;
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::of(&site).await, 2, &mut client).await;
}

/// They are kept apart, a restore does not guess which one is meant, and either comes back when it is named.
#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_that_write_one_prefix_are_never_mixed() {
    let site = Site::local();
    let (one, other) = (Etcd::start(EtcdVersion::V3_6).await, Etcd::start(EtcdVersion::V3_6).await);
    let (mut of_one, mut of_other) = (one.client().await, other.client().await);
    let mut sidecar = Sidecar::start(&site, &[one.endpoint()]);
    let mut second = Sidecar::start(&site, &[other.endpoint()]);
    sidecar.opened(1).await;
    second.opened(1).await;
    for round in 0..3 {
        put_some(&mut of_one, round * 10..round * 10 + 10).await;
        put_some(&mut of_other, round * 10 + 500..round * 10 + 520).await;
        sidecar.durable(current_revision(&mut of_one).await).await;
        second.durable(current_revision(&mut of_other).await).await;
    }
    sidecar.stop();
    second.stop();
    let captured = Captured::of(&site).await;
    assert_eq!(captured.lineages().len(), 2);
    let seat = Seat::new("m0");
    let latest = site.restore(std::slice::from_ref(&seat), 0, &site.path("guessed")).run();
    assert_failed(&latest, 4, &["--lineage"]);
    let mut clients = std::collections::BTreeMap::new();
    for client in [of_one, of_other] {
        clients.insert(current_revision(&mut client.clone()).await, client);
    }
    for lineage in captured.lineages() {
        let dir = site.path(&lineage.id.to_string());
        let run = site.restore(std::slice::from_ref(&seat), 0, &dir).args(["--lineage", &lineage.id.to_string()]);
        let revision = run.arg("--output=json").succeed().json()["revision"].as_i64().unwrap();
        let mut source = clients.remove(&revision).expect("the newest revision of one of them");
        let expected = hash_kv(&mut source, 0).await;
        assert_eq!(Database::in_dir(&dir).hash_kv(revision, expected.compact_revision), expected);
    }
    assert!(clients.is_empty());
}

// --- what is written ----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_put_and_deleted_ten_thousand_times_comes_back() {
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_6).await);
    let mut client = etcd.client().await;
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.opened(1).await;
    for i in 0..10_000 {
        client.put("/again", format!("life {i}"), None).await.unwrap();
        client.delete("/again", None).await.unwrap();
    }
    let revision = client.put("/again", "at last", None).await.unwrap().header().unwrap().revision();
    sidecar.durable(revision).await;
    sidecar.stop();
    let seat = Seat::new("m0");
    for target in [revision, revision - 1, revision - 2, revision - 9_999] {
        let dir = site.path(&target.to_string());
        let run = site.restore(std::slice::from_ref(&seat), 0, &dir).args(["--revision", &target.to_string()]);
        assert_eq!(run.arg("--output=json").succeed().json()["revision"], target);
        let expected = hash_kv(&mut client, target).await;
        assert_eq!(Database::in_dir(&dir).hash_kv(target, expected.compact_revision), expected, "at {target}");
    }
}

/// One transaction of 50 MB, and values of 1.5 MB, in as much memory as was promised.
#[tokio::test(flavor = "multi_thread")]
async fn a_very_large_transaction_keeps_within_the_memory() {
    let site = Site::local();
    let etcd = Etcd::builder(EtcdVersion::V3_6).arg("--max-request-bytes=62914560").start().await;
    let mut client = etcd.client().await;
    let limit = "--memory-limit=64MiB";
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &[limit]);
    sidecar.opened(1).await;
    let value = |i: usize| etcdbr_tests::load::Noise::new(i as u64).bytes(1_500_000);
    for i in 0..10 {
        client.put(format!("/large/{i}"), value(i), None).await.unwrap();
    }
    let ops: Vec<TxnOp> = (0..33).map(|i| TxnOp::put(format!("/txn/{i}"), value(100 + i), None)).collect();
    client.txn(Txn::new().and_then(ops)).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    let outcome = sidecar.stop();
    assert!(outcome.peak_rss_bytes <= (64 << 20) + OWN_MEMORY_BYTES, "{} bytes", outcome.peak_rss_bytes);
    assert_captured(&Captured::of(&site).await, 1, &mut client).await;
}

/// Leases by the ten thousand, most of them without a key: all of them come back, in as much memory as was promised.
/// `SOAK_LEASES` says how many; a large source has 300,000.
#[tokio::test(flavor = "multi_thread")]
async fn very_many_leases_keep_within_the_memory() {
    let leases: usize = std::env::var("SOAK_LEASES").map_or(20_000, |count| count.parse().unwrap());
    let (site, etcd) = (Site::local(), Etcd::start(EtcdVersion::V3_6).await);
    let client = etcd.client().await;
    let mut flights = tokio::task::JoinSet::new();
    for i in 0..leases {
        if flights.len() >= 64 {
            flights.join_next().await.unwrap().unwrap();
        }
        let mut client = client.clone();
        flights.spawn(async move {
            let lease = client.lease_grant(7_200, None).await.unwrap().id();
            if i % 20 == 0 {
                client.put(format!("/leased/{i}"), "", Some(PutOptions::new().with_lease(lease))).await.unwrap();
            }
        });
    }
    flights.join_all().await;
    let mut sidecar = Sidecar::start_with(&site, &[etcd.endpoint()], &["--memory-limit=64MiB"]);
    sidecar.opened(1).await;
    let mut client = client;
    put_some(&mut client, 0..20).await;
    let lease = client.lease_grant(7_200, None).await.unwrap().id();
    client.put("/leased/late", "", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    sidecar.durable(current_revision(&mut client).await).await;
    let outcome = sidecar.stop();
    assert!(outcome.peak_rss_bytes <= (64 << 20) + OWN_MEMORY_BYTES, "{} bytes", outcome.peak_rss_bytes);
    let restored = site.restore(&[Seat::new("m0")], 0, &site.path("restored")).arg("--output=json").succeed();
    println!("{leases} leases: capture {} bytes, restore {} bytes", outcome.peak_rss_bytes, restored.peak_rss_bytes);
    let json = restored.json();
    assert_eq!((json["leases"].as_u64(), json["granted_leases"].as_u64()), (Some(leases as u64 + 1), Some(0)));
}

// --- kill -9 ------------------------------------------------------------------------------------------------------------

/// Every step from the watch to the durable revision, as the store sees it: nothing has come, a request has come and
/// nothing is stored, all is stored and nobody was told. Whatever was called durable restores, and capture goes on without
/// a gap and without a new full.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_to_the_durable_revision_it_goes_on() {
    let steps = [Act::Answer(503, "SlowDown"), Act::CutRequest(100), Act::Silence, Act::LoseAnswer];
    let server = S3Server::start(Mode::Plain, BUCKET).await;
    let site = Site::on(&server);
    let etcd = Etcd::start(EtcdVersion::V3_6).await;
    let mut client = etcd.client().await;
    put_some(&mut client, 0..20).await;
    let mut written = 20;
    for (step, act) in steps.into_iter().enumerate() {
        let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
        match step {
            0 => sidecar.opened(1).await,
            _ => sidecar.said("going on with lineage", 1).await,
        }
        put_some(&mut client, written..written + 10).await;
        sidecar.durable(current_revision(&mut client).await).await;
        let asked = server.count(Operation::Put);
        server.fail_all(Operation::Put, act);
        put_some(&mut client, written + 10..written + 20).await;
        until(|| server.count(Operation::Put) > asked).await;
        let said = sidecar.durable_revision();
        sidecar.kill9();
        server.heal();
        let captured = Captured::on(&server, &site).await;
        assert_eq!(captured.lineages().len(), 1, "{act:?}");
        let (_, records) = captured.records(captured.lineages()[0]).await;
        assert!(records.last().is_some_and(|record| record.main.0 >= said), "{said} was said to be durable: {act:?}");
        written += 20;
    }
    let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    assert_captured(&Captured::on(&server, &site).await, 1, &mut client).await;
}

/// Killed while its first full is on its way: nothing was called durable, and the next one begins anew.
#[tokio::test(flavor = "multi_thread")]
async fn killed_before_its_first_full_is_durable_it_begins_anew() {
    for act in [Act::Silence, Act::LoseAnswer] {
        let server = S3Server::start(Mode::Plain, BUCKET).await;
        let site = Site::on(&server);
        let etcd = Etcd::start(EtcdVersion::V3_7).await;
        let mut client = etcd.client().await;
        put_some(&mut client, 0..20).await;
        server.fail_all(Operation::Put, act);
        let sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
        until(|| server.count(Operation::Put) > 0).await;
        put_some(&mut client, 20..40).await;
        assert_eq!(sidecar.durable_revision(), 0);
        sidecar.kill9();
        server.heal();
        let left = Captured::on(&server, &site).await;
        assert!(left.lineages().iter().all(|lineage| lineage.backups.len() == 1), "a delta without its full");
        let mut sidecar = Sidecar::start(&site, &[etcd.endpoint()]);
        put_some(&mut client, 40..60).await;
        sidecar.durable(current_revision(&mut client).await).await;
        sidecar.stop();
        // What was stored without an answer is a full like any other, and is gone on with.
        assert_captured(&Captured::on(&server, &site).await, 1, &mut client).await;
    }
}
