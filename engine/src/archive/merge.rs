//! Deltas that wait for the store become one wider delta, so that an outage of an hour does not become hundreds of objects.
//!
//! # Why nothing is lost or mixed
//! Only neighbours are merged: of one lineage, where one ends at the revision and the history digest that the next one
//! begins with. Each chunk is opened under the key of its own object, which proves every byte, and sealed again under that
//! of the new one; it is not compressed again. The chunks keep the digests that they end at, the marks stand one after the
//! other, leases add up. What could not be told of each part in one footer keeps them apart: a whole list of the leases
//! (it ends those before it) begins an object, and so does another compact revision.

use super::Archive;
use super::delta::SealedDelta;
use super::growing::GrowingObject;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, FooterFacts, FrameHeader, FrameRole, LeaseList, NameKind, ObjectHeader, ObjectNonce};
use crate::pipeline::{CompressionLevel, Opener, Protector, Sealer};

impl SealedDelta {
    /// Whether `next` can be merged behind this one.
    pub fn joins(&self, next: &Self) -> bool {
        let (own, its) = (self.facts(), next.facts());
        self.name().lineage == next.name().lineage
            && own.revisions.1.next() == its.revisions.0
            && own.history.1 == its.history.0
            && its.capture.lease_list == LeaseList::New
            && own.capture.compact_revision == its.capture.compact_revision
    }
}

impl Archive {
    /// One delta in the place of `parts`, each of which [joins](SealedDelta::joins) the one before. CPU only.
    ///
    /// # Errors
    /// `Internal` for parts that do not join, and for a footer that would be too large.
    pub fn merge_deltas(&self, parts: &[SealedDelta]) -> Result<SealedDelta> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Err(Error::new(ErrorKind::Internal, "nothing to merge"));
        };
        if !parts.windows(2).all(|pair| pair[0].joins(&pair[1])) {
            let what = format!("{} to {} do not follow each other", first.name(), last.name());
            return Err(Error::new(ErrorKind::Internal, what));
        }
        let opened = parts.iter().map(|part| self.open_sealed(part)).collect::<Result<Vec<_>>>()?;
        let header = &opened[0].header;
        if opened.iter().any(|part| part.header.codec != header.codec) {
            return Err(Error::new(ErrorKind::Internal, format!("{} is compressed otherwise", last.name())));
        }
        let name = BackupName {
            kind: NameKind::Delta { first: first.facts().revisions.0, last: last.facts().revisions.1 },
            nonce: ObjectNonce::random()?,
            // Objects tell of times up to that in their name.
            ..*last.name()
        };
        let chunk_bytes = opened.iter().map(|part| part.header.chunk_bytes).max().unwrap_or(header.chunk_bytes);
        let (encoded, object_key) = self.new_header(&name, chunk_bytes, header.codec)?;
        let sealer = Sealer::new(Protector::new(&encoded, object_key.as_ref()), CompressionLevel::of(header.codec));
        let expected_bytes = parts.iter().map(|part| part.stored_bytes() as usize).sum();
        let mut merged = GrowingObject::begin(sealer, &encoded, expected_bytes);
        for part in &opened {
            part.each_chunk(|payload, plain| merged.compressed_chunk(payload, plain))?;
        }
        let mut facts = merged_facts(parts, first, last);
        let object = merged.finish(&name, &mut facts)?;
        Ok(SealedDelta::of(name, object, facts, last.penultimate()))
    }

    fn open_sealed<'a>(&self, part: &'a SealedDelta) -> Result<OpenedPart<'a>> {
        let (header, encoded) = ObjectHeader::decode(part.object())?;
        let object_key = self.keyring.object_key(&header.protection)?;
        let opener = Opener::new(Protector::new(&encoded, object_key.as_ref()), header.codec);
        let frames = &part.object()[encoded.bytes.len()..];
        Ok(OpenedPart { header, opener, frames, chunks: part.facts().capture.chunk_history.len() as u32 })
    }
}

/// A part that is being read.
struct OpenedPart<'a> {
    header: ObjectHeader,
    opener: Opener,
    /// The object behind its header.
    frames: &'a [u8],
    chunks: u32,
}

impl OpenedPart<'_> {
    /// Gives each chunk: compressed, and in the clear.
    fn each_chunk(&self, mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let mut rest = self.frames;
        let mut plain = Vec::new();
        for number in 0..self.chunks {
            let frame = FrameHeader::first(rest, number, FrameRole::Chunk)?;
            rest = &rest[frame.len()..];
            let payload = self.opener.payload(number, frame, self.header.chunk_bytes as usize, &mut plain)?;
            take(&payload, &plain)?;
        }
        Ok(())
    }
}

/// The footer of all `parts`, from `first` to `last`.
fn merged_facts(parts: &[SealedDelta], first: &SealedDelta, last: &SealedDelta) -> FooterFacts {
    let mut facts = last.facts().clone();
    facts.revisions.0 = first.facts().revisions.0;
    facts.history.0 = first.facts().history.0;
    facts.started = first.facts().started;
    facts.source.raft_term = parts.iter().map(|part| part.facts().source.raft_term).max().unwrap_or_default();
    facts.source.raft_index = parts.iter().map(|part| part.facts().source.raft_index).max().unwrap_or_default();
    let all = || parts.iter().map(|part| &part.facts().capture);
    let capture = &mut facts.capture;
    capture.time_marks = all().flat_map(|part| part.time_marks.iter().copied()).collect();
    capture.time_marks.dedup();
    capture.chunk_history = all().flat_map(|part| part.chunk_history.iter().copied()).collect();
    // A later grant of the same id takes the place of the earlier one.
    let leases = all().flat_map(|part| part.leases.iter().map(|lease| (lease.id, *lease)));
    capture.leases = leases.collect::<std::collections::BTreeMap<_, _>>().into_values().collect();
    capture.lease_list = first.facts().capture.lease_list;
    facts
}
