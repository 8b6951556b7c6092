//! The watch against real etcds: every record is the one that the `key` bucket holds, whatever happened, and nothing
//! is lost when members go away.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, DeleteOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use etcdbr_engine::bbolt::BoltFile;
use etcdbr_engine::datadir::decode_record;
use etcdbr_engine::etcd::{EtcdOptions, Member, Readable, WatchEnd, WatchLimits, WatchStream};
use etcdbr_engine::monitor::Silent;
use etcdbr_engine::record::{Change, Record};
use etcdbr_engine::revision::Revision;
use etcdbr_engine::secret::SecretText;
use etcdbr_tests::etcd::{Etcd, EtcdCluster, EtcdVersion};
use etcdbr_tests::keyspace::current_revision;
use etcdbr_tests::load::Noise;

/// Far more than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

async fn pin(etcd: &Etcd) -> Member {
    Member::pin(&EtcdOptions::new([etcd.endpoint()]), &Silent).await.unwrap()
}

/// etcd has several versions with bugs of their own in the middle of 3.5.
fn versions() -> impl Iterator<Item = EtcdVersion> {
    EtcdVersion::MINORS.into_iter().chain([EtcdVersion::V3_5_1])
}

async fn watch(member: &Member, start: i64) -> Result<WatchStream, WatchEnd> {
    member.watch(Revision(start), WatchLimits::default()).await
}

/// Reads on until `last` has come; whatever comes has to be contiguous and in order.
async fn gather(watch: &mut WatchStream, last: i64) -> Result<Vec<Record>, WatchEnd> {
    let mut records: Vec<Record> = Vec::new();
    while watch.next_revision().0 <= last {
        let expected = watch.next_revision();
        let next = tokio::time::timeout(PATIENCE, watch.next());
        let revisions = next.await.unwrap_or_else(|_| panic!("revision {expected} does not come"))?;
        assert_eq!(revisions.first, expected);
        assert_eq!(watch.next_revision(), revisions.last.next());
        assert!(revisions.member_revision >= revisions.last && revisions.raft_term > 0, "{revisions:?}");
        records.extend(revisions.records);
    }
    assert!(records.is_sorted_by_key(|record| (record.main, record.sub)));
    Ok(records)
}

/// Everything that the `key` bucket holds from `first` to `last`.
async fn stored(member: &Member, first: i64, last: i64) -> Vec<Record> {
    let mut stream = member.snapshot().await.unwrap();
    let mut image = Vec::new();
    while let Some(bytes) = stream.next().await.unwrap() {
        image.extend_from_slice(&bytes);
    }
    let file = BoltFile::open(image.as_slice()).unwrap();
    let mut cursor = file.cursor(&file.bucket(b"key").unwrap().unwrap());
    let mut entry = cursor.seek(&first.to_be_bytes()).unwrap();
    let mut records = Vec::new();
    while let Some(found) = entry {
        let record = decode_record(found.key, found.value).unwrap();
        if record.main.0 > last {
            break;
        }
        records.push(record);
        entry = cursor.next().unwrap();
    }
    records
}

/// Fails with the first difference; the records themselves are too many to print.
fn assert_same(what: &str, captured: &[Record], stored: &[Record]) {
    if let Some(at) = captured.iter().zip(stored).position(|(ours, theirs)| ours != theirs) {
        panic!("{what}: record {at} is {:?}, stored as {:?}", captured[at], stored[at]);
    }
    assert_eq!(captured.len(), stored.len(), "{what}");
}

async fn transact(client: &mut Client, ops: Vec<TxnOp>) {
    client.txn(Txn::new().and_then(ops)).await.unwrap();
}

