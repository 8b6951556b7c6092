//! Deltas: made in memory at once, kept as they will be stored, and put in one act.
//!
//! A delta is cut every few seconds and is small, so nothing of it is streamed: records in, the whole object out. What
//! waits for a store that is slow waits compressed and encrypted.

use bytes::Bytes;

use super::Archive;
use super::growing::GrowingObject;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BackupName, ChunkHistory, Codec, DEFAULT_CHUNK_BYTES, EncodedHeader, FooterFacts, HistoryDigest, HistoryFold, Kind,
    MAX_CHUNK_BYTES, NameKind, ObjectHeader, RecordsEncoder,
};
use crate::pipeline::{CompressionLevel, Protector, Sealer};
use crate::record::{Record, RecordRef};
use crate::revision::Revision;

/// A delta as it will be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedDelta {
    name: BackupName,
    object: Bytes,
    facts: FooterFacts,
    penultimate: (Revision, HistoryDigest),
}

impl SealedDelta {
    /// Its name.
    pub fn name(&self) -> &BackupName {
        &self.name
    }

    /// Bytes that it will have in the store, and has in memory.
    pub fn stored_bytes(&self) -> u64 {
        self.object.len() as u64
    }

    /// Of these parts.
    pub(super) fn of(
        name: BackupName,
        object: Bytes,
        facts: FooterFacts,
        penultimate: (Revision, HistoryDigest),
    ) -> Self {
        Self { name, object, facts, penultimate }
    }

    /// As it will be stored.
    pub(super) fn object(&self) -> &[u8] {
        &self.object
    }

    /// Its footer.
    pub fn facts(&self) -> &FooterFacts {
        &self.facts
    }

    /// The last revision but one, and its digest. Of a delta without records, the last one.
    pub fn penultimate(&self) -> (Revision, HistoryDigest) {
        self.penultimate
    }
}

impl std::fmt::Debug for SealedDelta {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealedDelta({}, {} bytes)", self.name, self.object.len())
    }
}

impl Archive {
    /// Seals `records`, which are all of the revisions that `name` gives, in order. Of `facts` it fills in what follows
    /// from the records: SHA-256, the digest after them, and those of the chunks. CPU only.
    ///
    /// # Errors
    /// `Internal` where the records are not those of the name, or one is larger than a chunk can be.
    pub fn seal_delta(
        &self,
        name: BackupName,
        records: &[Record],
        mut facts: FooterFacts,
        level: CompressionLevel,
    ) -> Result<SealedDelta> {
        let NameKind::Delta { first, last } = name.kind else {
            return Err(Error::new(ErrorKind::Internal, format!("{name} is not the name of a delta")));
        };
        let largest = records.iter().map(|record| RecordsEncoder::bound(&record.as_ref())).max().unwrap_or(0);
        let chunk_bytes = largest.max(DEFAULT_CHUNK_BYTES as usize);
        if chunk_bytes > MAX_CHUNK_BYTES as usize {
            let what = format!("a record of revisions {first} to {last} is too large to be stored: {largest} bytes");
            return Err(Error::new(ErrorKind::Internal, what));
        }
        let (header, object_key) = self.new_header(&name, chunk_bytes as u32, level.codec())?;
        let sealer = Sealer::new(Protector::new(&header, object_key.as_ref()), level);
        let mut object = DeltaObject::begin(sealer, &header, chunk_bytes);
        let mut fold = HistoryFold::after(Revision(first.0 - 1), facts.history.0);
        for record in records {
            let record = record.as_ref();
            fold.push(&record)?;
            object.push(&record, fold.closed())?;
        }
        let penultimate = fold.closed();
        let (reached, after) = fold.finish();
        if reached != last {
            return Err(Error::new(ErrorKind::Internal, format!("{name} was given records up to {reached}")));
        }
        object.close_chunk((reached, after))?;
        facts.revisions = (first, last);
        facts.history.1 = after;
        let object = object.finish(&name, &mut facts)?;
        Ok(SealedDelta { name, object, facts, penultimate })
    }

    /// Makes a sealed delta durable: one PUT. Doing it again does no harm.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn put_delta(&self, delta: &SealedDelta) -> Result<()> {
        self.store
            .put(&self.prefix.key(&delta.name), delta.object.clone())
            .await
            .map_err(|error| error.about(delta.name))
    }
}

/// A delta that grows in memory, record by record.
pub(super) struct DeltaObject {
    object: GrowingObject,
    records: RecordsEncoder,
    chunk_bytes: usize,
    chunk_history: Vec<ChunkHistory>,
}

impl DeltaObject {
    pub(super) fn begin(sealer: Sealer, header: &EncodedHeader, chunk_bytes: usize) -> Self {
        Self {
            object: GrowingObject::begin(sealer, header, 0),
            records: RecordsEncoder::default(),
            chunk_bytes,
            chunk_history: Vec::new(),
        }
    }

    /// `closed`: the last revision that is whole before `record`, and its digest.
    fn push(&mut self, record: &RecordRef<'_>, closed: (Revision, HistoryDigest)) -> Result<()> {
        if !self.has_room(record) {
            self.close_chunk(closed)?;
        }
        self.add(record);
        Ok(())
    }

    /// Whether `record` fits into the chunk that is being gathered.
    pub(super) fn has_room(&self, record: &RecordRef<'_>) -> bool {
        self.records.bytes() + RecordsEncoder::bound(record) <= self.chunk_bytes
    }

    /// Adds a record that fits.
    pub(super) fn add(&mut self, record: &RecordRef<'_>) {
        self.records.push(record);
    }

    /// The bytes of the object that have not been taken before.
    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        self.object.take_bytes()
    }

    /// Bytes of all its chunks.
    pub(super) fn plain_bytes(&self) -> u64 {
        self.object.plain_bytes()
    }

    pub(super) fn close_chunk(&mut self, (revision, digest): (Revision, HistoryDigest)) -> Result<()> {
        if self.records.bytes() == 0 {
            return Ok(());
        }
        self.object.chunk(&self.records.take(Vec::new()))?;
        self.chunk_history.push(ChunkHistory { revision, digest });
        Ok(())
    }

    /// Adds footer and trailer, and fills in what they say of the chunks; the rest of the object's bytes.
    pub(super) fn finish(self, name: &BackupName, facts: &mut FooterFacts) -> Result<Bytes> {
        facts.capture.chunk_history = self.chunk_history;
        self.object.finish(name, facts)
    }
}

impl Archive {
    /// The header of an object called `name`, and the object's own key.
    pub(super) fn new_header(
        &self,
        name: &BackupName,
        chunk_bytes: u32,
        codec: Codec,
    ) -> Result<(EncodedHeader, Option<crate::secret::SecretKey>)> {
        let (protection, object_key) = self.keyring.protection()?;
        let (kind, revision_floor) = match name.kind {
            NameKind::Full { seam } => (Kind::Full, seam),
            NameKind::Delta { first, .. } => (Kind::Delta, first),
        };
        let header = ObjectHeader {
            kind,
            lineage: name.lineage,
            nonce: name.nonce,
            created: name.created,
            revision_floor,
            protection,
            codec,
            chunk_bytes,
        };
        Ok((header.encode(), object_key))
    }
}
