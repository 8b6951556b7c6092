//! An object that grows in memory: its header, then frame after frame, and what the footer says of them.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{BackupName, EncodedHeader, FooterFacts, MAX_FOOTER_BYTES, Trailer};
use crate::pipeline::Sealer;

/// The object, as far as it is made.
pub(super) struct GrowingObject {
    sealer: Sealer,
    /// One frame, used again and again.
    frame: Vec<u8>,
    bytes: Vec<u8>,
    sha256: Sha256,
    frame_bytes: Vec<u32>,
    chunk_plain_bytes: Vec<u32>,
}

impl GrowingObject {
    /// With `header`; room for `expected_bytes` is made at once.
    pub(super) fn begin(sealer: Sealer, header: &EncodedHeader, expected_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(expected_bytes.max(header.bytes.len()));
        bytes.extend_from_slice(&header.bytes);
        Self {
            sealer,
            frame: Vec::new(),
            bytes,
            sha256: Sha256::new(),
            frame_bytes: Vec::new(),
            chunk_plain_bytes: Vec::new(),
        }
    }

    /// The bytes that have not been taken before.
    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Bytes of all its chunks in the clear.
    pub(super) fn plain_bytes(&self) -> u64 {
        self.chunk_plain_bytes.iter().copied().map(u64::from).sum()
    }

    /// Compresses and seals the next chunk.
    ///
    /// # Errors
    /// Those of the pipeline.
    pub(super) fn chunk(&mut self, plain: &[u8]) -> Result<()> {
        self.sealer.chunk(self.frame_bytes.len() as u32, plain, &mut self.frame)?;
        self.append(plain);
        Ok(())
    }

    /// Seals the next chunk, which is `payload` when compressed.
    ///
    /// # Errors
    /// Those of the pipeline.
    pub(super) fn compressed_chunk(&mut self, payload: &[u8], plain: &[u8]) -> Result<()> {
        self.sealer.compressed_chunk(self.frame_bytes.len() as u32, payload, plain.len(), &mut self.frame)?;
        self.append(plain);
        Ok(())
    }

    fn append(&mut self, plain: &[u8]) {
        self.sha256.update(plain);
        self.bytes.extend_from_slice(&self.frame);
        self.frame_bytes.push(self.frame.len() as u32);
        self.chunk_plain_bytes.push(plain.len() as u32);
    }

    /// Adds footer and trailer, and puts the SHA-256 of the chunks into `facts`; the bytes that have not been taken before.
    ///
    /// # Errors
    /// `Internal` for a footer that would be too large.
    pub(super) fn finish(mut self, name: &BackupName, facts: &mut FooterFacts) -> Result<Bytes> {
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
        Ok(self.bytes.into())
    }
}
