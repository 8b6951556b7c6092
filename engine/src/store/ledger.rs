//! Which parts of an upload have been acknowledged, and whether they make an object.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::store::object::PartNumber;

/// The acknowledged parts of one upload, each with the store's receipt `T`. Every part but the last has exactly
/// `part_bytes` bytes.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    part_bytes: u64,
    parts: Mutex<BTreeMap<PartNumber, Entry<T>>>,
}

#[derive(Debug, Clone)]
struct Entry<T> {
    bytes: u64,
    receipt: T,
}

/// What a complete ledger says.
#[derive(Debug)]
pub(super) struct Sealed<T> {
    /// Parts 1 and on, without a gap.
    pub(super) parts: Vec<(PartNumber, T)>,
    /// Their bytes together.
    pub(super) total_bytes: u64,
}

impl<T: Clone> Ledger<T> {
    /// An empty ledger.
    ///
    /// # Errors
    /// `Invalid` for parts of no bytes.
    pub(super) fn new(key: &str, part_bytes: u64) -> Result<Self> {
        if part_bytes == 0 {
            return Err(Error::new(ErrorKind::Invalid, format!("{key}: parts of 0 bytes")));
        }
        Ok(Self { part_bytes, parts: Mutex::default() })
    }

    /// Where part `number` begins in the object, once its size and number are found to be possible.
    ///
    /// # Errors
    /// `Invalid` for a number outside 1..=10,000, an empty part or one larger than `part_bytes`.
    pub(super) fn offset_bytes(&self, key: &str, number: PartNumber, bytes: u64) -> Result<u64> {
        if number.0 == 0 || number > PartNumber::MAX {
            let message = format!("{key}: part {} is outside 1..={}", number.0, PartNumber::MAX.0);
            return Err(Error::new(ErrorKind::Invalid, message).hint("choose larger parts"));
        }
        if bytes == 0 || bytes > self.part_bytes {
            let message = format!("{key}: part {} has {bytes} bytes, not 1..={}", number.0, self.part_bytes);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(u64::from(number.0 - 1) * self.part_bytes)
    }

    /// Notes that a part is stored; a part that is stored again replaces the one before.
    pub(super) fn note(&self, number: PartNumber, bytes: u64, receipt: T) {
        self.lock().insert(number, Entry { bytes, receipt });
    }

    /// All parts, once they make an object: 1 and on without a gap, all full but the last.
    ///
    /// # Errors
    /// `Invalid`, naming the part that is missing or short.
    pub(super) fn seal(&self, key: &str) -> Result<Sealed<T>> {
        let parts = self.lock();
        let mut sealed = Sealed { parts: Vec::with_capacity(parts.len()), total_bytes: 0 };
        for ((number, entry), expected) in parts.iter().zip(1..) {
            if number.0 != expected || sealed.total_bytes != u64::from(expected - 1) * self.part_bytes {
                return Err(incomplete(key, sealed.parts.len() + 1));
            }
            sealed.parts.push((*number, entry.receipt.clone()));
            sealed.total_bytes += entry.bytes;
        }
        if sealed.parts.is_empty() { Err(incomplete(key, 1)) } else { Ok(sealed) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartNumber, Entry<T>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn incomplete(key: &str, part: usize) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("{key}: the upload cannot be completed: part {part} or the one before is missing or short"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(parts: &[(u32, u64)]) -> Ledger<()> {
        let ledger = Ledger::new("k", 10).unwrap();
        for &(number, bytes) in parts {
            ledger.note(PartNumber(number), bytes, ());
        }
        ledger
    }

    #[test]
    fn only_whole_ledgers_are_sealed() {
        assert_eq!(ledger(&[(2, 3), (1, 10)]).seal("k").unwrap().total_bytes, 13);
        assert_eq!(ledger(&[(1, 1)]).seal("k").unwrap().total_bytes, 1);
        for bad in [&[][..], &[(2, 10)], &[(1, 10), (3, 1)], &[(1, 9), (2, 1)]] {
            assert!(ledger(bad).seal("k").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn impossible_parts_are_refused() {
        let ledger = ledger(&[]);
        assert_eq!(ledger.offset_bytes("k", PartNumber(3), 10).unwrap(), 20);
        for (number, bytes) in [(0, 1), (10_001, 1), (1, 0), (1, 11)] {
            assert!(ledger.offset_bytes("k", PartNumber(number), bytes).is_err(), "{number} {bytes}");
        }
    }
}
