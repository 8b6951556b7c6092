//! Cuts a stream of bytes into pieces of one size: plaintext into chunks, frames into parts.

use super::pool::{Buffer, Pool};

/// Collects bytes until a piece is full.
#[derive(Debug)]
pub struct Cutter {
    pool: Pool,
    piece_bytes: usize,
    piece: Buffer,
}

impl Cutter {
    /// Pieces of `piece_bytes` (at least 1) each, but for the last one.
    pub fn new(piece_bytes: usize, most_idle: usize) -> Self {
        let pool = Pool::new(piece_bytes, most_idle);
        let piece = pool.take();
        Self { pool, piece_bytes: piece_bytes.max(1), piece }
    }

    /// Takes bytes from the front of `input`, and gives a piece when one is full. Call again while `input` has more.
    pub fn push(&mut self, input: &mut &[u8]) -> Option<Buffer> {
        let taken = input.len().min(self.piece_bytes - self.piece.len());
        let (now, later) = input.split_at(taken);
        self.piece.extend_from_slice(now);
        *input = later;
        (self.piece.len() == self.piece_bytes).then(|| std::mem::replace(&mut self.piece, self.pool.take()))
    }

    /// What is left: shorter than a piece, `None` where it is nothing.
    pub fn finish(self) -> Option<Buffer> {
        (!self.piece.is_empty()).then_some(self.piece)
    }
}
