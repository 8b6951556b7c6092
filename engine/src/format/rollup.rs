//! Rollups: deltas that hold the records of several others, by name.
//!
//! A rollup says which objects were read whole into it, with their history digests, so that whoever removes those can be sure
//! of what replaces them; and what each of them told, so that a restore to a revision in its middle knows what it would
//! have known from the narrow ones.

use etcdbr_proto::etcdbr::v1 as stored;

use super::history::HistoryDigest;
use super::name::{BackupName, LineageId, NameKind, ObjectNonce};
use super::told::Told;
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// What makes a delta a rollup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rollup {
    /// The objects that it was made of.
    pub parts: Vec<RolledUp>,
    /// What they told, in order of time, but for what adds nothing to what comes before it.
    pub told: Vec<Told>,
}

/// An object that was read whole into a rollup of its lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledUp {
    /// Its first and last revision.
    pub revisions: (Revision, Revision),
    /// As in its name.
    pub created: UnixMillis,
    /// As in its name.
    pub nonce: ObjectNonce,
    /// D before its first revision and of its last.
    pub history: (HistoryDigest, HistoryDigest),
}

impl RolledUp {
    /// The name that it has, or had, in `lineage`.
    pub fn name(&self, lineage: LineageId) -> BackupName {
        let (first, last) = self.revisions;
        BackupName { lineage, kind: NameKind::Delta { first, last }, created: self.created, nonce: self.nonce }
    }
}

impl Rollup {
    /// Into the stored form.
    pub(super) fn store(&self) -> stored::Rollup {
        let part = |part: &RolledUp| stored::RolledUp {
            first_revision: part.revisions.0.0,
            last_revision: part.revisions.1.0,
            created_unix_ms: part.created.0,
            nonce: part.nonce.0.to_vec(),
            history_before: part.history.0.0.to_vec(),
            history_after: part.history.1.0.to_vec(),
        };
        let told = self.told.iter().map(Told::store).collect();
        stored::Rollup { parts: self.parts.iter().map(part).collect(), told }
    }

    /// From the stored form.
    ///
    /// # Errors
    /// `Damaged` where a part has no name or no digest.
    pub(super) fn load(rollup: &stored::Rollup) -> Result<Self> {
        let part = |part: &stored::RolledUp| {
            let digest = |bytes: &[u8]| Some(HistoryDigest(<[u8; 32]>::try_from(bytes).ok()?));
            Some(RolledUp {
                revisions: (Revision(part.first_revision), Revision(part.last_revision)),
                created: UnixMillis(part.created_unix_ms),
                nonce: ObjectNonce(part.nonce.as_slice().try_into().ok()?),
                history: (digest(&part.history_before)?, digest(&part.history_after)?),
            })
        };
        let parts: Option<_> = rollup.parts.iter().map(part).collect();
        let parts =
            parts.ok_or_else(|| Error::new(ErrorKind::Damaged, "its footer has a part without a name or digest"))?;
        Ok(Self { parts, told: rollup.told.iter().map(Told::load).collect::<Result<_>>()? })
    }
}
