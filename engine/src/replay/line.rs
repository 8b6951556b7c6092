//! One unbroken line of revisions out of deltas that overlap, repeat each other, or begin inside their full.
//!
//! # Why no other history gets in
//! Every delta tells the history digest before its first record, and with its own records a digest of every revision
//! follows. Where a delta meets the line (at the seam, or where the delta before it ended) the two digests of that revision
//! must be equal: then all records since the seam of the lineage's first full are the same, byte for byte. Records that
//! were handed out already are passed over only after that. Within a delta revisions follow each other without a gap, and
//! each chunk must end at the digest that its footer gives.

use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, ChunkHistory, FooterFacts, HistoryDigest, HistoryFold};
use crate::record::RecordRef;
use crate::revision::Revision;

/// Whether a record is handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handing {
    /// It is new.
    Out,
    /// It was handed out before, or lies beyond the target.
    Over,
}

/// How far a line has come.
#[derive(Debug)]
pub(super) struct Line {
    reached: (Revision, HistoryDigest),
    /// The object that led there.
    by: BackupName,
    /// The last revision that was handed out.
    handed: Revision,
    upto: Revision,
    open: Option<Open>,
}

/// The delta that is being read.
#[derive(Debug)]
struct Open {
    name: BackupName,
    fold: HistoryFold,
    meeting: Meeting,
    chunk_history: std::vec::IntoIter<ChunkHistory>,
}

/// Whether a delta was seen to be of the line's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meeting {
    Ahead,
    Done,
}

impl Line {
    /// A line that begins at the seam of the full called `name`, and ends at `upto`.
    pub(super) fn from_full(name: BackupName, facts: &FooterFacts, upto: Revision) -> Self {
        let reached = (facts.revisions.1, facts.history.1);
        Self { reached, by: name, handed: Revision(0), upto, open: None }
    }

    /// A line that is one delta and nothing else: nothing says what came before it.
    ///
    /// # Errors
    /// As [`Line::begin`].
    pub(super) fn of_delta(name: BackupName, facts: &FooterFacts) -> Result<Self> {
        let (first, last) = facts.revisions;
        let reached = (Revision(first.0 - 1), facts.history.0);
        let mut line = Self { reached, by: name, handed: Revision(0), upto: last, open: None };
        line.begin(name, facts)?;
        Ok(line)
    }

    /// The next delta begins.
    ///
    /// # Errors
    /// `Refused` where it is of another history; `Damaged` where revisions are missing before it, or the one before it
    /// did not end as it should.
    pub(super) fn begin(&mut self, name: BackupName, facts: &FooterFacts) -> Result<()> {
        self.end()?;
        let (first, reached) = (facts.revisions.0, self.reached.0);
        if first > reached.next() {
            let what = format!("{name} begins at revision {first}, those after {reached} are missing before it");
            return Err(Error::new(ErrorKind::Damaged, what));
        }
        let mut open = Open {
            name,
            fold: HistoryFold::after(Revision(first.0 - 1), facts.history.0),
            meeting: Meeting::Ahead,
            chunk_history: facts.capture.chunk_history.clone().into_iter(),
        };
        if first == reached.next() {
            open.meet(self.reached, &self.by)?;
        }
        self.open = Some(open);
        Ok(())
    }

    /// Takes the next record of the delta that began last.
    ///
    /// # Errors
    /// As [`Line::begin`].
    pub(super) fn take(&mut self, record: &RecordRef<'_>) -> Result<Handing> {
        let open = self.open.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "a record without a delta"))?;
        if open.meeting == Meeting::Ahead && record.main > self.reached.0 {
            open.fold.close();
            open.meet(self.reached, &self.by)?;
        }
        open.fold.push(record).map_err(|error| error.about(open.name))?;
        let new = record.main > self.handed && record.main <= self.upto;
        Ok(if new { Handing::Out } else { Handing::Over })
    }

    /// All records of a chunk have been taken.
    ///
    /// # Errors
    /// `Damaged` where the records are not those that the footer gives the history of.
    pub(super) fn end_chunk(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let expected = open.chunk_history.next();
        if expected.is_some_and(|expected| expected.revision > open.fold.closed().0) {
            open.fold.close();
        }
        let (revision, digest) = open.fold.closed();
        if expected == Some(ChunkHistory { revision, digest }) {
            return Ok(());
        }
        let what = format!("{}: its records up to revision {revision} have not the history of its footer", open.name);
        Err(Error::new(ErrorKind::Damaged, what).hint("please report this: each of its parts was genuine"))
    }

    /// Ends the delta that began last, if any.
    fn end(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let (last, digest) = open.fold.closed();
        if open.meeting == Meeting::Ahead && last == self.reached.0 {
            open.meet(self.reached, &self.by)?;
        }
        self.handed = self.handed.max(last.min(self.upto));
        if last > self.reached.0 {
            (self.reached, self.by) = ((last, digest), open.name);
        }
        Ok(())
    }

    /// No delta follows: the line must have come to its end.
    ///
    /// # Errors
    /// As [`Line::begin`]; `Damaged` where it has not.
    pub(super) fn finish(mut self) -> Result<()> {
        self.end()?;
        if self.reached.0 >= self.upto {
            return Ok(());
        }
        let what = format!("{} leads to revision {}, not to {}", self.by, self.reached.0, self.upto);
        Err(Error::new(ErrorKind::Damaged, what))
    }
}

