//! Writes a delta of any size as its records come: what a rollup is made with.
//!
//! Memory is two chunks and (uploads + 1) parts, whatever the size of the delta. As with every backup, nothing is visible
//! before [`DeltaWriter::finish`] has sent everything, and one act makes it so.

use super::Archive;
use super::delta::DeltaObject;
use super::parts::PartSender;
use super::writer::{WriteLimits, WrittenBackup};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, FooterFacts, HistoryDigest, HistoryFold, NameKind};
use crate::pipeline::{Protector, Sealer};
use crate::record::RecordRef;
use crate::revision::Revision;
use crate::run::blocking;

/// Writes one delta. Must be ended by [`finish`](Self::finish) or [`abort_after`](Self::abort_after).
pub struct DeltaWriter {
    name: BackupName,
    last: Revision,
    /// Away while a chunk is sealed.
    object: Option<DeltaObject>,
    fold: HistoryFold,
    parts: PartSender,
}

impl Archive {
    /// Begins the delta called `name`, before whose first revision the history digest is `before`. No record may take more
    /// than `limits.chunk_bytes`.
    ///
    /// # Errors
    /// `Internal` for the name of a full, or without random bytes.
    pub fn delta_writer(&self, name: BackupName, before: HistoryDigest, limits: WriteLimits) -> Result<DeltaWriter> {
        let NameKind::Delta { first, last } = name.kind else {
            return Err(Error::new(ErrorKind::Internal, format!("{name} is not the name of a delta")));
        };
        let (header, object_key) = self.new_header(&name, limits.chunk_bytes, limits.level.codec())?;
        let sealer = Sealer::new(Protector::new(&header, object_key.as_ref()), limits.level);
        let parts = (limits.part_bytes, limits.parallel_parts);
        Ok(DeltaWriter {
            name,
            last,
            object: Some(DeltaObject::begin(sealer, &header, limits.chunk_bytes as usize)),
            fold: HistoryFold::after(Revision(first.0 - 1), before),
            parts: PartSender::new(self.store.clone(), self.prefix.key(&name), parts, Vec::new()),
        })
    }
}

impl DeltaWriter {
    /// The last revision that is whole, and its digest.
    pub fn closed(&self) -> (Revision, HistoryDigest) {
        self.fold.closed()
    }

    /// The last record of a revision has been pushed.
    pub fn close(&mut self) {
        self.fold.close();
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// `Damaged` for a record that does not follow; those of the store. The writer must be aborted then.
    pub async fn push(&mut self, record: &RecordRef<'_>) -> Result<()> {
        self.fold.push(record)?;
        if self.object.as_ref().is_some_and(|object| !object.has_room(record)) {
            self.close_chunk().await?;
        }
        if let Some(object) = &mut self.object {
            object.add(record);
        }
        Ok(())
    }

    async fn close_chunk(&mut self) -> Result<()> {
        let Some(mut object) = self.object.take() else { return Ok(()) };
        let closed = self.fold.closed();
        let (object, sealed) = blocking(move || {
            object.close_chunk(closed)?;
            let sealed = object.take_bytes();
            Ok((object, sealed))
        })
        .await?;
        self.object = Some(object);
        self.parts.push(&sealed).await
    }

    /// Makes the delta visible, whole and durable. Of `facts` it fills in what follows from the records.
    ///
    /// # Errors
    /// `Internal` where the records are not those of the name; those of the store. What was sent has been taken back as far
    /// as the store allowed.
    pub async fn finish(mut self, facts: FooterFacts) -> Result<WrittenBackup> {
        match self.seal_rest(facts).await {
            Ok(plain_bytes) => {
                let written = WrittenBackup { name: self.name, plain_bytes, stored_bytes: self.parts.stored_bytes() };
                match self.parts.commit().await {
                    Ok(()) => Ok(written),
                    Err(error) => Err(self.abort_after(error).await),
                }
            }
            Err(error) => Err(self.abort_after(error).await),
        }
    }

    async fn seal_rest(&mut self, mut facts: FooterFacts) -> Result<u64> {
        self.fold.close();
        let (reached, after) = self.fold.closed();
        if reached != self.last {
            let what = format!("{} was given records up to {reached}", self.name);
            return Err(Error::new(ErrorKind::Internal, what));
        }
        self.close_chunk().await?;
        let Some(object) = self.object.take() else {
            return Err(Error::new(ErrorKind::Internal, format!("{} was ended twice", self.name)));
        };
        facts.history.1 = after;
        let (plain_bytes, name) = (object.plain_bytes(), self.name);
        let rest = blocking(move || object.finish(&name, &mut facts)).await?;
        self.parts.push(&rest).await?;
        self.parts.flush().await?;
        Ok(plain_bytes)
    }

    /// Takes back what was sent.
    ///
    /// # Errors
    /// Those of the store: the upload may be left behind then.
    pub async fn abort(mut self) -> Result<()> {
        self.parts.abort().await
    }

    /// Takes back what was sent; `error` again, with what that came to.
    pub async fn abort_after(mut self, error: Error) -> Error {
        match self.parts.abort().await {
            Ok(()) => error.about(self.name),
            Err(abort) => {
                Error::new(error.kind(), format!("{error} (and what was sent could not be taken back: {abort})"))
                    .about(self.name)
            }
        }
    }
}

impl std::fmt::Debug for DeltaWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeltaWriter({})", self.name)
    }
}
