//! Keyspaces to back up: deterministic, shaped like those of Kubernetes, and written fast.

use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, LeaseGrantOptions, PutOptions, Txn, TxnOp,
};

use crate::keyspace::current_revision;

/// The most operations that etcd takes in one transaction.
const TXN_OPS: usize = 128;
/// The most bytes of one transaction; etcd refuses requests past 1.5 MiB.
const TXN_BYTES: usize = 1 << 20;
/// An object of 3 KiB fills one page of the database, near enough.
const PAGE_BYTES: u64 = 4_120;
/// How many transactions are in flight.
const IN_FLIGHT: usize = 8;

/// A generator of reproducible noise (splitmix64).
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// The same seed gives the same noise.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `n` bytes that do not compress.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next_u64().to_le_bytes()).flatten().take(n).collect()
    }
}

/// What [`fill`] writes.
#[derive(Debug, Clone)]
pub struct Load {
    /// Keys begin with it.
    pub prefix: String,
    /// How many keys.
    pub keys: usize,
    /// About how many bytes a value has.
    pub value_bytes: usize,
    /// How many of 100 bytes of a value are noise; the rest compresses as the objects of Kubernetes do.
    pub noise_percent: usize,
    /// The same seed gives the same values.
    pub seed: u64,
}

impl Load {
    /// `keys` objects of about 1 KiB under `/registry/`.
    pub fn small(keys: usize) -> Self {
        Self { prefix: "/registry/".to_owned(), keys, value_bytes: 1024, noise_percent: 10, seed: 1 }
    }

    /// Enough objects of about 3 KiB that the database comes to `bytes`.
    pub fn sized(bytes: u64) -> Self {
        let keys = usize::try_from(bytes / PAGE_BYTES).expect("a size that fits memory");
        Self { prefix: "/registry/".to_owned(), keys, value_bytes: 3_072, noise_percent: 15, seed: 1 }
    }

    /// The key at position `i`.
    pub fn key(&self, i: usize) -> String {
        const KINDS: [&str; 5] = ["pods", "events", "configmaps", "leases", "secrets"];
        format!("{}{}/namespace-{:03}/object-{i:08}", self.prefix, KINDS[i % KINDS.len()], i / 7 % 200)
    }

    /// The value at position `i`.
    pub fn value(&self, i: usize) -> Vec<u8> {
        let mut noise = Noise::new(self.seed ^ (i as u64) << 20);
        let random = self.value_bytes * self.noise_percent / 100;
        let mut value = format!("k8s\0\n\x0c\n\x02v1\x12\x03Pod{{\"metadata\":{{\"name\":\"object-{i:08}\"");
        let mut field = 0;
        while value.len() + random < self.value_bytes {
            let shade = noise.next_u64() % 1_000;
            value += &format!(",\"annotation.example.com/field-{field}\":{{\"status\":\"Running\",\"count\":{shade}}}");
            field += 1;
        }
        let mut value = value.into_bytes();
        value.extend(noise.bytes(random));
        value
    }
}

/// Writes all of `load` in large transactions, several in flight.
///
/// # Panics
/// Where etcd refuses.
pub async fn fill(client: &Client, load: &Load) {
    let batch = (TXN_BYTES / (load.value_bytes + 128)).clamp(1, TXN_OPS);
    let mut flights = tokio::task::JoinSet::new();
    for start in (0..load.keys).step_by(batch) {
        if flights.len() >= IN_FLIGHT {
            flights.join_next().await.expect("flights are under way").expect("a transaction succeeds");
        }
        let ops: Vec<TxnOp> =
            (start..load.keys.min(start + batch)).map(|i| TxnOp::put(load.key(i), load.value(i), None)).collect();
        let mut client = client.clone();
        flights.spawn(async move { client.txn(Txn::new().and_then(ops)).await.expect("a transaction") });
    }
    while let Some(flight) = flights.join_next().await {
        flight.expect("a transaction succeeds");
    }
}

/// A short history in which everything occurs: overwrites, deletes, keys created again, transactions with several
/// writes in one revision, leases with and without keys, a compaction in the middle. Returns the leases' ids.
///
/// # Panics
/// Where etcd refuses.
pub async fn mixed_history(client: &mut Client) -> Vec<i64> {
    let mut leases = Vec::new();
    for ttl in [600, 3_600, 86_400] {
        leases.push(client.lease_grant(ttl, None).await.expect("a lease").id());
    }
    for i in 0..200 {
        let lease = (i % 10 == 0).then(|| PutOptions::new().with_lease(leases[i / 10 % 2]));
        client.put(format!("/mixed/{:03}", i % 60), format!("value {i}"), lease).await.expect("a put");
        if i % 7 == 0 {
            client.delete(format!("/mixed/{:03}", (i * 3) % 60), None).await.expect("a delete");
        }
        if i == 120 {
            let revision = current_revision(client).await;
            client.compact(revision - 20, None).await.expect("a compaction");
        }
    }
    let several = (0..5).map(|i| TxnOp::put(format!("/mixed/txn-{i}"), "one revision", None));
    let both = several.chain([TxnOp::delete("/mixed/00", Some(DeleteOptions::new().with_prefix()))]);
    let always = [Compare::version("/mixed/never", CompareOp::Equal, 0)];
    client.txn(Txn::new().when(always).and_then(both.collect::<Vec<_>>())).await.expect("a transaction");
    client.put("/mixed/empty", "", None).await.expect("a put");
    client.put("/mixed/large", Noise::new(7).bytes(1 << 20), None).await.expect("a put");
    client.put(b"/mixed/\xff\x00binary".to_vec(), b"\x00\xff".to_vec(), None).await.expect("a put");
    leases
}

