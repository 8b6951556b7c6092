//! Small objects that were fetched once and are wanted again: where a chain of many narrow deltas is read twice, as a rewrite
//! and a verification do, the second reading asks the store for the few large ones only.
//!
//! Objects never change, and what is held is opened, and so authenticated, as if it had just come.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::format::BackupName;
use crate::store::ReadAnswer;

/// The most bytes of stored objects that an archive holds.
pub const HELD_BYTES: u64 = 8 << 20;
/// Larger ones are few.
const OBJECT_BYTES: u64 = 256 << 10;

/// What is held, at most 8 MiB.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Objects>);

#[derive(Debug, Default)]
struct Objects {
    by_name: BTreeMap<BackupName, ReadAnswer>,
    bytes: u64,
}

impl Held {
    pub(super) fn find(&self, name: &BackupName) -> Option<ReadAnswer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    /// Keeps `answer` where it is a whole object, a small one, and there is room.
    pub(super) fn keep(&self, name: &BackupName, answer: &ReadAnswer) {
        let mut objects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = answer.start == 0 && answer.object_bytes <= OBJECT_BYTES;
        if whole && objects.bytes + answer.object_bytes <= HELD_BYTES {
            match objects.by_name.insert(*name, answer.clone()) {
                Some(before) => objects.bytes += answer.object_bytes - before.object_bytes,
                None => objects.bytes += answer.object_bytes,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::format::{LineageId, NameKind, ObjectNonce};
    use crate::revision::{ClusterId, Revision};
    use crate::store::ETag;

    fn name(n: u32) -> BackupName {
        BackupName {
            lineage: LineageId { birth: UnixMillis(1), cluster: ClusterId(1), random: n },
            kind: NameKind::Full { seam: Revision(1) },
            created: UnixMillis(1),
            nonce: ObjectNonce([1; 8]),
        }
    }

    fn answer(start: u64, object_bytes: u64) -> ReadAnswer {
        let bytes = Bytes::from(vec![7; (object_bytes - start) as usize]);
        ReadAnswer { bytes, start, object_bytes, etag: ETag("\"a\"".to_owned()) }
    }

    #[test]
    fn whole_small_objects_are_held_while_there_is_room() {
        let held = Held::default();
        held.keep(&name(1), &answer(0, OBJECT_BYTES + 1));
        held.keep(&name(2), &answer(1, 100));
        assert!(held.find(&name(1)).is_none() && held.find(&name(2)).is_none());
        for _ in 0..3 {
            (10..10 + 32).for_each(|n| held.keep(&name(n), &answer(0, OBJECT_BYTES)));
        }
        held.keep(&name(3), &answer(0, 1));
        assert!(held.find(&name(41)).is_some() && held.find(&name(3)).is_none());
    }
}
