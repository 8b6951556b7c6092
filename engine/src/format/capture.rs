//! What capture knows besides records: times, leases, compactions, and how far the history has come.

use etcdbr_proto::etcdbr::v1 as stored;

use super::history::HistoryDigest;
use super::name::{BackupName, NameKind};
use super::rollup::Rollup;
use super::told::{LeaseGrant, LeaseList, TimeMark, Told};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// How far the history has come at the end of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkHistory {
    /// The last revision that ends in this chunk or before it; first - 1 where none has.
    pub revision: Revision,
    /// D of it.
    pub digest: HistoryDigest,
}

/// A question for the source's HashKV, whatever came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashKvAsked {
    /// When.
    pub at: UnixMillis,
    /// How long the member took.
    pub took_ms: u64,
}

/// What a delta holds besides its records. Empty in a full, but for `compact_revision`, `auth_state` and
/// `hash_kv_asked`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CaptureFacts {
    /// In the order of both their members.
    pub time_marks: Vec<TimeMark>,
    /// By id.
    pub leases: Vec<LeaseGrant>,
    /// What `leases` are.
    pub lease_list: LeaseList,
    /// The greatest compact revision of the source that had been seen at the last time mark.
    pub compact_revision: Option<Revision>,
    /// One for each chunk.
    pub chunk_history: Vec<ChunkHistory>,
    /// What the source told of its users and roles, opaque; empty where it was not asked.
    pub auth_state: Vec<u8>,
    /// The last question for HashKV that made the source stand still, for this full or for one before it.
    pub hash_kv_asked: Option<HashKvAsked>,
    /// Of a rollup: the leases and the compact revision above are those of its end.
    pub rollup: Option<Rollup>,
}

impl CaptureFacts {
    /// What the object called `name` tells of leases and compactions, each with the time mark that it belongs to: once,
    /// and in a rollup once for each of its parts that had something to tell.
    pub fn told(&self, name: &BackupName) -> Vec<Told> {
        if let Some(rollup) = &self.rollup {
            return rollup.told.clone();
        }
        let reached = match name.kind {
            NameKind::Full { seam } => seam,
            NameKind::Delta { last, .. } => last,
        };
        let mark = self.time_marks.last().copied().unwrap_or(TimeMark { time: name.created, revision: reached });
        let (leases, lease_list, compact_revision) = (self.leases.clone(), self.lease_list, self.compact_revision);
        vec![Told { mark, leases, lease_list, compact_revision }]
    }

    /// Into the stored form.
    pub(super) fn store(&self, footer: &mut stored::ObjectFooter) {
        let history = |chunk: &ChunkHistory| stored::ChunkHistory {
            revision: chunk.revision.0,
            history: chunk.digest.0.to_vec(),
        };
        footer.time_marks = self.time_marks.iter().map(TimeMark::store).collect();
        footer.leases = self.leases.iter().map(LeaseGrant::store).collect();
        footer.leases_complete = self.lease_list == LeaseList::Complete;
        footer.compact_revision = self.compact_revision.map_or(0, |revision| revision.0);
        footer.chunk_history = self.chunk_history.iter().map(history).collect();
        footer.auth_state = self.auth_state.clone();
        footer.hash_kv_asked = self.hash_kv_asked.map(|asked| stored::HashKvAsked {
            unix_ms: asked.at.0,
            duration_ms: i64::try_from(asked.took_ms).unwrap_or(i64::MAX),
        });
        footer.rollup = self.rollup.as_ref().map(Rollup::store);
    }

    /// From the stored form.
    ///
    /// # Errors
    /// `Damaged` where marks do not ascend, or a digest is none.
    pub(super) fn load(footer: &stored::ObjectFooter) -> Result<Self> {
        let damaged = |what| Error::new(ErrorKind::Damaged, format!("its footer has {what}"));
        let history = |chunk: &stored::ChunkHistory| {
            let digest = <[u8; 32]>::try_from(chunk.history.as_slice()).ok()?;
            Some(ChunkHistory { revision: Revision(chunk.revision), digest: HistoryDigest(digest) })
        };
        let time_marks: Vec<_> = footer.time_marks.iter().map(TimeMark::load).collect();
        let ascending = |marks: &[TimeMark]| marks[0].time <= marks[1].time && marks[0].revision <= marks[1].revision;
        if !time_marks.windows(2).all(ascending) {
            return Err(damaged("time marks out of order"));
        }
        Ok(Self {
            time_marks,
            leases: footer.leases.iter().map(LeaseGrant::load).collect(),
            lease_list: LeaseList::load(footer.leases_complete),
            compact_revision: (footer.compact_revision > 0).then_some(Revision(footer.compact_revision)),
            chunk_history: footer
                .chunk_history
                .iter()
                .map(history)
                .collect::<Option<_>>()
                .ok_or_else(|| damaged("no digest for a chunk"))?,
            auth_state: footer.auth_state.clone(),
            hash_kv_asked: footer
                .hash_kv_asked
                .map(|asked| HashKvAsked { at: UnixMillis(asked.unix_ms), took_ms: asked.duration_ms.unsigned_abs() }),
            rollup: footer.rollup.as_ref().map(Rollup::load).transpose()?,
        })
    }

    /// Holds the chunk histories against the object: `chunks` of them, from `first` to `last`, ending with `after`.
    ///
    /// # Errors
    /// `Damaged` where they are not those of such an object.
    pub(super) fn check_chunks(
        &self,
        chunks: usize,
        (first, last): (Revision, Revision),
        after: HistoryDigest,
    ) -> Result<()> {
        let ascending = self.chunk_history.windows(2).all(|pair| pair[0].revision <= pair[1].revision);
        let begins = self.chunk_history.first().is_none_or(|chunk| chunk.revision.0 >= first.0 - 1);
        let ends =
            self.chunk_history.last().is_none_or(|chunk| *chunk == ChunkHistory { revision: last, digest: after });
        if self.chunk_history.len() == chunks && ascending && begins && ends {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Damaged, "its footer does not tell the history of its chunks"))
    }
}