/// A transaction in a transaction in a transaction: puts, and deletes of what others put, in one revision.
async fn nested(client: &mut Client, noise: &mut Noise, lease: i64) {
    let prefix = || Some(DeleteOptions::new().with_prefix());
    let leased = || Some(PutOptions::new().with_lease(lease));
    let never = [Compare::version("/never", CompareOp::Greater, 0)];
    let innermost =
        Txn::new().and_then([TxnOp::put("/n/3", noise.bytes(70), leased()), TxnOp::delete("/r/02", prefix())]);
    let inner = Txn::new().when(never).and_then([TxnOp::put("/n/unreached", "x", None)]).or_else([
        TxnOp::put("/n/2", "", None),
        TxnOp::txn(innermost),
        TxnOp::put("/n/4", "4", None),
    ]);
    let ops = vec![
        TxnOp::put("/n/1", noise.bytes(30), None),
        TxnOp::delete("/r/01", prefix()),
        TxnOp::txn(inner),
        TxnOp::put(b"/n/\xff\x00".to_vec(), b"\x00\xff".to_vec(), leased()),
    ];
    transact(client, ops).await;
}

async fn grant(client: &mut Client, id: i64, ttl: i64) -> i64 {
    client.lease_grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await.unwrap().id()
}

/// `steps` changes of all kinds, drawn from `seed`.
async fn random_history(client: &mut Client, seed: u64, steps: usize) {
    let mut noise = Noise::new(seed);
    let mut leases = [grant(client, -77, 600).await, grant(client, i64::MIN + 1, 600).await];
    for step in 0..steps {
        let key = format!("/r/{:03}", noise.next_u64() % 40);
        let draw = noise.next_u64();
        let lease = leases[(draw >> 32) as usize % 2];
        let value = noise.bytes((draw >> 40) as usize % 2_000);
        match draw % 16 {
            0..=5 => drop(client.put(key, value, None).await.unwrap()),
            6..=8 => {
                client.put(key, value, Some(PutOptions::new().with_lease(lease))).await.unwrap();
            }
            // Refused where the key does not exist.
            9 | 10 => drop(client.put(key, value, Some(PutOptions::new().with_ignore_lease())).await),
            11 | 12 => drop(client.delete(key, None).await.unwrap()),
            13 => drop(client.delete(&key[..5], Some(DeleteOptions::new().with_prefix())).await.unwrap()),
            14 => nested(client, &mut noise, lease).await,
            _ if step % 3 == 0 => {
                client.lease_revoke(lease).await.unwrap();
                let fresh = grant(client, -(1 << 40) - step as i64, 600).await;
                leases.iter_mut().filter(|held| **held == lease).for_each(|held| *held = fresh);
            }
            _ => drop(client.put(key, noise.bytes(300_000), None).await.unwrap()),
        }
    }
}

