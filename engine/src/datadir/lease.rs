//! Leases that records refer to and that have no record of their own.
//!
//! An etcd whose live key names a lease that it does not know starts, and stops for ever at the first put that keeps
//! the key's lease. So every lease that any put names gets a record; one too many does no harm.

use etcdbr_proto::leasepb;
use prost::Message;

use crate::error::{Error, ErrorKind, Result};

/// Granted to a lease whose own time to live is not known, in seconds.
const DEFAULT_TTL_S: i64 = 3600;
/// Leases without a record that a restore makes up for at most; 16 MB of memory.
const MAX_ORPHANS: usize = 1_000_000;

/// The leases of an image.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Those that have a record, ascending.
    known: Vec<i64>,
    /// Those that have none; sorted and freed of doubles whenever it has doubled.
    orphans: Vec<i64>,
    distinct: usize,
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

    /// Notes that a put names `lease` (0: none).
    ///
    /// # Errors
    /// `Refused` where more leases lack a record than memory should be spent on.
    pub(super) fn refer(&mut self, lease: i64) -> Result<()> {
        if lease == 0 || self.orphans.last() == Some(&lease) || self.known.binary_search(&lease).is_ok() {
            return Ok(());
        }
        self.orphans.push(lease);
        if self.orphans.len() > (2 * self.distinct).max(1024) {
            self.settle();
        }
        if self.distinct > MAX_ORPHANS {
            let message = format!("records of the database name more than {MAX_ORPHANS} leases that it does not hold");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        Ok(())
    }

    /// Key and value of a record for every lease that has none, in key order.
    pub(super) fn missing(mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.settle();
        // Keys are big-endian two's complement: negative ids sort behind the others.
        self.orphans.sort_unstable_by_key(|&id| id as u64);
        let record = |id: i64| leasepb::Lease { id, ttl: DEFAULT_TTL_S, remaining_ttl: 0 }.encode_to_vec();
        self.orphans.iter().map(|&id| (id.to_be_bytes().to_vec(), record(id))).collect()
    }

    fn settle(&mut self) {
        self.orphans.sort_unstable();
        self.orphans.dedup();
        self.distinct = self.orphans.len();
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
        for round in 0..5000 {
            for lease in [0, 3, 9, 77, -5, 100 + round % 10] {
                leases.refer(lease).unwrap();
            }
        }
        assert_eq!(leases.known(), 2);
        let missing = leases.missing();
        assert_eq!(missing.len(), 12);
        assert!(missing.is_sorted());
        assert_eq!(missing[0], (77_i64.to_be_bytes().to_vec(), b"\x08\x4d\x10\x90\x1c".to_vec()));
        assert_eq!(missing[11].0, (-5_i64).to_be_bytes());
    }

    #[test]
    fn too_many_unknown_leases_are_refused() {
        let mut leases = Leases::default();
        let refused = (1..=3 * MAX_ORPHANS as i64).find_map(|id| leases.refer(id).err());
        assert_eq!(refused.unwrap().kind(), ErrorKind::Refused);
    }
}
