//! A watch event as the record that etcd keeps of it.
//!
//! The bytes of a put's `KeyValue` are those of the `key` bucket, and a tombstone's value is how the deleted key's
//! `KeyValue` begins: so both are slices of the message, and nothing is copied. That holds for the canonical encoding
//! (ascending fields, nothing that is zero, shortest numbers), which is checked; another one is encoded anew.

use std::ops::Range;

use bytes::Bytes;
use etcdbr_proto::mvccpb::event::EventType;
use etcdbr_proto::mvccpb::{Event, KeyValue};
use prost::Message;

use crate::record::Change;

/// A change of one key, as stored; which of its revision's it is, the event does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// The transaction.
    pub(super) mod_revision: i64,
    /// Put or tombstone.
    pub(super) change: Change,
    /// What the `key` bucket holds.
    pub(super) value: Bytes,
    /// The lease that a put attaches its key to; 0 for none.
    pub(super) lease: i64,
    /// Where in `value` the key is.
    key: Range<usize>,
}

impl Stored {
    /// What `event` leaves in the `key` bucket; `None` for what is no change that etcd makes.
    pub(super) fn read(event: Event) -> Option<Self> {
        let change = match EventType::try_from(event.r#type).ok()? {
            EventType::Put => Change::Put,
            EventType::Delete => Change::Tombstone,
        };
        let mut wire = event.kv;
        let mut fields = Fields::scan(&wire)?;
        if !fields.canonical {
            wire = KeyValue::decode(wire).ok()?.encode_to_vec().into();
            fields = Fields::scan(&wire)?;
        }
        if fields.key.is_empty() || fields.modified <= 0 {
            return None;
        }
        let (value, lease) = match change {
            Change::Put if !(1..=fields.modified).contains(&fields.created) || fields.version <= 0 => return None,
            Change::Put => (wire, fields.lease),
            Change::Tombstone => (wire.slice(..fields.key.end), 0),
        };
        Some(Self { mod_revision: fields.modified, change, value, lease, key: fields.key })
    }

    /// The user's key.
    pub(super) fn key(&self) -> &[u8] {
        &self.value[self.key.clone()]
    }
}

/// The fields of an encoded `KeyValue`.
struct Fields {
    key: Range<usize>,
    created: i64,
    modified: i64,
    version: i64,
    lease: i64,
    canonical: bool,
}

impl Fields {
    /// `None` for what does not parse and for a field that no etcd of 3.4 to 3.7 has.
    fn scan(wire: &[u8]) -> Option<Self> {
        let mut fields = Self { key: 0..0, created: 0, modified: 0, version: 0, lease: 0, canonical: true };
        let mut reader = Reader { wire, at: 0, canonical: true };
        let mut last_tag = 0;
        while reader.at < wire.len() {
            let tag = reader.byte()?;
            reader.canonical &= tag > last_tag;
            last_tag = tag;
            match tag {
                0x0a => fields.key = reader.bytes()?,
                0x10 => fields.created = reader.number()?,
                0x18 => fields.modified = reader.number()?,
                0x20 => fields.version = reader.number()?,
                0x2a => _ = reader.bytes()?,
                0x30 => fields.lease = reader.number()?,
                _ => return None,
            }
        }
        fields.canonical = reader.canonical;
        Some(fields)
    }
}

