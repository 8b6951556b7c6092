//! What happens next in a random history: the same seed gives the same steps.

use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};

use crate::load::Noise;

/// What [`Step::DeletePrefix`] chooses from.
const PREFIXES: [&[u8]; 6] = [b"/m/a", b"/m/b/", b"/m/c/1", b"\xff", b"/m/\x80", b"/n"];
/// TTLs of a lease in seconds; the first ones are over while the history goes on.
const TTLS: [i64; 5] = [1, 1, 600, 3_601, 86_400];
/// Ids that few think of.
const LEASE_IDS: [i64; 6] = [-5, i64::MIN, i64::MAX, 1, -1, 77];

/// Where a put gets its value and its lease from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Both are new.
    Nothing,
    /// The lease is the one that the key has.
    Lease,
    /// The value is.
    Value,
    /// Both are.
    Both,
}

/// A put; `lease` is a place in the list of those that were granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    key: usize,
    value_bytes: usize,
    seed: u64,
    lease: Option<usize>,
    keep: Keep,
}

/// What is done to the cluster.
#[derive(Debug, Clone)]
pub enum Step {
    /// One put.
    Put(Put),
    /// One key goes.
    Delete(usize),
    /// All keys with this prefix do.
    DeletePrefix(&'static [u8]),
    /// All keys from the lesser to the greater of these do.
    DeleteRange(usize, usize),
    /// A transaction of several operations, some of them nested; all made of one seed.
    Transaction(u64),
    /// A key is put and deleted so often, revision by revision.
    Flicker(usize, usize),
    /// A lease with this id (0: of etcd's choice) and TTL, and a put with it.
    Grant(i64, i64, usize),
    /// A lease goes, with its keys.
    Revoke(usize),
    /// A compaction so many revisions behind the newest one; its end is waited for, or not.
    Compact(i64, Physical),
    /// The file is written anew.
    Defragment,
    /// HashKV is asked for.
    AskHash,
}

/// Whether a compaction is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Physical {
    /// Until its records are gone.
    Done,
    /// They go some time later.
    Later,
}

/// The steps of a history, without end.
#[derive(Debug, Clone)]
pub struct Steps {
    noise: Noise,
    keys: Vec<Vec<u8>>,
}

