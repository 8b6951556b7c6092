//! The chunks of a delta: MVCC records, one after the other.
//!
//! ```text
//! 1     flags: 1 for a tombstone, else 0
//! 1-9   varint: main; of a chunk's first record itself, later on minus that of the record before
//! 1-9   varint: sub
//! 1-5   varint: value length n
//! n     the stored mvccpb.KeyValue, byte for byte
//! ```
//! Varints are LEB128, shortest form. A chunk ends with a record, so that each can be read alone.

use crate::error::{Error, ErrorKind, Result};
use crate::record::{Change, RecordRef};
use crate::revision::Revision;

/// Bytes that a record takes besides its value, at most.
const MAX_RECORD_HEAD_BYTES: usize = 1 + 9 + 9 + 5;

const PUT: u8 = 0;
const TOMBSTONE: u8 = 1;

/// Fills chunks with records.
#[derive(Debug, Default)]
pub struct RecordsEncoder {
    chunk: Vec<u8>,
    last_main: i64,
}

impl RecordsEncoder {
    /// Bytes that `record` takes at most.
    pub fn bound(record: &RecordRef<'_>) -> usize {
        MAX_RECORD_HEAD_BYTES + record.value.len()
    }

    /// The bytes so far.
    pub fn bytes(&self) -> usize {
        self.chunk.len()
    }

    /// Appends a record, which is of the same revision as the one before, or of a later one.
    pub fn push(&mut self, record: &RecordRef<'_>) {
        self.chunk.push(if record.change == Change::Tombstone { TOMBSTONE } else { PUT });
        for value in [record.main.0 - self.last_main, record.sub, record.value.len() as i64] {
            push_varint(&mut self.chunk, value.unsigned_abs());
        }
        self.chunk.extend_from_slice(record.value);
        self.last_main = record.main.0;
    }

    /// The chunk; the next one begins anew, in the buffer `empty`.
    pub fn take(&mut self, empty: Vec<u8>) -> Vec<u8> {
        self.last_main = 0;
        std::mem::replace(&mut self.chunk, empty)
    }
}

/// The records of one chunk, in order. Ends after the first error.
#[derive(Debug, Clone)]
pub struct RecordsDecoder<'a> {
    rest: &'a [u8],
    last: Option<(Revision, i64)>,
}

impl<'a> RecordsDecoder<'a> {
    /// Reads the plaintext of a chunk.
    pub fn new(chunk: &'a [u8]) -> Self {
        Self { rest: chunk, last: None }
    }

    fn record(&mut self) -> Option<RecordRef<'a>> {
        let (&flags, rest) = self.rest.split_first()?;
        self.rest = rest;
        let change = match flags {
            PUT => Change::Put,
            TOMBSTONE => Change::Tombstone,
            _ => return None,
        };
        let main = varint(&mut self.rest)?.checked_add(self.last.map_or(0, |last| last.0.0))?;
        let sub = varint(&mut self.rest)?;
        let len = usize::try_from(varint(&mut self.rest)?).ok()?;
        let (value, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        let place = (Revision(main), sub);
        if self.last.is_some_and(|last| last >= place) {
            return None;
        }
        self.last = Some(place);
        Some(RecordRef { main: place.0, sub, change, value })
    }
}

impl<'a> Iterator for RecordsDecoder<'a> {
    type Item = Result<RecordRef<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.rest = &[];
        }
        Some(record.ok_or_else(|| Error::new(ErrorKind::Damaged, "a record of a delta does not parse")))
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The next varint of at most 63 bits, in its shortest form.
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= i64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return (shift == 0 || byte != 0).then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunk: &[u8]) -> Result<Vec<RecordRef<'_>>> {
        RecordsDecoder::new(chunk).collect()
    }

    fn record(main: i64, sub: i64, value: &[u8]) -> RecordRef<'_> {
        RecordRef { main: Revision(main), sub, change: Change::Put, value }
    }

    fn encode(records: &[RecordRef<'_>]) -> Vec<u8> {
        let mut encoder = RecordsEncoder::default();
        records.iter().for_each(|record| encoder.push(record));
        encoder.take(Vec::new())
    }

    proptest! {
        #[test]
        fn records_come_back(
            start in 1..i64::MAX / 2,
            steps in proptest::collection::vec((0..3_i64, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..200)), 0..30),
        ) {
            let (mut main, mut sub, mut records) = (start, -1, Vec::new());
            for (step, tombstone, value) in &steps {
                (main, sub) = if *step == 0 { (main, sub + 1) } else { (main + step * 1_000_003, 0) };
                let change = if *tombstone { Change::Tombstone } else { Change::Put };
                records.push(RecordRef { main: Revision(main), sub, change, value });
            }
            let chunk = encode(&records);
            prop_assert!(chunk.len() <= records.iter().map(RecordsEncoder::bound).sum());
            prop_assert_eq!(decode(&chunk).unwrap(), records);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(records) = decode(&bytes) {
                prop_assert_eq!(encode(&records), bytes);
            }
        }
    }

    #[test]
    fn a_chunk_is_read_alone() {
        let mut encoder = RecordsEncoder::default();
        encoder.push(&record(700, 0, b"a"));
        encoder.take(Vec::new());
        encoder.push(&record(701, 3, b"b"));
        assert_eq!(decode(&encoder.take(Vec::new())).unwrap(), [record(701, 3, b"b")]);
    }

    #[test]
    fn what_is_out_of_order_cut_short_or_unknown_is_refused() {
        let chunk = encode(&[record(7, 0, b"abc"), record(7, 1, b"")]);
        for len in (1..chunk.len()).filter(|len| *len != chunk.len() - 4) {
            assert!(decode(&chunk[..len]).is_err(), "{len}");
        }
        let same_twice = [&chunk[..7], &[0, 0, 0, 0]].concat();
        let other_flag = [&[2], &chunk[1..]].concat();
        let longer_varint = [0, 0x87, 0, 0, 0];
        for bad in [&same_twice[..], &other_flag, &longer_varint] {
            assert_eq!(decode(bad).unwrap_err().kind(), ErrorKind::Damaged);
        }
    }
}
