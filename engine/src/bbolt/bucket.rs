//! A file's buckets by name, and the way to their entries.

use super::cursor::Cursor;
use super::file::{BoltFile, Root};
use super::layout::{BUCKET_HEADER_BYTES, PageId, u64_at};
use super::page::Holds;
use crate::error::{Error, ErrorKind, Result};

/// One bucket of a file.
#[derive(Debug, Clone, Copy)]
pub struct Bucket<'a> {
    root: Root<'a>,
    sequence: u64,
}

impl<'a> BoltFile<'a> {
    /// The bucket of that name, if there is one.
    ///
    /// # Errors
    /// `Damaged` where the root's tree does not parse.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'a>>> {
        let mut cursor = Cursor::new(*self, Root::Page(self.meta().root), Holds::Buckets);
        match cursor.seek(name)? {
            Some(entry) if entry.key == name => Bucket::parse(name, entry.value).map(Some),
            _ => Ok(None),
        }
    }

    /// All buckets, by name ascending.
    ///
    /// # Errors
    /// `Damaged` where the root's tree does not parse.
    pub fn buckets(&self) -> Result<Vec<(&'a [u8], Bucket<'a>)>> {
        self.raw_buckets()?.into_iter().map(|(name, value)| Ok((name, Bucket::parse(name, value)?))).collect()
    }

    /// All buckets as the root holds them: name and value (bucket header, inline page).
    pub(super) fn raw_buckets(&self) -> Result<Vec<(&'a [u8], &'a [u8])>> {
        let mut cursor = Cursor::new(*self, Root::Page(self.meta().root), Holds::Buckets);
        let mut buckets = Vec::new();
        let mut entry = cursor.first()?;
        while let Some(bucket) = entry {
            buckets.push((bucket.key, bucket.value));
            entry = cursor.next()?;
        }
        Ok(buckets)
    }

    /// A cursor over the entries of `bucket`.
    pub fn cursor(&self, bucket: &Bucket<'a>) -> Cursor<'a> {
        Cursor::new(*self, bucket.root, Holds::Values)
    }
}

impl<'a> Bucket<'a> {
    /// Reads what the root holds of bucket `name`.
    pub(super) fn parse(name: &[u8], value: &'a [u8]) -> Result<Self> {
        let parsed = || {
            let root = PageId(u64_at(value, 0)?);
            let sequence = u64_at(value, 8)?;
            let inline = value.get(BUCKET_HEADER_BYTES..)?;
            Some(Self { root: if root.0 == 0 { Root::Inline(inline) } else { Root::Page(root) }, sequence })
        };
        parsed().ok_or_else(|| {
            let name = String::from_utf8_lossy(name).into_owned();
            Error::new(ErrorKind::Damaged, format!("bucket {name} of the database has no header"))
        })
    }

    /// Where its tree starts.
    pub(super) fn root(&self) -> Root<'a> {
        self.root
    }

    /// Its sequence number.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }
}