impl Steps {
    /// Those of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut keys: Vec<Vec<u8>> =
            [&b"\0"[..], b"\0\0", b"\xff", b"\xff\xff\xff", b"/m/\x80\xff\x01", b"/m/\x80", b"/m/a", b"/n"]
                .map(<[u8]>::to_vec)
                .to_vec();
        for family in ["a/", "b/", "c/", "d/"] {
            keys.extend((0..12).map(|i| format!("/m/{family}{i}").into_bytes()));
        }
        Self { noise: Noise::new(seed), keys }
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.noise.next_u64() % n as u64) as usize
    }

    /// A key by its place.
    pub fn key(&self, place: usize) -> Vec<u8> {
        self.keys[place % self.keys.len()].clone()
    }

    fn place(&mut self) -> usize {
        // A few keys get most of what happens.
        let of = if self.below(3) == 0 { 8 } else { self.keys.len() };
        self.below(of)
    }

    fn put(&mut self) -> Put {
        let value_bytes = match self.below(200) {
            0 => 100_000,
            1..20 => 1_000 + self.below(4_000),
            20..40 => 0,
            _ => self.below(60),
        };
        let keep = match self.below(14) {
            0 => Keep::Value,
            1 | 2 => Keep::Lease,
            3 => Keep::Both,
            _ => Keep::Nothing,
        };
        let lease = (self.below(4) == 0).then(|| self.below(1_000));
        Put { key: self.place(), value_bytes, seed: self.noise.next_u64(), lease, keep }
    }

    /// The next one.
    pub fn step(&mut self) -> Step {
        match self.below(1_000) {
            0..520 => Step::Put(self.put()),
            520..640 => Step::Delete(self.place()),
            640..665 => Step::DeletePrefix(PREFIXES[self.below(PREFIXES.len())]),
            665..680 => Step::DeleteRange(self.place(), self.place()),
            680..840 => Step::Transaction(self.noise.next_u64()),
            840..850 => Step::Flicker(self.place(), 4 + self.below(16)),
            850..900 => {
                let id = if self.below(3) == 0 { LEASE_IDS[self.below(LEASE_IDS.len())] } else { 0 };
                Step::Grant(id, TTLS[self.below(TTLS.len())], self.place())
            }
            900..930 => Step::Revoke(self.below(1_000)),
            930..955 => {
                let physical = if self.below(2) == 0 { Physical::Done } else { Physical::Later };
                let behind = if self.below(3) == 0 { 0 } else { self.below(80) };
                Step::Compact(behind as i64, physical)
            }
            955..962 => Step::Defragment,
            _ => Step::AskHash,
        }
    }

    /// How the put `put` is asked of etcd, with `leases` granted so far.
    pub fn operation(&self, put: Put, leases: &[i64]) -> (Vec<u8>, Vec<u8>, PutOptions) {
        let value = match put.keep {
            Keep::Value | Keep::Both => Vec::new(),
            Keep::Nothing | Keep::Lease => Noise::new(put.seed).bytes(put.value_bytes),
        };
        let mut options = PutOptions::new();
        if matches!(put.keep, Keep::Value | Keep::Both) {
            options = options.with_ignore_value();
        }
        if matches!(put.keep, Keep::Lease | Keep::Both) {
            options = options.with_ignore_lease();
        } else if let Some(lease) = put.lease.and_then(|place| chosen(leases, place)) {
            options = options.with_lease(lease);
        }
        (self.key(put.key), value, options)
    }

    /// The transaction of `seed`: no key is written twice, or etcd would refuse it.
    pub fn transaction(&self, seed: u64, leases: &[i64]) -> Txn {
        let mut own = Self { noise: Noise::new(seed), keys: self.keys.clone() };
        let count = 1 + own.below(9);
        let first = own.below(own.keys.len());
        // 17 and the number of keys have no common divisor.
        let places = (0..count).map(|i| first + i * 17).collect::<Vec<_>>();
        own.nested(&places, 0, leases)
    }

    fn nested(&mut self, places: &[usize], depth: usize, leases: &[i64]) -> Txn {
        let (inner, outer) = places.split_at(if depth < 3 { self.below(places.len() + 1) } else { 0 });
        let mut operations: Vec<TxnOp> = outer.iter().map(|place| self.change(*place, leases)).collect();
        if !inner.is_empty() {
            let at = self.below(operations.len() + 1);
            operations.insert(at, TxnOp::txn(self.nested(inner, depth + 1, leases)));
        }
        if self.below(6) == 0 {
            operations.push(TxnOp::get(self.key(places.first().copied().unwrap_or(0)), None));
        }
        let asked = Compare::version(self.key(self.noise.clone().next_u64() as usize), CompareOp::Greater, 0);
        match self.below(4) {
            0 => Txn::new().when([asked]).and_then(operations),
            1 => Txn::new().when([asked]).or_else(operations),
            _ => Txn::new().and_then(operations),
        }
    }

    fn change(&mut self, place: usize, leases: &[i64]) -> TxnOp {
        match self.below(10) {
            0..3 => TxnOp::delete(self.key(place), None),
            3 => {
                // Only this key, and by a range.
                let key = self.key(place);
                let end = [key.as_slice(), &[0]].concat();
                TxnOp::delete(key, Some(DeleteOptions::new().with_range(end)))
            }
            _ => {
                let put = Put { key: place, keep: Keep::Nothing, ..self.put() };
                let (key, value, options) = self.operation(put, leases);
                TxnOp::put(key, value, Some(options))
            }
        }
    }
}

/// One of `leases`, the newest ones mostly.
pub fn chosen(leases: &[i64], place: usize) -> Option<i64> {
    let back = if place.is_multiple_of(4) { place } else { place % 5 };
    leases.len().checked_sub(1).map(|last| leases[last - back % leases.len()])
}
