//! Where the fields of a bbolt file are: page header, meta, elements, bucket header.
//!
//! All integers are little-endian. The layout is that of bbolt 1.3 to 1.5, which share it to the byte.

use std::fmt;

/// Bytes of a page header: id u64, flags u16, count u16, overflow u32.
pub(super) const PAGE_HEADER_BYTES: usize = 16;
/// Bytes of one leaf or branch element.
pub(super) const ELEMENT_BYTES: usize = 16;
/// Bytes of a bucket header: root page id u64, sequence u64; an inline page may follow.
pub(super) const BUCKET_HEADER_BYTES: usize = 16;
/// Bytes of a meta's body, checksum included.
const META_BYTES: usize = 64;
/// Bytes of a meta page that mean something.
const META_PAGE_BYTES: usize = PAGE_HEADER_BYTES + META_BYTES;

/// Page flag: a branch.
pub(super) const FLAG_BRANCH: u16 = 0x01;
/// Page flag: a leaf.
pub(super) const FLAG_LEAF: u16 = 0x02;
/// Page flag: a meta page.
const FLAG_META: u16 = 0x04;
/// Leaf element flag: the value is a bucket.
pub(super) const ELEMENT_BUCKET: u32 = 0x01;

/// A page's count must stay below this: bbolt gives 0xFFFF a meaning of its own.
pub(super) const MAX_ELEMENTS: usize = 0xFFFE;
/// Longest key that bbolt accepts.
pub(super) const MAX_KEY_BYTES: usize = 32_768;
/// Longest value that bbolt accepts.
pub(super) const MAX_VALUE_BYTES: usize = (1 << 31) - 2;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// The freelist's page id of a file that keeps none; its readers find free pages by walking the tree.
const NO_FREELIST: u64 = u64::MAX;
/// The page sizes that a reader looks for: `1024 << 0..=14`.
const SMALLEST_PAGE_BYTES: usize = 1024;
const PAGE_SIZES: u32 = 15;

/// The number of a page; its offset in the file is this times the page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(pub u64);

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one of the two meta pages says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Bytes of a page: a power of two from 1 KiB to 16 MiB.
    pub page_size: u32,
    /// Root page of the bucket of buckets.
    pub root: PageId,
    /// Its sequence number, which etcd leaves at 0.
    pub sequence: u64,
    /// The first page id that was never allocated; the file is at least so many pages long.
    pub high_water: PageId,
    /// The transaction that wrote it; the valid meta with the higher one counts.
    pub txid: u64,
}

impl Meta {
    /// Reads the meta of the page that starts at `offset`; `None` where none that is whole and sane is there.
    pub(super) fn read(bytes: &[u8], offset: usize) -> Option<Self> {
        let body = bytes.get(offset.checked_add(PAGE_HEADER_BYTES)?..)?.get(..META_BYTES)?;
        let (checked, sum) = body.split_at_checked(META_BYTES - 8)?;
        let meta = Self {
            page_size: u32_at(body, 8)?,
            root: PageId(u64_at(body, 16)?),
            sequence: u64_at(body, 24)?,
            high_water: PageId(u64_at(body, 40)?),
            txid: u64_at(body, 48)?,
        };
        let sane = u32_at(body, 0)? == MAGIC
            && u32_at(body, 4)? == VERSION
            && u64_at(sum, 0)? == fnv1a64(checked)
            && page_sizes().any(|size| size == meta.page_size as usize)
            && meta.root.0 >= 2
            && meta.root < meta.high_water;
        sane.then_some(meta)
    }