/// Three keys that go when their lease does, by itself.
async fn expiry(client: &mut Client) {
    let lease = grant(client, 4711, 1).await;
    for i in 0..3 {
        client.put(format!("/expires/{i}"), "x", Some(PutOptions::new().with_lease(lease))).await.unwrap();
    }
    while client.get("/expires/0", None).await.unwrap().count() > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Puts `n` keys of a thousand bytes, and deletes them in one revision: 2,500 are more than one fragment.
async fn mass_delete(client: &mut Client, n: usize) {
    let long = "k".repeat(1_000);
    for from in (0..n).step_by(128) {
        let ops = (from..n.min(from + 128)).map(|i| TxnOp::put(format!("/mass/{long}/{i:06}"), "", None)).collect();
        transact(client, ops).await;
    }
    client.delete("/mass/", Some(DeleteOptions::new().with_prefix())).await.unwrap();
}

/// So that leases of one second are granted.
const QUICK: [&str; 2] = ["--heartbeat-interval=20", "--election-timeout=200"];

#[tokio::test(flavor = "multi_thread")]
async fn records_are_what_the_key_bucket_holds() {
    for (version, seed) in EtcdVersion::MINORS.into_iter().zip(1..) {
        let etcd = Etcd::builder(version).arg(QUICK[0]).arg(QUICK[1]).start().await;
        let mut client = etcd.client().await;
        let member = pin(&etcd).await;
        let mut live = watch(&member, 1).await.unwrap();
        let capture = tokio::spawn(async move {
            let mut records = Vec::new();
            // The last one writes this key and no other.
            while !records.last().is_some_and(|last: &Record| last.value.starts_with(b"\x0a\x04/end")) {
                let next = live.next_revision().0;
                records.extend(gather(&mut live, next).await.unwrap());
            }
            records
        });
        random_history(&mut client, seed, 200).await;
        expiry(&mut client).await;
        let mut noise = Noise::new(seed);
        transact(&mut client, (0..4).map(|i| TxnOp::put(format!("/big/{i}"), noise.bytes(300_000), None)).collect())
            .await;
        mass_delete(&mut client, 2_500).await;
        client.put("/end", "", None).await.unwrap();
        let last = current_revision(&mut client).await;

        let stored = stored(&member, 1, last).await;
        assert!(stored.iter().any(|record| record.sub == 2_499 && record.change == Change::Tombstone), "{version:?}");
        assert_same(&format!("{version:?}, live"), &capture.await.unwrap(), &stored);
        let mut late = watch(&member, 1).await.unwrap();
        assert_same(&format!("{version:?}, late"), &gather(&mut late, last).await.unwrap(), &stored);
        let half = stored[stored.len() / 3].main;
        let mut later = watch(&member, half.0).await.unwrap();
        let from_half: Vec<Record> = stored.into_iter().filter(|record| record.main >= half).collect();
        assert_same(&format!("{version:?}, later"), &gather(&mut later, last).await.unwrap(), &from_half);
    }
}

/// A late watch that begins at the compact revision gets no tombstones of it from old etcds, and no word of that (T8).
#[tokio::test]
async fn what_is_compacted_is_never_given_in_part() {
    for version in versions() {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let member = pin(&etcd).await;
        assert_eq!(member.compact_revision().await.unwrap(), None, "{version:?}");
        for value in 0..5 {
            client.put("/a", value.to_string(), None).await.unwrap();
            client.put("/b", value.to_string(), None).await.unwrap();
        }
        transact(&mut client, vec![TxnOp::put("/c", "1", None), TxnOp::delete("/b", None)]).await;
        let compacted = current_revision(&mut client).await;
        client.put("/d", "1", None).await.unwrap();
        client.compact(compacted, None).await.unwrap();
        assert_eq!(member.compact_revision().await.unwrap(), Some(Revision(compacted)), "{version:?}");
        let readable = async |revision| member.readable(Revision(revision)).await.unwrap();
        assert_eq!(readable(compacted).await, Readable::Yes, "{version:?}");
        assert_eq!(readable(compacted - 1).await, Readable::Compacted, "{version:?}");
        assert_eq!(readable(compacted + 2).await, Readable::NotYet, "{version:?}");
        for start in [1, compacted - 1, compacted] {
            let end = watch(&member, start).await.err().unwrap();
            assert!(matches!(end, WatchEnd::Compacted { at: Some(at) } if at.0 == compacted), "{version:?}: {end:?}");
        }
        let mut after = watch(&member, compacted + 1).await.unwrap();
        let records = gather(&mut after, compacted + 1).await.unwrap();
        assert_same(&format!("{version:?}"), &records, &stored(&member, compacted + 1, compacted + 1).await);
        drop(after);
        assert_eq!(etcd.watchers(0.0).await, 0.0, "{version:?}: no watcher is left");
    }
}

/// A compaction of what a live watch has been given is none of its business.
#[tokio::test]
async fn a_live_watch_goes_through_compactions() {
    for version in versions() {
        let etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let member = pin(&etcd).await;
        let mut live = watch(&member, current_revision(&mut client).await + 1).await.unwrap();
        let mut last = 0;
        for round in 0..40 {
            client.put("/a", round.to_string(), None).await.unwrap();
            transact(&mut client, vec![TxnOp::put("/b", "1", None), TxnOp::delete("/a", None)]).await;
            last = current_revision(&mut client).await;
            client.compact(last, None).await.unwrap();
        }
        let records = gather(&mut live, last).await.unwrap();
        assert_eq!(records.len(), 120, "{version:?}");
    }
}

#[tokio::test]
async fn no_watcher_is_left_behind() {
    let etcd = Etcd::start(EtcdVersion::V3_5).await;
    let mut client = etcd.client().await;
    let member = pin(&etcd).await;
    let last = current_revision(&mut client).await;
    let idle = watch(&member, last + 1).await.unwrap();
    let mut read = watch(&member, last + 1).await.unwrap();
    let ahead = watch(&member, last + 1_000_000).await.unwrap();
    client.put("/a", "1", None).await.unwrap();
    gather(&mut read, last + 1).await.unwrap();
    assert_eq!(etcd.watchers(3.0).await, 3.0);
    // A call that is given up, with the watch it was made on and without it.
    assert!(tokio::time::timeout(Duration::from_millis(50), read.next()).await.is_err());
    client.put("/a", "2", None).await.unwrap();
    assert_eq!(gather(&mut read, last + 2).await.unwrap().len(), 1, "a call that was given up loses nothing");
    drop((idle, read, ahead));
    assert_eq!(etcd.watchers(0.0).await, 0.0);
    // A revision that is too large ends its watch, whose owner may keep what is left of it.
    let tight = WatchLimits { revision_bytes_max: 10_000 };
    let mut small = member.watch(Revision(last + 3), tight).await.unwrap();
    client.put("/a", vec![7; 20_000], None).await.unwrap();
    let end = small.next().await.unwrap_err();
    assert!(matches!(end, WatchEnd::TooLarge { limit_bytes: 10_000, .. }), "{end:?}");
    assert_eq!(small.next_revision(), Revision(last + 3));
    assert_eq!(etcd.watchers(0.0).await, 0.0);
    assert!(small.next().await.is_err());
}

#[tokio::test]
async fn a_restart_of_the_member_ends_the_watch() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_7] {
        let mut etcd = Etcd::start(version).await;
        let mut client = etcd.client().await;
        let member = pin(&etcd).await;
        let mut live = watch(&member, 1).await.unwrap();
        client.put("/a", "1", None).await.unwrap();
        let before = gather(&mut live, 2).await.unwrap();
        etcd.restart().await;
        let end = live.next().await.unwrap_err();
        assert!(matches!(end, WatchEnd::Unavailable(_)), "{version:?}: {end:?}");
        etcd.client().await.put("/a", "2", None).await.unwrap();
        let mut again = watch(&member, live.next_revision().0).await.unwrap();
        let records = [before, gather(&mut again, 3).await.unwrap()].concat();
        assert_same(&format!("{version:?}"), &records, &stored(&member, 1, 3).await);
    }
}

