//! Leases that live keys name and that have no record of their own.
//!
//! An etcd whose live key names a lease that it does not know starts, and stops for ever at the first put that keeps
//! the key's lease. So every lease that the newest put of a key names gets a record.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use etcdbr_proto::leasepb;
use prost::Message;

use crate::error::{Error, ErrorKind, Result};

/// Granted to a lease whose own time to live is not known, in seconds.
const DEFAULT_TTL_S: i64 = 3600;

/// The leases of an image. Memory: 8 bytes for each that has a record, about 32 for each live key whose lease has none.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Those that have a record, ascending.
    known: Vec<i64>,
    /// The lease without a record that the newest put of a key names, by two hashes of the key.
    orphans: HashMap<u128, i64>,
    /// Random per run: users choose key names, and two of them must not meet here.
    hashers: [RandomState; 2],
}

impl Leases {
    /// Those with a record, `known` in any order.
    pub(super) fn new(mut known: Vec<i64>) -> Self {
        known.sort_unstable();
        Self { known, ..Self::default() }
    }

    /// The leases with a record.
    pub(super) fn known(&self) -> u64 {
        self.known.len() as u64
    }

    /// Notes that the next record of `key` names `lease` (0: none, or a tombstone). Records come in their order.
    pub(super) fn refer(&mut self, key: &[u8], lease: i64) {
        let orphaned = lease != 0 && self.known.binary_search(&lease).is_err();
        if !orphaned && self.orphans.is_empty() {
            return;
        }
        let [high, low] = &self.hashers;
        let hash = u128::from(high.hash_one(key)) << 64 | u128::from(low.hash_one(key));
        if orphaned {
            self.orphans.insert(hash, lease);
        } else {
            self.orphans.remove(&hash);
        }
    }

    /// Key and value of a record for every lease that has none, in key order.
    pub(super) fn missing(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut ids: Vec<i64> = self.orphans.values().copied().collect();
        // Keys are big-endian two's complement: negative ids sort behind the others.
        ids.sort_unstable_by_key(|&id| id as u64);
        ids.dedup();
        let record = |id: i64| leasepb::Lease { id, ttl: DEFAULT_TTL_S, remaining_ttl: 0 }.encode_to_vec();
        ids.into_iter().map(|id| (id.to_be_bytes().to_vec(), record(id))).collect()
    }
}

/// The id of an entry of the `lease` bucket.
///
/// # Errors
/// `Damaged` where the key is not an id.
pub(super) fn lease_id(key: &[u8]) -> Result<i64> {
    <[u8; 8]>::try_from(key)
        .map(i64::from_be_bytes)
        .map_err(|_| Error::new(ErrorKind::Damaged, "a key in the bucket lease of the database is not a lease id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unknown_lease_gets_one_record_in_key_order() {
        let mut leases = Leases::new(vec![9, 3]);
        for (key, lease) in [(b"a", 0), (b"b", 3), (b"c", 77), (b"d", -5), (b"e", 77), (b"f", 100)] {
            leases.refer(key, lease);
        }
        assert_eq!(leases.known(), 2);
        let missing = leases.missing();
        assert_eq!(missing.len(), 3);
        assert_eq!(missing[0], (77_i64.to_be_bytes().to_vec(), b"\x08\x4d\x10\x90\x1c".to_vec()));
        assert_eq!(
            (missing[1].0.as_slice(), missing[2].0.as_slice()),
            (&100_i64.to_be_bytes()[..], &(-5_i64).to_be_bytes()[..])
        );
    }

    #[test]
    fn a_lease_that_only_history_names_gets_none() {
        let mut leases = Leases::new(vec![9]);
        leases.refer(b"deleted", 77);
        leases.refer(b"moved", 78);
        leases.refer(b"deleted", 0);
        leases.refer(b"moved", 9);
        assert_eq!(leases.missing(), []);
    }
}
