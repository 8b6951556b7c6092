//! Buffers that are used again instead of being allocated: fresh pages cost more than what is done with them.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// A supply of buffers of one size.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Supply>);

#[derive(Debug)]
struct Supply {
    idle: Mutex<Vec<Vec<u8>>>,
    buffer_bytes: usize,
    most_idle: usize,
}

impl Pool {
    /// Buffers with room for `buffer_bytes`; at most `most_idle` are kept while nobody uses them.
    pub fn new(buffer_bytes: usize, most_idle: usize) -> Self {
        Self(Arc::new(Supply { idle: Mutex::default(), buffer_bytes, most_idle }))
    }

    /// An empty buffer.
    pub fn take(&self) -> Buffer {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { bytes: idle.unwrap_or_else(|| Vec::with_capacity(self.0.buffer_bytes)), home: self.0.clone() }
    }
}

/// A byte vector that returns to its pool when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Supply>,
}

impl Buffer {
    /// The same bytes, shared and immutable; the last holder returns the buffer.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut idle = self.home.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.home.most_idle {
            idle.push(bytes);
        }
    }
}
