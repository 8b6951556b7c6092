//! Frame to chunk: prove, decompress.

use std::fmt;

use zstd::bulk::Decompressor;

use super::protect::Protector;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Codec, FrameHeader, FrameRole};

/// Opens the frames of one object; many threads may use it at once.
pub struct Opener {
    protector: Protector,
    codec: Codec,
}

impl Opener {
    /// An opener for the object that `protector` belongs to.
    pub fn new(protector: Protector, codec: Codec) -> Self {
        Self { protector, codec }
    }

    /// Puts the plaintext of chunk `number` into `plain`, replacing what is there; at most `max_plain_bytes`.
    ///
    /// # Errors
    /// `Damaged` where `frame` is not that frame of that object.
    pub fn chunk(&self, number: u32, frame: &[u8], max_plain_bytes: usize, plain: &mut Vec<u8>) -> Result<()> {
        self.frame((number, FrameRole::Chunk), None, frame, max_plain_bytes, plain)
    }

    /// The payload of chunk `number`, compressed as it was, and in `plain` what it holds.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub fn payload(&self, number: u32, frame: &[u8], max_plain_bytes: usize, plain: &mut Vec<u8>) -> Result<Vec<u8>> {
        self.chunk(number, frame, max_plain_bytes, plain)?;
        let (header, payload, tag) = FrameHeader::split(frame, number, FrameRole::Chunk)?;
        let mut opened = payload.to_vec();
        self.protector.open(&header, None, &mut opened, tag)?;
        Ok(opened)
    }

    /// The same for the footer of the object called `name`.
    ///
    /// # Errors
    /// `Damaged`, also where the object has another name.
    pub fn footer(
        &self,
        number: u32,
        name: &str,
        frame: &[u8],
        max_plain_bytes: usize,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        self.frame((number, FrameRole::Footer), Some(name), frame, max_plain_bytes, plain)
    }

    fn frame(
        &self,
        (number, role): (u32, FrameRole),
        name: Option<&str>,
        frame: &[u8],
        max_plain_bytes: usize,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let (header, payload, tag) = FrameHeader::split(frame, number, role)?;
        let damaged = |what: &str| Error::new(ErrorKind::Damaged, format!("frame {number} {what}"));
        let plain_bytes = header.plain_bytes as usize;
        if plain_bytes > max_plain_bytes {
            return Err(damaged("claims to be longer than any chunk of its object"));
        }
        plain.clear();
        match self.codec {
            Codec::Stored => {
                plain.extend_from_slice(payload);
                self.protector.open(&header, name, plain, tag)?;
            }
            Codec::Zstd => {
                let mut opened = payload.to_vec();
                self.protector.open(&header, name, &mut opened, tag)?;
                plain.reserve(plain_bytes);
                Decompressor::new()
                    .and_then(|mut decompressor| decompressor.decompress_to_buffer(&opened, plain))
                    .map_err(|error| damaged("does not decompress").caused_by(error))?;
            }
        }
        if plain.len() == plain_bytes { Ok(()) } else { Err(damaged("has another length than its header says")) }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({:?}, {:?})", self.protector, self.codec)
    }
}
