//! Stored bytes: names, header, frames, footer, trailer, and the keys that belong to them.
//!
//! No I/O, no async, and nothing of etcd's own files. `docs/format.md` is the specification.

mod capture;
mod footer;
mod frame;
mod header;
mod history;
mod key;
mod name;
mod records;
mod rollup;
mod told;

pub use capture::{CaptureFacts, ChunkHistory, HashKvAsked};
pub use footer::{
    ChunkPlace, Footer, FooterFacts, HashKvAnswer, MAX_FOOTER_BYTES, RawFooter, Seam, SeamProof, Source, TRAILER_BYTES,
    Trailer,
};
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, FrameRole, TAG_BYTES, frame_aad, frame_nonce};
pub use header::{
    Codec, DEFAULT_CHUNK_BYTES, EncodedHeader, Kind, MAX_CHUNK_BYTES, MAX_HEADER_BYTES, OBJECT_MAGIC, ObjectHeader,
    PREAMBLE_BYTES, Protection,
};
pub use history::{HistoryDigest, HistoryFold};
pub use key::{KeyId, Salt, key_id, object_key};
pub use name::{ArchivePrefix, BackupName, LineageId, NameKind, ObjectNonce, PlainCopyName};
pub use records::{RecordsDecoder, RecordsEncoder};
pub use rollup::{RolledUp, Rollup};
pub use told::{LeaseGrant, LeaseList, LeaseTtl, TimeMark, Told};

/// The format that this code writes, and the only one that it reads.
pub const FORMAT_VERSION: u16 = 1;
