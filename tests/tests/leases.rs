//! Leases of a captured history: what the source had is what the restored etcd has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use etcd_client::{Client, LeaseGrantOptions, PutOptions};
use etcdbr_engine::format::LeaseList;
use etcdbr_tests::database::Database;
use etcdbr_tests::etcd::{Etcd, EtcdVersion, Seat};
use etcdbr_tests::keyspace::{Keyspace, current_revision};
use etcdbr_tests::scenario::{Site, put_every_key, write_history};
use etcdbr_tests::sidecar::{Captured, Sidecar};

/// Granted to the one that expires: long enough for a busy machine to look at it first, short enough to wait for.
const EXPIRES_S: i64 = 20;
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(50);

async fn grant(client: &mut Client, ttl: i64, id: Option<i64>) -> i64 {
    let options = id.map(|id| LeaseGrantOptions::new().with_id(id));
    client.lease_grant(ttl, options).await.expect("a lease").id()
}

async fn put_leased(client: &mut Client, key: &str, lease: i64) {
    client.put(key, "x", Some(PutOptions::new().with_lease(lease))).await.expect("a put");
}

/// Keeps `lease` alive for as long as the task runs.
async fn keep_alive(mut client: Client, lease: i64) {
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.expect("a stream");
    while keeper.keep_alive().await.is_ok() && answers.message().await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until the archive holds a whole list of these leases.
async fn polled(site: &Site, leases: &BTreeSet<i64>) {
    let started = Instant::now();
    loop {
        let captured = Captured::of(site).await;
        for entry in captured.lineages().iter().flat_map(|lineage| &lineage.backups) {
            let reader = captured.archive().open(&entry.name).await.expect("an object can be opened");
            let told = &reader.footer().facts.capture;
            if told.lease_list == LeaseList::Complete
                && told.leases.iter().map(|lease| lease.id).collect::<BTreeSet<_>>() == *leases
            {
                return;
            }
        }
        assert!(started.elapsed() < PATIENCE, "no object tells of exactly the leases {leases:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The source's leases as `etcdctl lease list` and `lease timetolive --keys` show them, and its keys.
struct Quiesced {
    site: Site,
    keyspace: Keyspace,
    expiring: i64,
}

/// Leases of all kinds before the full, and after it; those that are gone; then one poll on a source that is at rest.
async fn quiesced(version: EtcdVersion) -> Quiesced {
    let site = Site::local();
    let mut source = Etcd::start(version).await;
    let mut client = source.client().await;
    write_history(&mut client, 20).await;
    let early = grant(&mut client, 600, None).await;
    for key in ["/lease/early/a", "/lease/early/b"] {
        put_leased(&mut client, key, early).await;
    }
    grant(&mut client, 700, None).await;
    let revoked = grant(&mut client, 800, None).await;
    put_leased(&mut client, "/lease/revoked", revoked).await;
    let bare = grant(&mut client, 900, None).await;
    let mut sidecar = Sidecar::start(&site, &[source.endpoint()]);
    sidecar.opened(1).await;

    let expiring = grant(&mut client, EXPIRES_S, None).await;
    let keeper = tokio::spawn(keep_alive(source.client().await, expiring));
    for key in ["/lease/expires/a", "/lease/expires/b"] {
        put_leased(&mut client, key, expiring).await;
    }
    for (id, ttl) in [(-5, 1_000), (i64::MIN, 1_100), (i64::MAX, 1_200)] {
        grant(&mut client, ttl, Some(id)).await;
        put_leased(&mut client, &format!("/lease/odd/{id}"), id).await;
    }
    grant(&mut client, 1_300, None).await;
    let short = grant(&mut client, 1_400, None).await;
    put_leased(&mut client, "/lease/short", short).await;
    for lease in [revoked, bare, short] {
        client.lease_revoke(lease).await.expect("a lease is revoked");
    }
    // A key that moves from one lease to another, and one that leaves its lease.
    put_leased(&mut client, "/lease/early/b", -5).await;
    client.put("/lease/odd/-5", "free", None).await.expect("a put");
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();

    // The poll of a sidecar that begins is its first act.
    let mut sidecar = Sidecar::start(&site, &[source.endpoint()]);
    let ids: BTreeSet<i64> = Keyspace::read(&mut client).await.leases.into_keys().collect();
    polled(&site, &ids).await;
    client.put("/lease/last", "x", None).await.expect("a put");
    sidecar.durable(current_revision(&mut client).await).await;
    sidecar.stop();
    let keyspace = Keyspace::read(&mut client).await;
    assert_eq!(keyspace.leases.len(), ids.len());
    source.stop();
    keeper.abort();
    Quiesced { site, keyspace, expiring }
}

async fn leases_are_those_of_the_source(version: EtcdVersion) {
    let Quiesced { site, keyspace, expiring } = quiesced(version).await;
    for (name, flags) in [("append", &["--output=json"][..]), ("rewrite", &["--output=json", "--defragment"])] {
        let (seat, dir) = (Seat::new("m0"), site.path(name));
        let told = site.restore(std::slice::from_ref(&seat), 0, &dir).args(flags).succeed().json();
        assert_eq!(told["granted_leases"], 0, "every lease was known: {told}");
        let restored = Etcd::builder(version).seat(seat).data_dir(&dir).start().await;
        let mut client = restored.client().await;
        let seen = Keyspace::read(&mut client).await;
        seen.assert_same(&keyspace);
        // A put that keeps the lease stops an etcd for ever where the lease has no record.
        let leased: BTreeMap<_, _> = seen.entries.iter().filter(|(_, entry)| entry.lease != 0).collect();
        assert!(leased.len() >= 6, "{leased:?}");
        put_every_key(&mut client, &leased.keys().map(|key| key.to_vec()).collect(), "kept").await;
        let after = Keyspace::read(&mut client).await;
        for (key, entry) in leased {
            assert_eq!(after.entries[key].lease, entry.lease, "{}", String::from_utf8_lossy(key));
        }
        expires(&mut client, expiring, &keyspace).await;
        Database::snapshot(&mut client).await.assert_sound();
    }
}

/// Waits until `lease` and its keys are gone; the others stay.
async fn expires(client: &mut Client, lease: i64, before: &Keyspace) {
    let started = Instant::now();
    let mut now = Keyspace::read(client).await;
    while now.entries.values().any(|entry| entry.lease == lease) || now.leases.contains_key(&lease) {
        assert!(started.elapsed() < PATIENCE, "lease {lease} does not expire");
        tokio::time::sleep(LOOK_EVERY).await;
        now = Keyspace::read(client).await;
    }
    let left: Vec<_> = before.leases.keys().filter(|id| **id != lease).collect();
    assert_eq!(now.leases.keys().collect::<Vec<_>>(), left);
    let keys = |keyspace: &Keyspace| keyspace.entries.values().filter(|entry| entry.lease != lease).count();
    assert_eq!(now.entries.len(), keys(before), "other keys stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_those_of_the_source_on_3_5() {
    leases_are_those_of_the_source(EtcdVersion::V3_5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_those_of_the_source_on_3_7() {
    leases_are_those_of_the_source(EtcdVersion::V3_7).await;
}