    /// The first [`META_PAGE_BYTES`] bytes of meta page `page`, without a freelist: bbolt then counts every page that
    /// no tree refers to as free, so that nobody has to keep books of them.
    pub(super) fn encode(&self, page: PageId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(META_PAGE_BYTES);
        bytes.extend_from_slice(&page_header(page, FLAG_META, 0, 0));
        for word in [MAGIC, VERSION, self.page_size, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.root.0, self.sequence, NO_FREELIST, self.high_water.0, self.txid] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let sum = fnv1a64(&bytes[PAGE_HEADER_BYTES..]);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// Whether a bbolt file begins with `bytes`: one of its two metas is whole. A small beginning suffices where meta 0 is.
pub fn begins_a_file(bytes: &[u8]) -> bool {
    let second = |size: usize| Meta::read(bytes, size).is_some_and(|meta| meta.page_size as usize == size);
    Meta::read(bytes, 0).is_some() || page_sizes().any(second)
}

/// The page sizes that a bbolt file may have, in bytes, ascending.
pub(super) fn page_sizes() -> impl Iterator<Item = usize> {
    (0..PAGE_SIZES).map(|shift| SMALLEST_PAGE_BYTES << shift)
}

/// A page header.
pub(super) fn page_header(id: PageId, flags: u16, count: u16, overflow: u32) -> [u8; PAGE_HEADER_BYTES] {
    let mut header = [0; PAGE_HEADER_BYTES];
    header[..8].copy_from_slice(&id.0.to_le_bytes());
    header[8..10].copy_from_slice(&flags.to_le_bytes());
    header[10..12].copy_from_slice(&count.to_le_bytes());
    header[12..].copy_from_slice(&overflow.to_le_bytes());
    header
}

/// A bucket header; root page 0 means that an inline page follows it.
pub(super) fn bucket_header(root: PageId, sequence: u64) -> [u8; BUCKET_HEADER_BYTES] {
    let mut header = [0; BUCKET_HEADER_BYTES];
    header[..8].copy_from_slice(&root.0.to_le_bytes());
    header[8..].copy_from_slice(&sequence.to_le_bytes());
    header
}

/// FNV-1a, 64 bits: the checksum of a meta.
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The u16 at `offset`, if it is there.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_le_bytes)
}

/// The u32 at `offset`, if it is there.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes)
}

/// The u64 at `offset`, if it is there.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().copied().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first 80 bytes of a snapshot that etcd streamed.
    const META_PAGE: [u8; META_PAGE_BYTES] = [
        0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, // page header
        0xed, 0xda, 0x0c, 0xed, 2, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, // magic, version, page size, flags
        3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // root
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0, 0, 0, 0, 0, // freelist, high water
        9, 0, 0, 0, 0, 0, 0, 0, 0xcc, 0x08, 0x49, 0x69, 0x12, 0x79, 0x3d, 0xb1, // txid, checksum
    ];

    #[test]
    fn etcds_own_meta_is_read_and_written_back() {
        let meta = Meta::read(&META_PAGE, 0).unwrap();
        let expected = Meta { page_size: 4096, root: PageId(3), sequence: 0, high_water: PageId(5), txid: 9 };
        assert_eq!(meta, expected);
        assert_eq!(meta.encode(PageId(0)), META_PAGE);
    }

    #[test]
    fn fnv_of_nothing_and_of_a_letter() {
        assert_eq!(fnv1a64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn any_flipped_bit_makes_a_meta_invalid() {
        for bit in PAGE_HEADER_BYTES * 8..META_PAGE_BYTES * 8 {
            let mut bytes = META_PAGE;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Meta::read(&bytes, 0), None, "bit {bit}");
        }
    }

    #[test]
    fn a_file_begins_with_a_whole_meta() {
        assert!(begins_a_file(&META_PAGE) && !begins_a_file(&META_PAGE[..40]) && !begins_a_file(&[0; 8192]));
        let mut second = vec![0; 4096];
        second.extend_from_slice(&META_PAGE);
        assert!(begins_a_file(&second));
        assert!(!begins_a_file(&second[1024..]), "at another place than its page size says");
    }

    #[test]
    fn a_meta_cut_short_is_none() {
        for len in 0..META_PAGE_BYTES {
            assert_eq!(Meta::read(&META_PAGE[..len], 0), None);
        }
    }
}
