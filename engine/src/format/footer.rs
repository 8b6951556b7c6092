//! The end of an object: the footer (a frame of its own) and the fixed trailer that leads to it.
//!
//! ```text
//! 0   4  footer frame length, little-endian
//! 4   4  zero
//! 8   8  magic 0a 52 42 44 43 54 45 89  ("\nRBDCTE\x89")
//! ```
//! A [`RawFooter`] has been authenticated; a [`Footer`] also accounts for every byte of its object.

use std::collections::BTreeMap;

use etcdbr_proto::etcdbr::v1 as stored;
use prost::Message;

use super::capture::CaptureFacts;
use super::frame::{FRAME_HEADER_BYTES, TAG_BYTES};
use super::header::ObjectHeader;
use super::history::HistoryDigest;
use super::name::{BackupName, NameKind};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Change, Record};
use crate::revision::{ClusterId, MemberId, Revision};

/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 16;
/// Largest footer, plaintext or stored; its seam may hold one large transaction.
pub const MAX_FOOTER_BYTES: usize = 96 << 20;

const MAGIC: [u8; 8] = *b"\nRBDCTE\x89";

/// The last bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes of the footer frame, which ends where the trailer begins.
    pub footer_frame_bytes: u32,
}

impl Trailer {
    /// The stored form.
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..4].copy_from_slice(&self.footer_frame_bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&MAGIC);
        bytes
    }

    /// Reads the trailer from the last bytes of an object.
    ///
    /// # Errors
    /// `Damaged` where they are none: the object is cut short or is not ours.
    pub fn decode(end: &[u8]) -> Result<Self> {
        let bytes: &[u8; TRAILER_BYTES] = end.last_chunk().ok_or_else(|| damaged("it is too short to be a backup"))?;
        let trailer = Self { footer_frame_bytes: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) };
        if trailer.encode() != *bytes {
            return Err(damaged("it does not end as a backup: it is cut short, or was changed"));
        }
        let frame = FRAME_HEADER_BYTES + TAG_BYTES..=FRAME_HEADER_BYTES + MAX_FOOTER_BYTES + TAG_BYTES;
        if !frame.contains(&(trailer.footer_frame_bytes as usize)) {
            return Err(damaged("its trailer gives no possible footer length"));
        }
        Ok(trailer)
    }
}

/// Whether a watch could show the records of a seam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SeamProof {
    /// `records` is the whole revision.
    Proven,
    /// The revision was compacted or empty; there are no records.
    Unproven,
}

/// Where capture is known to meet a full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seam {
    /// L.
    pub revision: Revision,
    /// The records of L.
    pub records: Vec<Record>,
    /// Whether they could be had.
    pub proof: SeamProof,
}

/// The member that gave a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub member: MemberId,
    /// Its name in the cluster, empty where it could not be asked.
    pub member_name: String,
    /// The endpoint that was used.
    pub endpoint: String,
    /// Version of etcd.
    pub etcd_version: String,
    /// Raft term before the backup.
    pub raft_term: u64,
    /// Raft index before the backup.
    pub raft_index: u64,
    /// Size of its db file, bytes.
    pub db_bytes: u64,
    /// Of those in use, bytes; 0 where it did not say.
    pub db_bytes_in_use: u64,
}

/// An answer of `Maintenance.HashKV`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKvAnswer {
    /// The revision that was hashed.
    pub revision: Revision,
    /// The compact revision that it was computed with, -1 for none.
    pub compact_revision: Revision,
    /// CRC-32C.
    pub hash: u32,
    /// How long the member took.
    pub duration_ms: u64,
}

/// What the writer of a full knows when its data has gone through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FooterFacts {
    /// SHA-256 of the whole plaintext.
    pub plain_sha256: [u8; 32],
    /// First and last revision; of a full both are L.
    pub revisions: (Revision, Revision),
    /// Of a full.
    pub seam: Option<Seam>,
    /// HashKV answers of the source.
    pub hash_kv: Vec<HashKvAnswer>,
    /// The pinned member.
    pub source: Source,
    /// History digest before the first and after the last record.
    pub history: (HistoryDigest, HistoryDigest),
    /// What capture knows besides records.
    pub capture: CaptureFacts,
    /// The operator's labels.
    pub labels: BTreeMap<String, String>,
    /// Version of etcdbr.
    pub tool_version: String,
    /// When work began.
    pub started: UnixMillis,
    /// When the data had gone through.
    pub finished: UnixMillis,
}