/// Writes through whichever member answers until told to stop.
async fn write_on(cluster: &EtcdCluster, stop: tokio_util::sync::CancellationToken) -> tokio::task::JoinHandle<()> {
    let mut clients = Vec::new();
    for etcd in &cluster.members {
        clients.push(etcd.client().await);
    }
    tokio::spawn(async move {
        let mut noise = Noise::new(9);
        for i in 0.. {
            if stop.is_cancelled() {
                break;
            }
            let value = noise.bytes(500);
            let ops = if i % 5 == 0 {
                let puts = (0..8).map(|j| TxnOp::put(format!("/w/{j}"), value.clone(), None));
                puts.chain([TxnOp::delete("/x/1", Some(DeleteOptions::new().with_prefix()))]).collect()
            } else {
                vec![TxnOp::put(format!("/x/{}", i % 50), value, None)]
            };
            let attempt = clients[i % 3].txn(Txn::new().and_then(ops));
            // One that is lost with its member may have been made or not; the next goes elsewhere.
            let _ = tokio::time::timeout(Duration::from_secs(2), attempt).await;
        }
    })
}

/// The rule of resumption: what was whole stays, what was not is given again, by whichever member is there.
#[tokio::test(flavor = "multi_thread")]
async fn capture_goes_on_at_another_member_when_one_is_killed() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_6, EtcdVersion::V3_7] {
        let mut cluster = EtcdCluster::start(version, 3).await;
        let stop = tokio_util::sync::CancellationToken::new();
        let writer = write_on(&cluster, stop.clone()).await;
        let mut records = Vec::new();
        let mut next = 2;
        let mut known = None;
        for round in 0..4 {
            let watched = round % 3;
            let member = pin(&cluster.members[watched]).await;
            let standing = member.standing(PATIENCE).await.unwrap();
            assert_eq!(known.map_or(Ok(()), |known| standing.follows(&known)), Ok(()), "{version:?}");
            assert!(standing.revision.0 >= next - 1, "{version:?}: {standing:?} before {next}");
            known = Some(standing);
            let mut live = watch(&member, next).await.unwrap();
            records.extend(gather(&mut live, next + 100).await.unwrap());
            cluster.members[watched].kill9();
            let end = loop {
                match live.next().await {
                    Ok(revisions) => records.extend(revisions.records),
                    Err(end) => break end,
                }
            };
            assert!(matches!(end, WatchEnd::Unavailable(_)), "{version:?}: {end:?}");
            next = live.next_revision().0;
            cluster.members[watched].restart().await;
        }
        stop.cancel();
        writer.await.unwrap();
        let member = pin(&cluster.members[1]).await;
        let last = member.linearizable_revision().await.unwrap().0;
        records.extend(gather(&mut watch(&member, next).await.unwrap(), last).await.unwrap());
        assert_same(&format!("{version:?}"), &records, &stored(&member, 1, last).await);
    }
}

