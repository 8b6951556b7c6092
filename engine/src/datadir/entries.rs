//! All entries of one bucket.

use crate::bbolt::{BoltFile, Bucket, Entry};
use crate::error::Result;

/// Shows every entry of `bucket`, if it exists, to `f`.
pub(super) fn each_entry<'a>(
    file: &BoltFile<'a>,
    bucket: &[u8],
    mut f: impl FnMut(Entry<'a>) -> Result<()>,
) -> Result<()> {
    let bucket: Option<Bucket<'a>> = file.bucket(bucket)?;
    let Some(mut cursor) = bucket.map(|bucket| file.cursor(&bucket)) else { return Ok(()) };
    let mut entry = cursor.first()?;
    while let Some(found) = entry {
        f(found)?;
        entry = cursor.next()?;
    }
    Ok(())
}
