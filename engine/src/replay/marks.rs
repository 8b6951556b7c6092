//! Objects without records: what they tell of leases and compactions, read newest first until no older one can add to it.

use futures::{StreamExt, TryStreamExt, stream};

use super::facts::Learned;
use crate::archive::{Archive, BackupEntry};
use crate::error::Result;

/// Objects that are fetched at once.
const MARKS_AHEAD: usize = 8;

/// Tells `learned` of `marks`, which are in order of time, as far as they matter for a full that was begun before them.
///
/// Older ones than the last whole list of leases add nothing: leases are as they say, and a compact revision never falls.
///
/// # Errors
/// As [`Archive::open_listed`].
pub async fn learn_marks(
    archive: &Archive,
    full: &BackupEntry,
    marks: &[BackupEntry],
    mut learned: Learned,
) -> Result<Learned> {
    let later = marks.iter().rev().take_while(|mark| mark.name.created > full.name.created);
    let mut opened = stream::iter(later).map(|mark| archive.open_listed(mark)).buffered(MARKS_AHEAD);
    while let Some(mark) = opened.try_next().await? {
        learned.note(mark.name(), &mark.footer().facts);
        if learned.knows_all_leases() {
            break;
        }
    }
    Ok(learned)
}
