//! What is remembered of many keys and records, in as few bytes as that takes.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// Something for each of many user keys, which are told apart by 96 bits of their hashes.
#[derive(Debug)]
pub(super) struct KeyMap<V> {
    /// Random per run: users choose key names, and two of them must not meet here.
    hashers: [RandomState; 2],
    map: HashMap<[u32; 3], V, BuildHasherDefault<HashedAlready>>,
}

impl<V> Default for KeyMap<V> {
    fn default() -> Self {
        Self { hashers: [RandomState::new(), RandomState::new()], map: HashMap::default() }
    }
}

impl<V> KeyMap<V> {
    /// Remembers `value` for `key`; what was remembered before.
    pub(super) fn insert(&mut self, key: &[u8], value: V) -> Option<V> {
        let hash = self.hash(key);
        self.map.insert(hash, value)
    }

    /// What is remembered for `key`.
    pub(super) fn find(&mut self, key: &[u8]) -> Option<&mut V> {
        let hash = self.hash(key);
        self.map.get_mut(&hash)
    }

    /// Whether anything is.
    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.map.contains_key(&self.hash(key))
    }

    /// Keys that there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.map.capacity()
    }

    fn hash(&self, key: &[u8]) -> [u32; 3] {
        let [first, second] = self.hashers.each_ref().map(|hasher| hasher.hash_one(key));
        [first as u32, (first >> 32) as u32, second as u32]
    }
}

/// A bit for each of many things, by ordinal.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    /// Adds one; its ordinal.
    pub(super) fn push(&mut self, bit: bool) -> usize {
        let ordinal = self.len;
        if ordinal.is_multiple_of(64) {
            self.words.push(0);
        }
        self.words[ordinal / 64] |= u64::from(bit) << (ordinal % 64);
        self.len += 1;
        ordinal
    }

    /// Clears that of `ordinal`.
    pub(super) fn clear(&mut self, ordinal: usize) {
        self.words[ordinal / 64] &= !(1 << (ordinal % 64));
    }

    /// Whether that of `ordinal` is set.
    pub(super) fn has(&self, ordinal: usize) -> bool {
        self.words.get(ordinal / 64).is_some_and(|word| word & (1 << (ordinal % 64)) != 0)
    }
}

/// Hashes what is a hash already.
#[derive(Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.0 = self.0.rotate_left(32) ^ u64::from_ne_bytes(padded);
        }
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
