//! Records from elsewhere that an image has as well: they must be the same, byte for byte.

use super::image::Image;
use super::mvcc::{record_key_parts, revision_key};
use crate::bbolt::{Cursor, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::record::RecordRef;
use crate::revision::Revision;

/// Holds records, in order, against those of an image.
///
/// Above the image's compact floor each has exactly the records that the other has. At or below it compaction may have
/// dropped any of the image's.
#[derive(Debug)]
pub struct Overlap<'a> {
    floor: Revision,
    revision: Revision,
    cursor: Option<Cursor<'a>>,
    /// The image's next record; `None` before the first comparison.
    next: Option<Option<Entry<'a>>>,
    last: Revision,
}

impl<'a> Overlap<'a> {
    /// Nothing was compared with `image` yet.
    ///
    /// # Errors
    /// `Damaged` where the image does not parse.
    pub fn with(image: &'a Image) -> Result<Self> {
        let (file, extent) = (image.tree()?, image.extent()?);
        Ok(Self {
            floor: extent.compact_floor.unwrap_or_default(),
            revision: extent.revision,
            cursor: file.bucket(b"key")?.map(|bucket| file.cursor(&bucket)),
            next: None,
            last: Revision(0),
        })
    }

    /// Whether the image reaches as far as `revision`.
    pub fn covers(&self, revision: Revision) -> bool {
        revision <= self.revision
    }

    /// Takes the next record, of a revision that the image covers. The first one must be the first of its revision.
    ///
    /// # Errors
    /// `Refused` where the image holds something else: it is of another history.
    pub fn compare(&mut self, record: &RecordRef<'_>) -> Result<()> {
        let key = record.bucket_key();
        let Some(cursor) = &mut self.cursor else { return self.absent(record.main) };
        let next = match self.next {
            Some(next) => next,
            None => cursor.seek(&revision_key(record.main))?,
        };
        self.last = record.main;
        match next {
            Some(entry) if entry.key == &*key => {
                self.next = Some(cursor.next()?);
                if entry.value == record.value { Ok(()) } else { Err(other_history(record.main)) }
            }
            Some(entry) if entry.key < &*key => Err(other_history(record_key_parts(entry.key)?.0)),
            _ => {
                self.next = Some(next);
                self.absent(record.main)
            }
        }
    }

    /// No record follows that the image covers.
    ///
    /// # Errors
    /// As [`Overlap::compare`].
    pub fn finish(&self) -> Result<()> {
        match self.next.flatten() {
            Some(entry) if record_key_parts(entry.key)?.0 <= self.last => Err(other_history(self.last)),
            _ => Ok(()),
        }
    }

    fn absent(&self, revision: Revision) -> Result<()> {
        if revision <= self.floor { Ok(()) } else { Err(other_history(revision)) }
    }
}

fn other_history(revision: Revision) -> Error {
    let what = format!("its records of revision {revision} are not those that the image of the full has");
    Error::new(ErrorKind::Refused, what)
        .hint("two histories were written under one lineage; --backup restores a full alone")
}