/// One revision of 50 MB: larger than what a connection has in flight, and than what etcd takes unless it is told to.
#[tokio::test]
async fn a_very_large_transaction_comes_whole() {
    for version in [EtcdVersion::V3_4, EtcdVersion::V3_7] {
        let etcd = Etcd::builder(version).arg("--max-request-bytes=60000000").start().await;
        let mut client = etcd.client().await;
        let member = pin(&etcd).await;
        let mut live = watch(&member, 1).await.unwrap();
        let mut noise = Noise::new(3);
        let value = noise.bytes(1_000_000);
        transact(&mut client, (0..50).map(|i| TxnOp::put(format!("/big/{i:02}"), value.clone(), None)).collect()).await;
        let revisions = live.next().await.unwrap();
        assert!(revisions.held_bytes > 50_000_000, "{version:?}");
        assert_same(&format!("{version:?}"), &revisions.records, &stored(&member, 1, 2).await);
    }
}

async fn pin_as(etcd: &Etcd, user: &str) -> Member {
    let mut options = EtcdOptions::new([etcd.endpoint()]);
    options.credentials = Some((user.to_owned(), SecretText::new("pw")));
    Member::pin(&options, &Silent).await.unwrap()
}

#[tokio::test]
async fn a_token_that_expires_is_renewed() {
    for version in EtcdVersion::MINORS {
        let etcd = Etcd::builder(version).arg("--auth-token-ttl=1").arg("--log-level=debug").start().await;
        let mut client = etcd.client().await;
        for (user, role) in [("root", "root"), ("ann", "some")] {
            client.role_add(role).await.unwrap();
            client.user_add(user, "pw", None).await.unwrap();
            client.user_grant_role(user, role).await.unwrap();
        }
        let some = etcd_client::Permission::read("/some/").with_prefix();
        client.role_grant_permission("some", some).await.unwrap();
        client.auth_enable().await.unwrap();
        let member = pin_as(&etcd, "root").await;
        let mut live = watch(&member, 1).await.unwrap();
        let expired = || etcd.log().matches("deleted a simple token").count();
        let wait_for_expiry = async |tokens| {
            let before = expired();
            while expired() < before + tokens {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        wait_for_expiry(1).await;
        let mut root = etcd.client_of("root", "pw").await.unwrap();
        root.put("/a", "1", None).await.unwrap();
        gather(&mut live, 2).await.unwrap();
        gather(&mut watch(&member, 1).await.unwrap(), 2).await.unwrap();
        wait_for_expiry(2).await;
        assert_eq!(member.linearizable_revision().await.unwrap(), Revision(2), "{version:?}");

        let ann = pin_as(&etcd, "ann").await;
        let end = watch(&ann, 1).await.err().unwrap();
        assert!(matches!(end, WatchEnd::Denied(_)), "{version:?}: {end:?}");
        assert!(end.to_string().contains("\"ann\""), "{version:?}: {end}");
    }
}