impl Open {
    /// Holds the delta's history against the line's, which `by` led to.
    fn meet(&mut self, reached: (Revision, HistoryDigest), by: &BackupName) -> Result<()> {
        if self.fold.closed() == reached {
            self.meeting = Meeting::Done;
            return Ok(());
        }
        let what = format!("{} has another history than {by} at revision {}", self.name, reached.0);
        Err(Error::new(ErrorKind::Refused, what).hint(
            "two histories were written under one lineage; --revision stops before they part, --backup restores a full \
             alone",
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::format::{CaptureFacts, LineageId, NameKind, ObjectNonce, Source};
    use crate::record::Change;
    use crate::revision::{ClusterId, MemberId};

    const BEFORE: HistoryDigest = HistoryDigest([3; 32]);

    fn name(first: i64, last: i64) -> BackupName {
        let created = UnixMillis(1_763_724_000_000);
        let lineage = LineageId { birth: created, cluster: ClusterId(1), random: 1 };
        let kind = NameKind::Delta { first: Revision(first), last: Revision(last) };
        BackupName { lineage, kind, created, nonce: ObjectNonce([1; 8]) }
    }

    fn record(main: i64) -> RecordRef<'static> {
        RecordRef { main: Revision(main), sub: 0, change: Change::Put, value: b"v" }
    }

    /// The digest at 6 of revisions 5 and 6, one record each.
    fn at_6() -> HistoryDigest {
        let mut fold = HistoryFold::after(Revision(4), BEFORE);
        [5, 6].iter().for_each(|main| fold.push(&record(*main)).unwrap());
        fold.finish().1
    }

    /// Facts of a delta from 5 to `last` in one chunk, whose records have `digest` at 6.
    fn facts(last: i64, digest: HistoryDigest) -> FooterFacts {
        FooterFacts {
            plain_sha256: [0; 32],
            revisions: (Revision(5), Revision(last)),
            seam: None,
            hash_kv: Vec::new(),
            source: Source {
                cluster: ClusterId(1),
                member: MemberId(1),
                member_name: String::new(),
                endpoint: String::new(),
                etcd_version: String::new(),
                raft_term: 1,
                raft_index: 1,
                db_bytes: 0,
                db_bytes_in_use: 0,
            },
            history: (BEFORE, digest),
            capture: CaptureFacts {
                chunk_history: vec![ChunkHistory { revision: Revision(6), digest }],
                ..CaptureFacts::default()
            },
            labels: BTreeMap::new(),
            tool_version: String::new(),
            started: UnixMillis(0),
            finished: UnixMillis(0),
        }
    }

    /// What comes of reading records of `mains` out of such a delta.
    fn read(mains: &[i64], last: i64, digest: HistoryDigest) -> Result<()> {
        let mut line = Line::of_delta(name(5, last), &facts(last, digest))?;
        for main in mains {
            assert_eq!(line.take(&record(*main))?, Handing::Out);
        }
        line.end_chunk()?;
        line.finish()
    }

    #[test]
    fn a_delta_that_is_not_what_its_footer_says_is_damage() {
        read(&[5, 6], 6, at_6()).unwrap();
        let damage = |outcome: Result<()>, words: &str| {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
            assert!(error.to_string().contains(words) && error.to_string().contains("delta/"), "{error}");
        };
        // Other records, fewer, a hole, an end that is not the one of its name.
        damage(read(&[5, 6], 6, HistoryDigest([4; 32])), "have not the history");
        damage(read(&[5], 6, at_6()), "have not the history");
        damage(read(&[5, 7], 7, at_6()), "revision 7 follows");
        damage(read(&[5, 6], 7, at_6()), "leads to revision 6, not to 7");
    }
}
