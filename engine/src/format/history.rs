//! History digests: a chain of SHA-256 over every record since the seam of a lineage's first full.
//!
//! ```text
//! D(L) = SHA-256(lineage text || L (8, big-endian))
//! D(r) = SHA-256(D(r - 1) || for each record of r: key length (1) || key || value length (4, little-endian) || value)
//! ```
//! Two histories of one lineage that differ in one byte of one record have different digests from then on: that is how
//! a fork is told from an overlap.

use std::fmt;

use sha2::{Digest, Sha256};

use super::name::LineageId;
use crate::error::{Error, ErrorKind, Result};
use crate::record::RecordRef;
use crate::revision::Revision;

/// D of one revision.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HistoryDigest(pub [u8; 32]);

impl HistoryDigest {
    /// D(L) of a lineage's first full.
    pub fn at_seam(lineage: &LineageId, seam: Revision) -> Self {
        Self(Sha256::new().chain_update(lineage.to_string()).chain_update(seam.0.to_be_bytes()).finalize().into())
    }
}

impl fmt::Debug for HistoryDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HistoryDigest({:016x}..)", u64::from_be_bytes(*self.0.first_chunk().expect("32 bytes have 8")))
    }
}

/// Folds records, in order, into the digest of the revision that they end at.
#[derive(Debug, Clone)]
pub struct HistoryFold {
    revision: Revision,
    digest: HistoryDigest,
    /// The revision whose records are coming in.
    open: Option<(Revision, Sha256)>,
}

impl HistoryFold {
    /// Goes on from `digest`, which is that of `revision`.
    pub fn after(revision: Revision, digest: HistoryDigest) -> Self {
        Self { revision, digest, open: None }
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// `Damaged` where it is not one of the same or of the next revision: a history has no gap.
    pub fn push(&mut self, record: &RecordRef<'_>) -> Result<()> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != record.main) {
            self.close();
            if record.main != self.revision.next() {
                let what = format!("revision {} follows revision {}", record.main, self.revision);
                return Err(Error::new(ErrorKind::Damaged, what).hint("records are missing in between"));
            }
            self.open = Some((record.main, Sha256::new().chain_update(self.digest.0)));
        }
        if let Some((_, sha256)) = &mut self.open {
            let key = record.bucket_key();
            sha256.update([key.len() as u8]);
            sha256.update(&*key);
            sha256.update((record.value.len() as u32).to_le_bytes());
            sha256.update(record.value);
        }
        Ok(())
    }

    /// The last revision that is known to be whole, and its digest: the one before the revision of the last record.
    pub fn closed(&self) -> (Revision, HistoryDigest) {
        (self.revision, self.digest)
    }

    /// The revision of the last record, all of whose records have been pushed, and its digest.
    pub fn finish(mut self) -> (Revision, HistoryDigest) {
        self.close();
        (self.revision, self.digest)
    }

    /// Ends the open revision: its records have all been pushed.
    pub fn close(&mut self) {
        if let Some((revision, sha256)) = self.open.take() {
            self.revision = revision;
            self.digest = HistoryDigest(sha256.finalize().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Change;

    fn record(main: i64, sub: i64, value: &[u8]) -> RecordRef<'_> {
        RecordRef { main: Revision(main), sub, change: Change::Put, value }
    }

    fn digest(records: &[RecordRef<'_>]) -> HistoryDigest {
        let mut fold = HistoryFold::after(Revision(4), HistoryDigest([1; 32]));
        records.iter().for_each(|record| fold.push(record).unwrap());
        fold.finish().1
    }

    #[test]
    fn any_difference_makes_another_history() {
        let history = [record(5, 0, b"a"), record(5, 1, b"b"), record(6, 0, b"c")];
        let same = digest(&history);
        assert_eq!(digest(&history), same);
        let mut tombstone = history;
        tombstone[1].change = Change::Tombstone;
        for other in [
            digest(&[record(5, 0, b"a"), record(5, 1, b"x"), record(6, 0, b"c")]),
            digest(&[record(5, 0, b"ab"), record(5, 1, b""), record(6, 0, b"c")]),
            digest(&[record(5, 0, b"a"), record(6, 0, b"b"), record(7, 0, b"c")]),
            digest(&history[..2]),
            digest(&tombstone),
        ] {
            assert_ne!(other, same);
        }
    }

    #[test]
    fn a_digest_goes_on_from_any_revision() {
        let mut fold = HistoryFold::after(Revision(4), HistoryDigest([1; 32]));
        fold.push(&record(5, 0, b"a")).unwrap();
        assert_eq!(fold.closed().0, Revision(4));
        let (revision, middle) = fold.finish();
        assert_eq!(revision, Revision(5));
        let mut rest = HistoryFold::after(revision, middle);
        rest.push(&record(6, 0, b"b")).unwrap();
        assert_eq!(rest.finish().1, digest(&[record(5, 0, b"a"), record(6, 0, b"b")]));
    }

    #[test]
    fn a_gap_is_no_history() {
        let mut fold = HistoryFold::after(Revision(4), HistoryDigest([1; 32]));
        assert_eq!(fold.push(&record(6, 0, b"a")).unwrap_err().kind(), ErrorKind::Damaged);
        let mut fold = HistoryFold::after(Revision(4), HistoryDigest([1; 32]));
        fold.push(&record(5, 0, b"a")).unwrap();
        assert_eq!(fold.push(&record(4, 0, b"a")).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
