//! Deltas that wait for the store become one wider delta, so that an outage of an hour does not become hundreds of objects.
//!
//! # Why nothing is lost or mixed
//! Only neighbours are merged: of one lineage, where one ends at the revision and the history digest that the next one
//! begins with. Each chunk is opened under the key of its own object, which proves every byte, and sealed again under that
//! of the new one; it is not compressed again. The chunks keep the digests that they end at, the marks stand one after the
//! other, leases add up. What could not be told of each part in one footer keeps them apart: a whole list of the leases
//! (it ends those before it) begins an object, and so does another compact revision.

use sha2::{Digest, Sha256};

use super::Archive;
use super::delta::SealedDelta;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BackupName, EncodedHeader, FooterFacts, FrameHeader, FrameRole, LeaseList, MAX_FOOTER_BYTES, NameKind,
    ObjectHeader, ObjectNonce, Trailer,
};
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
        let mut merged = Merged::begin(sealer, &encoded, parts);
        for part in &opened {
            part.each_chunk(|payload, plain| merged.add(payload, plain))?;
        }
        let facts = merged_facts(parts, first, last);
        merged.finish(name, facts, last)
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

/// The object that grows.
struct Merged {
    sealer: Sealer,
    bytes: Vec<u8>,
    frame: Vec<u8>,
    sha256: Sha256,
    frame_bytes: Vec<u32>,
    chunk_plain_bytes: Vec<u32>,
}

impl Merged {
    fn begin(sealer: Sealer, header: &EncodedHeader, parts: &[SealedDelta]) -> Self {
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.stored_bytes() as usize).sum());
        bytes.extend_from_slice(&header.bytes);
        let (frame_bytes, chunk_plain_bytes) = (Vec::new(), Vec::new());
        Self { sealer, bytes, frame: Vec::new(), sha256: Sha256::new(), frame_bytes, chunk_plain_bytes }
    }

    fn add(&mut self, payload: &[u8], plain: &[u8]) -> Result<()> {
        self.sha256.update(plain);
        self.sealer.compressed_chunk(self.frame_bytes.len() as u32, payload, plain.len(), &mut self.frame)?;
        self.bytes.extend_from_slice(&self.frame);
        self.frame_bytes.push(self.frame.len() as u32);
        self.chunk_plain_bytes.push(plain.len() as u32);
        Ok(())
    }

    fn finish(mut self, name: BackupName, mut facts: FooterFacts, last: &SealedDelta) -> Result<SealedDelta> {
        facts.plain_sha256 = self.sha256.finalize().into();
        let number = self.frame_bytes.len() as u32;
        let footer = facts.encode(self.frame_bytes, self.chunk_plain_bytes);
        self.sealer.footer(number, &name.to_string(), &footer, &mut self.frame)?;
        if footer.len().max(self.frame.len()) > MAX_FOOTER_BYTES {
            return Err(Error::new(ErrorKind::Internal, format!("the footer of {name} is too large")));
        }
        self.bytes.extend_from_slice(&self.frame);
        self.bytes.extend_from_slice(&Trailer { footer_frame_bytes: self.frame.len() as u32 }.encode());
        self.bytes.shrink_to_fit();
        Ok(SealedDelta::of(name, self.bytes.into(), facts, last.penultimate()))
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