impl FooterFacts {
    /// The stored form, with the index of `frame_bytes` and `chunk_plain_bytes` of each chunk.
    pub fn encode(&self, frame_bytes: Vec<u32>, chunk_plain_bytes: Vec<u32>) -> Vec<u8> {
        let source = &self.source;
        let mut footer = stored::ObjectFooter {
            plain_bytes: chunk_plain_bytes.iter().copied().map(u64::from).sum(),
            frame_bytes,
            chunk_plain_bytes,
            plain_sha256: self.plain_sha256.to_vec(),
            first_revision: self.revisions.0.0,
            last_revision: self.revisions.1.0,
            seam: self.seam.as_ref().map(store_seam),
            hash_kv: self.hash_kv.iter().map(store_hash_kv).collect(),
            source: Some(stored::SourceMember {
                cluster_id: source.cluster.0,
                member_id: source.member.0,
                name: source.member_name.clone(),
                endpoint: source.endpoint.clone(),
                etcd_version: source.etcd_version.clone(),
                raft_term: source.raft_term,
                raft_index: source.raft_index,
                db_bytes: clamped(source.db_bytes),
                db_bytes_in_use: clamped(source.db_bytes_in_use),
            }),
            history_before: self.history.0.0.to_vec(),
            history_after: self.history.1.0.to_vec(),
            labels: self.labels.clone(),
            tool_version: self.tool_version.clone(),
            started_unix_ms: self.started.0,
            finished_unix_ms: self.finished.0,
            ..Default::default()
        };
        self.capture.store(&mut footer);
        footer.encode_to_vec()
    }
}

/// One chunk's place in its object and in the plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Frame number.
    pub number: u32,
    /// First stored byte of the frame.
    pub stored_start: u64,
    /// Bytes of the frame.
    pub stored_bytes: u32,
    /// Bytes of the chunk.
    pub plain_bytes: u32,
}

/// A footer that was authenticated and parsed, but not yet held against its object.
#[derive(Debug)]
pub struct RawFooter(stored::ObjectFooter);

/// A footer whose index accounts for every byte of its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// The chunks in order.
    pub chunks: Vec<ChunkPlace>,
    /// Bytes of the whole plaintext.
    pub plain_bytes: u64,
    /// The rest.
    pub facts: FooterFacts,
}

impl RawFooter {
    /// Parses the plaintext of an opened footer frame.
    ///
    /// # Errors
    /// `Damaged` where it does not parse.
    pub fn decode(plain: &[u8]) -> Result<Self> {
        stored::ObjectFooter::decode(plain)
            .map(Self)
            .map_err(|error| damaged("its footer does not parse").caused_by(error))
    }

    /// Holds the footer against the object: `first_frame` is where frames begin, `footer_start` where the footer frame
    /// does. What lies between must be exactly the indexed frames.
    ///
    /// # Errors
    /// `Damaged` where anything does not add up, or contradicts header or name.
    pub fn check(
        self,
        header: &ObjectHeader,
        name: &BackupName,
        first_frame: u64,
        footer_start: u64,
    ) -> Result<Footer> {
        let raw = self.0;
        if !header.matches(name) {
            return Err(damaged("its header belongs to an object of another name"));
        }
        let chunks = place_chunks(&raw, header, first_frame)?;
        let end = chunks.last().map_or(first_frame, |chunk| chunk.stored_start + u64::from(chunk.stored_bytes));
        let plain_bytes = chunks.iter().map(|chunk| u64::from(chunk.plain_bytes)).sum();
        if end != footer_start || plain_bytes != raw.plain_bytes {
            return Err(damaged("its footer does not account for its length"));
        }
        let revisions = (Revision(raw.first_revision), Revision(raw.last_revision));
        let expected = match name.kind {
            NameKind::Full { seam } => (seam, seam),
            NameKind::Delta { first, last } => (first, last),
        };
        if revisions != expected {
            return Err(damaged("its footer tells other revisions than its name"));
        }
        let digest = |bytes: &[u8], what: &str| {
            <[u8; 32]>::try_from(bytes).map_err(|_| damaged(&format!("its footer has no {what}")))
        };
        let facts = FooterFacts {
            plain_sha256: digest(&raw.plain_sha256, "SHA-256")?,
            revisions,
            seam: raw.seam.clone().map(load_seam).transpose()?,
            hash_kv: raw.hash_kv.iter().map(load_hash_kv).collect(),
            source: load_source(raw.source.clone().ok_or_else(|| damaged("its footer has no source"))?),
            history: (
                HistoryDigest(digest(&raw.history_before, "history digest")?),
                HistoryDigest(digest(&raw.history_after, "history digest")?),
            ),
            capture: CaptureFacts::load(&raw)?,
            labels: raw.labels,
            tool_version: raw.tool_version,
            started: UnixMillis(raw.started_unix_ms),
            finished: UnixMillis(raw.finished_unix_ms),
        };
        match name.kind {
            NameKind::Full { seam } if facts.seam.as_ref().is_none_or(|found| found.revision != seam) => {
                return Err(damaged("its footer has no seam at the revision of its name"));
            }
            NameKind::Full { .. } => {}
            NameKind::Delta { .. } => facts.capture.check_chunks(chunks.len(), revisions, facts.history.1)?,
        }
        Ok(Footer { chunks, plain_bytes, facts })
    }
}

