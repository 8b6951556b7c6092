//! Chunk to frame: compress, protect.

use std::fmt;
use std::io::Cursor;
use std::sync::{Mutex, PoisonError};

use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::protect::Protector;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Codec, FRAME_HEADER_BYTES, FrameHeader, FrameRole, TAG_BYTES};

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionLevel {
    /// Not at all.
    None,
    /// A level of zstd, 1 to 19.
    Zstd(i32),
}

impl CompressionLevel {
    /// The codec that the header names for it.
    pub fn codec(self) -> Codec {
        match self {
            Self::None => Codec::Stored,
            Self::Zstd(_) => Codec::Zstd,
        }
    }
}

impl CompressionLevel {
    /// A level with this codec.
    pub fn of(codec: Codec) -> Self {
        match codec {
            Codec::Stored => Self::None,
            Codec::Zstd => Self::default(),
        }
    }
}

impl Default for CompressionLevel {
    /// zstd level 1: beside an etcd, CPU is dearer than bytes.
    fn default() -> Self {
        Self::Zstd(1)
    }
}

/// Makes the frames of one object; many threads may use it at once.
pub struct Sealer {
    protector: Protector,
    level: CompressionLevel,
    idle: Mutex<Vec<Compressor<'static>>>,
}

impl Sealer {
    /// A sealer for the object that `protector` belongs to.
    pub fn new(protector: Protector, level: CompressionLevel) -> Self {
        Self { protector, level, idle: Mutex::default() }
    }

    /// Writes chunk `number` as a frame into `frame`, replacing what is there.
    ///
    /// # Errors
    /// `Internal` where zstd refuses.
    pub fn chunk(&self, number: u32, plain: &[u8], frame: &mut Vec<u8>) -> Result<()> {
        self.frame(number, FrameRole::Chunk, None, plain, frame)
    }

    /// Writes chunk `number`, which is compressed by the codec of this level already and has `plain_bytes` of plaintext.
    ///
    /// # Errors
    /// `Internal` for a frame over 4 GiB.
    pub fn compressed_chunk(&self, number: u32, payload: &[u8], plain_bytes: usize, frame: &mut Vec<u8>) -> Result<()> {
        frame.clear();
        frame.resize(FRAME_HEADER_BYTES, 0);
        frame.extend_from_slice(payload);
        self.protect(number, FrameRole::Chunk, None, plain_bytes, frame)
    }

    /// Writes the footer, bound to the object's `name`, as frame `number`.
    ///
    /// # Errors
    /// `Internal` where zstd refuses.
    pub fn footer(&self, number: u32, name: &str, plain: &[u8], frame: &mut Vec<u8>) -> Result<()> {
        self.frame(number, FrameRole::Footer, Some(name), plain, frame)
    }

    fn frame(&self, number: u32, role: FrameRole, name: Option<&str>, plain: &[u8], frame: &mut Vec<u8>) -> Result<()> {
        // The header's place is kept; what it says is known when the payload is there.
        frame.clear();
        frame.resize(FRAME_HEADER_BYTES, 0);
        match self.level {
            CompressionLevel::None => frame.extend_from_slice(plain),
            CompressionLevel::Zstd(level) => self.compress(level, plain, frame)?,
        }
        self.protect(number, role, name, plain.len(), frame)
    }

    /// Fills in the header of `frame`, which has its payload, and puts the tag behind it.
    fn protect(
        &self,
        number: u32,
        role: FrameRole,
        name: Option<&str>,
        plain_bytes: usize,
        frame: &mut Vec<u8>,
    ) -> Result<()> {
        let payload_bytes = frame.len() - FRAME_HEADER_BYTES;
        let length = |bytes| u32::try_from(bytes).map_err(|_| Error::new(ErrorKind::Internal, "a frame is over 4 GiB"));
        let header =
            FrameHeader { number, payload_bytes: length(payload_bytes)?, plain_bytes: length(plain_bytes)?, role };
        frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
        let tag: [u8; TAG_BYTES] = self.protector.protect(&header, name, &mut frame[FRAME_HEADER_BYTES..])?;
        frame.extend_from_slice(&tag);
        Ok(())
    }

    /// Appends `plain`, compressed, to `frame`.
    fn compress(&self, level: i32, plain: &[u8], frame: &mut Vec<u8>) -> Result<()> {
        let refused = |error| Error::new(ErrorKind::Internal, "zstd cannot compress").caused_by(error);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut compressor = idle.map_or_else(|| Compressor::new(level), Ok).map_err(refused)?;
        // Room is made, but not filled: to clear megabytes that are overwritten at once is a pass over memory.
        frame.reserve(compress_bound(plain.len()) + TAG_BYTES);
        let mut behind = Cursor::new(&mut *frame);
        behind.set_position(behind.get_ref().len() as u64);
        compressor.compress_to_buffer(plain, &mut behind).map_err(refused)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
        Ok(())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?}, {:?})", self.protector, self.level)
    }
}
