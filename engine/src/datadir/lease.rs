//! Leases that live keys name and that have no record of their own.
//!
//! An etcd whose live key names a lease that it does not know starts, and stops for ever at the first put that keeps
//! the key's lease. So every lease that the newest put of a key names gets a record.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use etcdbr_proto::leasepb;
use prost::Message;

use super::entries::each_entry;
use crate::bbolt::BoltFile;
use crate::error::{Error, ErrorKind, Result};

/// Granted to a lease whose own time to live is not known, in seconds, unless the operator says otherwise.
pub const MISSING_LEASE_TTL_S: i64 = 3600;

/// Key and value of an entry of the `lease` bucket.
type Stored = (Vec<u8>, Vec<u8>);

/// Whether leases that an image has are still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseScope {
    /// They are; others came.
    #[default]
    Added,
    /// Only those that are named are.
    All,
}

/// What became of the leases of an image since it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseChanges {
    /// What `granted` is.
    pub scope: LeaseScope,
    /// Leases and the seconds that they were granted.
    pub granted: BTreeMap<i64, i64>,
    /// The same of leases that may not have been there yet: they get a record only where a live key names them.
    pub later: BTreeMap<i64, i64>,
    /// Granted to those that live keys name and that nobody knows, in seconds.
    pub missing_ttl_s: i64,
}

impl Default for LeaseChanges {
    /// Nothing has changed.
    fn default() -> Self {
        Self {
            scope: LeaseScope::Added,
            granted: BTreeMap::new(),
            later: BTreeMap::new(),
            missing_ttl_s: MISSING_LEASE_TTL_S,
        }
    }
}

impl LeaseChanges {
    /// The entries of the `lease` bucket of `file` with these changes, in key order; `None` where it stays as it is.
    ///
    /// # Errors
    /// `Damaged` where the bucket does not parse.
    pub(super) fn applied(&self, file: &BoltFile<'_>) -> Result<Option<Vec<Stored>>> {
        if self.scope == LeaseScope::Added && self.granted.is_empty() {
            return Ok(None);
        }
        let mut entries: BTreeMap<u64, Vec<u8>> =
            self.granted.iter().map(|(id, ttl_s)| (*id as u64, record(*id, *ttl_s))).collect();
        each_entry(file, b"lease", |entry| {
            let id = lease_id(entry.key)?;
            let same_ttl = |ttl_s: &i64| leasepb::Lease::decode(entry.value).is_ok_and(|lease| lease.ttl == *ttl_s);
            // As etcd wrote it, with what it noted besides, unless the id was granted anew.
            if self.granted.get(&id).map_or(self.scope == LeaseScope::Added, same_ttl) {
                entries.insert(id as u64, entry.value.to_vec());
            }
            Ok(())
        })?;
        Ok(Some(entries.into_iter().map(|(id, value)| (id.to_be_bytes().to_vec(), value)).collect()))
    }

    /// Seconds for a lease without a record, and whether they are the source's.
    fn ttl_of(&self, id: i64) -> (i64, Ttl) {
        match self.later.get(&id).or_else(|| self.granted.get(&id)) {
            Some(ttl_s) => (*ttl_s, Ttl::Known),
            None => (self.missing_ttl_s, Ttl::Assumed),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ttl {
    Known,
    Assumed,
}

fn record(id: i64, ttl_s: i64) -> Vec<u8> {
    leasepb::Lease { id, ttl: ttl_s, remaining_ttl: 0 }.encode_to_vec()
}

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

    /// The leases without one that live keys name, in key order.
    pub(super) fn missing(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.orphans.values().copied().collect();
        // Keys are big-endian two's complement: negative ids sort behind the others.
        ids.sort_unstable_by_key(|&id| id as u64);
        ids.dedup();
        ids
    }

    /// Key and value of a record for each of those, and how many of them got seconds that are not the source's.
    pub(super) fn granted(&self, changes: &LeaseChanges) -> (Vec<Stored>, u64) {
        let (mut entries, mut assumed) = (Vec::new(), 0);
        for id in self.missing() {
            let (ttl_s, known) = changes.ttl_of(id);
            assumed += u64::from(known == Ttl::Assumed);
            entries.push((id.to_be_bytes().to_vec(), record(id, ttl_s)));
        }
        (entries, assumed)
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
        let (missing, assumed) = leases.granted(&LeaseChanges::default());
        assert_eq!((missing.len(), assumed), (3, 3));
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
        assert!(leases.missing().is_empty());
    }
}
