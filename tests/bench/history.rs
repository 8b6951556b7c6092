//! The history that a sidecar captures: many small revisions, as fast as etcd takes them, and when each was committed.

use std::time::Instant;

use etcd_client::{Client, DeleteOptions, PutOptions, Txn, TxnOp};
use etcdbr_tests::load::Noise;
use tokio::task::JoinSet;

use crate::objects::Objects;

/// Requests under way at once: etcd writes no faster with more of them.
const IN_FLIGHT: usize = 64;
/// An event of about 1 KB.
const VALUE_BYTES: usize = 900;
const SEED: u64 = 33;
/// Leases that some of the keys are on.
const LEASES: usize = 300;
const LEASE_TTL_S: i64 = 36_000;

/// A revision and the moment at which its answer came.
pub(crate) type Commit = (i64, Instant);

/// Writes `revisions` revisions over the keys of `objects` and keys of its own: puts of 1 KB, and of every hundred
/// three deletes, one transaction of five writes, one delete of a prefix, and two puts on a lease.
///
/// # Panics
/// Where etcd refuses.
pub(crate) async fn write(client: &Client, objects: &Objects, keys: u64, revisions: usize) -> Vec<Commit> {
    let mut noise = Noise::new(SEED ^ revisions as u64);
    let mut leases = Vec::new();
    for _ in 0..LEASES {
        let lease = client.clone().lease_grant(LEASE_TTL_S, None).await.expect("a lease");
        leases.push(lease.id());
    }
    let (mut flights, mut commits) = (JoinSet::new(), Vec::with_capacity(revisions));
    for at in 0..revisions {
        if flights.len() >= IN_FLIGHT {
            commits.push(flights.join_next().await.expect("flights are under way").expect("a write succeeds"));
        }
        let request = request(&mut noise, objects, keys, &leases, at);
        flights.spawn(send(client.clone(), request));
    }
    commits.extend(flights.join_all().await);
    commits.sort_unstable();
    commits
}

fn request(noise: &mut Noise, objects: &Objects, keys: u64, leases: &[i64], at: usize) -> Txn {
    let key = objects.key(noise.next_u64() % keys);
    let value = value(noise);
    let ops = match at % 100 {
        0..3 => vec![TxnOp::delete(key, None)],
        3 => (0..5).map(|i| TxnOp::put(format!("/bench/txn/{i}/{}", at % 1_000), value.clone(), None)).collect(),
        // A put beside it: a delete of nothing makes no revision.
        4 => {
            let prefix = format!("/bench/prefix/{}/", at / 100 % 50);
            vec![
                TxnOp::delete(prefix.clone(), Some(DeleteOptions::new().with_prefix())),
                TxnOp::put("/bench/swept", prefix, None),
            ]
        }
        5..7 => {
            let lease = leases[at / 100 % leases.len()];
            vec![TxnOp::put(format!("/bench/leased/{}", at % 5_000), value, Some(PutOptions::new().with_lease(lease)))]
        }
        7 => vec![TxnOp::put(format!("/bench/prefix/{}/{at}", at / 100 % 50), value, None)],
        _ => vec![TxnOp::put(key, value, None)],
    };
    Txn::new().and_then(ops)
}

/// Compresses about as the objects do.
fn value(noise: &mut Noise) -> Vec<u8> {
    let mut value = noise.bytes(VALUE_BYTES / 6);
    while value.len() < VALUE_BYTES {
        value.extend_from_slice(
            br#"{"kind":"Event","reason":"Scheduled","type":"Normal","reportingComponent":"scheduler"}"#,
        );
    }
    value
}

async fn send(mut client: Client, txn: Txn) -> Commit {
    let answer = client.txn(txn).await.expect("a write");
    (answer.header().expect("every answer has a header").revision(), Instant::now())
}