/// What a restore is most easily wrong about: leases of odd ids, odd keys, lives of a key on both sides of a compaction,
/// and that compaction at a revision that deletes a key in the middle of a transaction.
///
/// # Panics
/// Where etcd refuses.
pub async fn edge_history(client: &mut Client) {
    odd_leases(client).await;
    for key in [&b"\0"[..], b"\0\0", b"\xff", b"\xff\xff\xff", b"/edge/\0", b"/edge/\x80\xff"] {
        client.put(key, key, None).await.expect("a put");
    }
    for size in [0, 1, 4_000, 300_000] {
        client.put(format!("/edge/size-{size}"), Noise::new(size as u64).bytes(size), None).await.expect("a put");
    }
    for i in 0..20 {
        client.put(format!("/edge/range-{i:02}"), "x", None).await.expect("a put");
    }
    client.delete("/edge/range-1", Some(DeleteOptions::new().with_prefix())).await.expect("a delete");
    for i in 0..60 {
        client.put("/edge/many", format!("before {i}"), None).await.expect("a put");
    }
    second_life(client, 5).await;
    client.put("/edge/floor/b", "x", None).await.expect("a put");
    let ops = [
        TxnOp::put("/edge/floor/a", "at the floor", None),
        TxnOp::delete("/edge/floor/b", None),
        TxnOp::put("/edge/floor/c", "", None),
    ];
    let answer = client.txn(Txn::new().and_then(ops)).await.expect("a transaction");
    let floor = answer.header().expect("every answer has a header").revision();
    client.compact(floor, Some(CompactionOptions::new().with_physical())).await.expect("a compaction");
    client.put("/edge/floor/c", "behind the floor", None).await.expect("a put");
    for i in 0..20 {
        client.put("/edge/many", format!("after {i}"), None).await.expect("a put");
    }
    second_life(client, 3).await;
    client.delete("/edge/floor/a", None).await.expect("a delete");
}

/// Leases of ids that few think of; with keys, without, with keys that left, and one that is revoked with its keys.
async fn odd_leases(client: &mut Client) {
    for id in [-5, i64::MIN, i64::MAX, 1] {
        let lease = client.lease_grant(7_200, Some(LeaseGrantOptions::new().with_id(id))).await.expect("a lease").id();
        for key in ["a", "b"] {
            let leased = PutOptions::new().with_lease(lease);
            client.put(format!("/edge/lease/{id}/{key}"), "", Some(leased)).await.expect("a put");
        }
    }
    client.delete("/edge/lease/1/a", None).await.expect("a delete");
    client.put("/edge/lease/1/b", "no lease any more", None).await.expect("a put");
    client.lease_grant(86_400, Some(LeaseGrantOptions::new().with_id(-6))).await.expect("a lease");
    let revoked = client.lease_grant(7_200, None).await.expect("a lease").id();
    for key in ["a", "b", "c"] {
        let leased = PutOptions::new().with_lease(revoked);
        client.put(format!("/edge/revoked/{key}"), "", Some(leased)).await.expect("a put");
    }
    client.lease_revoke(revoked).await.expect("a lease is revoked");
}

/// A key that lives, is deleted, and lives again with `versions` versions; and one that is left dead.
async fn second_life(client: &mut Client, versions: usize) {
    for key in ["/edge/again", "/edge/dead"] {
        for i in 0..versions {
            client.put(key, format!("first {i}"), None).await.expect("a put");
        }
        client.delete(key, None).await.expect("a delete");
    }
    for i in 0..versions {
        client.put("/edge/again", format!("second {i}"), None).await.expect("a put");
    }
}

/// Puts as many times as `range` is long, over and over on fifty keys: one revision each.
///
/// # Panics
/// Where etcd does not take one.
pub async fn put_some(client: &mut Client, range: std::ops::Range<usize>) {
    for i in range {
        client.put(format!("/some/{:03}", i % 50), format!("value {i}"), None).await.expect("etcd takes a put");
    }
}