fn place_chunks(raw: &stored::ObjectFooter, header: &ObjectHeader, first_frame: u64) -> Result<Vec<ChunkPlace>> {
    if raw.frame_bytes.len() != raw.chunk_plain_bytes.len() || raw.frame_bytes.len() >= u32::MAX as usize {
        return Err(damaged("its chunk index does not add up"));
    }
    let mut stored_start = first_frame;
    let mut chunks = Vec::with_capacity(raw.frame_bytes.len());
    for (number, (&stored_bytes, &plain_bytes)) in (0..).zip(raw.frame_bytes.iter().zip(&raw.chunk_plain_bytes)) {
        let too_short = (stored_bytes as usize) < FRAME_HEADER_BYTES + TAG_BYTES;
        if too_short || plain_bytes == 0 || plain_bytes > header.chunk_bytes {
            return Err(damaged("its chunk index has an impossible entry"));
        }
        chunks.push(ChunkPlace { number, stored_start, stored_bytes, plain_bytes });
        stored_start += u64::from(stored_bytes);
    }
    Ok(chunks)
}

fn store_seam(seam: &Seam) -> stored::Seam {
    let record = |record: &Record| stored::Record {
        main: record.main.0,
        sub: record.sub,
        tombstone: record.change == Change::Tombstone,
        value: record.value.clone(),
    };
    stored::Seam {
        revision: seam.revision.0,
        records: seam.records.iter().map(record).collect(),
        unproven: seam.proof == SeamProof::Unproven,
    }
}

fn load_seam(seam: stored::Seam) -> Result<Seam> {
    let record = |record: stored::Record| Record {
        main: Revision(record.main),
        sub: record.sub,
        change: if record.tombstone { Change::Tombstone } else { Change::Put },
        value: record.value,
    };
    let records: Vec<_> = seam.records.into_iter().map(record).collect();
    let proof = if seam.unproven { SeamProof::Unproven } else { SeamProof::Proven };
    if records.is_empty() != (proof == SeamProof::Unproven)
        || records.iter().any(|record| record.main.0 != seam.revision)
    {
        return Err(damaged("its seam contradicts itself"));
    }
    Ok(Seam { revision: Revision(seam.revision), records, proof })
}

fn store_hash_kv(answer: &HashKvAnswer) -> stored::HashKvAnswer {
    stored::HashKvAnswer {
        revision: answer.revision.0,
        compact_revision: answer.compact_revision.0,
        hash: answer.hash,
        duration_ms: clamped(answer.duration_ms),
    }
}

fn load_hash_kv(answer: &stored::HashKvAnswer) -> HashKvAnswer {
    HashKvAnswer {
        revision: Revision(answer.revision),
        compact_revision: Revision(answer.compact_revision),
        hash: answer.hash,
        duration_ms: answer.duration_ms.unsigned_abs(),
    }
}

fn load_source(source: stored::SourceMember) -> Source {
    Source {
        cluster: ClusterId(source.cluster_id),
        member: MemberId(source.member_id),
        member_name: source.name,
        endpoint: source.endpoint,
        etcd_version: source.etcd_version,
        raft_term: source.raft_term,
        raft_index: source.raft_index,
        db_bytes: source.db_bytes.unsigned_abs(),
        db_bytes_in_use: source.db_bytes_in_use.unsigned_abs(),
    }
}

fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, what).hint("use another backup; `etcdbr list` shows them")
}
