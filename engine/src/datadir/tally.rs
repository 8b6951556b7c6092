//! What etcd's own `snapshot status` says of a database: a hash over all of it, and counts.

use crc_fast::{CrcAlgorithm, Digest};

use super::image::{Attention, Image};
use super::mvcc::record_key_parts;
use crate::error::{Error, ErrorKind, Result};
use crate::revision::Revision;

/// Bytes between two calls of an [`Attention`].
const ATTENTION_BYTES: u64 = 4 << 20;

/// Sums over a whole database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// CRC-32C over every bucket, in the order of their names: the name, then each key and value.
    pub hash: u32,
    /// Entries of all buckets.
    pub entries: u64,
    /// The main revision of the last record; 0 without records.
    pub last_record: Revision,
    /// What etcd 3.6 and later say of the file's version, such as `3.6.0`.
    pub storage_version: Option<String>,
}

impl Image {
    /// Reads every entry of every bucket.
    ///
    /// # Errors
    /// `Damaged` where it does not parse; those of `attention`.
    pub fn tally(&self, attention: &mut Attention<'_>) -> Result<Tally> {
        let file = self.tree()?;
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let mut tally = Tally { hash: 0, entries: 0, last_record: Revision(0), storage_version: None };
        let (mut read, mut told) = (0, 0);
        for (name, bucket) in file.buckets()? {
            digest.update(name);
            let mut cursor = file.cursor(&bucket);
            let mut entry = cursor.first()?;
            while let Some(found) = entry {
                digest.update(found.key);
                digest.update(found.value);
                tally.entries += 1;
                match name {
                    b"key" => tally.last_record = record_key_parts(found.key)?.0,
                    b"meta" if found.key == b"storageVersion" => tally.storage_version = Some(version(found.value)?),
                    _ => {}
                }
                read += (found.key.len() + found.value.len()) as u64;
                if read - told >= ATTENTION_BYTES {
                    told = read;
                    attention(read)?;
                }
                entry = cursor.next()?;
            }
        }
        tally.hash = digest.finalize() as u32;
        Ok(tally)
    }
}

fn version(value: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    text.map(str::to_owned).ok_or_else(|| Error::new(ErrorKind::Damaged, "the storage version is no text"))
}