struct Reader<'a> {
    wire: &'a [u8],
    at: usize,
    canonical: bool,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.wire.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // What is zero is left out, and no number ends in a byte that adds nothing.
                self.canonical &= byte != 0;
                return Some(value);
            }
        }
        None
    }

    /// Two's complement, as protobuf has it.
    fn number(&mut self) -> Option<i64> {
        self.varint().map(|value| value as i64)
    }

    fn bytes(&mut self) -> Option<Range<usize>> {
        let len = usize::try_from(self.varint()?).ok()?;
        let end = self.at.checked_add(len).filter(|&end| end <= self.wire.len())?;
        let range = self.at..end;
        self.at = end;
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(kind: EventType, kv: Vec<u8>) -> Event {
        Event { r#type: kind.into(), kv: kv.into() }
    }

    #[test]
    fn a_put_is_kept_as_it_came_and_a_tombstone_is_its_key() {
        let wire = b"\x0a\x01a\x10\x05\x18\x05\x20\x01\x2a\x01v".to_vec();
        let put = Stored::read(event(EventType::Put, wire.clone())).unwrap();
        assert_eq!((put.value.as_ref(), put.mod_revision, put.lease), (wire.as_slice(), 5, 0));
        let deleted = Stored::read(event(EventType::Delete, b"\x0a\x01b\x18\x05".to_vec())).unwrap();
        assert_eq!((deleted.value.as_ref(), deleted.change), (b"\x0a\x01b".as_ref(), Change::Tombstone));
        assert_eq!((put.key(), deleted.key()), (b"a".as_ref(), b"b".as_ref()));
    }

    #[test]
    fn a_value_is_a_slice_of_its_message() {
        let kv = Bytes::from_static(b"\x0a\x01a\x10\x05\x18\x05\x20\x01\x2a\x01v");
        let put = Stored::read(Event { r#type: EventType::Put.into(), kv: kv.clone() }).unwrap();
        assert_eq!(put.value.as_ptr(), kv.as_ptr());
    }

    #[test]
    fn another_encoding_becomes_the_canonical_one() {
        let canonical = b"\x0a\x01a\x10\x05\x18\x05\x20\x01\x2a\x01v";
        let others: [&[u8]; 5] = [
            b"\x10\x05\x0a\x01a\x18\x05\x20\x01\x2a\x01v",          // another order
            b"\x0a\x01a\x10\x05\x18\x05\x20\x01\x2a\x01v\x30\x00",  // a zero
            b"\x0a\x01a\x10\x85\x00\x18\x05\x20\x01\x2a\x01v",      // a number with a byte too many
            b"\x0a\x01a\x0a\x01a\x10\x05\x18\x05\x20\x01\x2a\x01v", // twice
            b"\x0a\x81\x00a\x10\x05\x18\x05\x20\x01\x2a\x01v",      // a length with a byte too many
        ];
        for other in others {
            let put = Stored::read(event(EventType::Put, other.to_vec())).unwrap();
            assert_eq!(put.value.as_ref(), canonical, "{other:x?}");
            assert_eq!(put.key(), b"a");
        }
        let deleted = event(EventType::Delete, b"\x18\x05\x0a\x01b".to_vec());
        assert_eq!(Stored::read(deleted).unwrap().value.as_ref(), b"\x0a\x01b");
    }

    #[test]
    fn what_no_etcd_writes_is_refused() {
        let puts: [&[u8]; 9] = [
            b"",
            b"\x0a\x00\x10\x05\x18\x05\x20\x01",           // no key
            b"\x0a\x01a\x10\x05\x20\x01",                  // no revision
            b"\x0a\x01a\x18\x05\x20\x01",                  // never created
            b"\x0a\x01a\x10\x06\x18\x05\x20\x01",          // created later
            b"\x0a\x01a\x10\x05\x18\x05",                  // no version
            b"\x0a\x01a\x10\x05\x18\x05\x20\x01\x3a\x01x", // a field of tomorrow
            b"\x0a\x05a",                                  // cut
            b"\x0a\x01a\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for wire in puts {
            assert_eq!(Stored::read(event(EventType::Put, wire.to_vec())), None, "{wire:x?}");
        }
        assert_eq!(Stored::read(Event { r#type: 2, kv: Bytes::from_static(b"\x0a\x01b\x18\x05") }), None);
        assert_eq!(Stored::read(event(EventType::Delete, b"\x0a\x01b".to_vec())), None);
    }

    proptest! {
        #[test]
        fn prost_reads_the_same(
            key in proptest::collection::vec(any::<u8>(), 1..300),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            (created, more, version, lease) in (1..i64::MAX / 2, 0..i64::MAX / 2, 1..i64::MAX, any::<i64>()),
        ) {
            let kv = KeyValue {
                key: key.clone().into(),
                create_revision: created,
                mod_revision: created + more,
                version,
                value: value.into(),
                lease,
            };
            let put = Stored::read(event(EventType::Put, kv.encode_to_vec())).unwrap();
            prop_assert_eq!(put.value.as_ref(), kv.encode_to_vec());
            prop_assert_eq!((put.mod_revision, put.lease, put.key()), (kv.mod_revision, lease, key.as_slice()));
            let deleted = Stored::read(event(EventType::Delete, kv.encode_to_vec())).unwrap();
            let stored = KeyValue { key: key.into(), ..Default::default() };
            prop_assert_eq!(deleted.value.as_ref(), stored.encode_to_vec());
        }

        #[test]
        fn no_bytes_make_it_panic(wire in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Stored::read(event(EventType::Put, wire.clone()));
            let _ = Stored::read(event(EventType::Delete, wire));
        }
    }
}
