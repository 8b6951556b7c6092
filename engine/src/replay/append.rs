//! A staged image becomes the database of another revision: the records of its chain are added, or its own last ones cut
//! off.

use super::facts::Learned;
use super::records::{Batch, Replayed, Stretch, replay};
use crate::datadir::{Growth, LeaseChanges, Overlap, StagedDataDir, TakesImage};
use crate::error::Result;
use crate::revision::Revision;
use crate::run::RunContext;

/// Where a chain leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// To this revision, and no farther.
    Exactly(Revision),
    /// To this one, or as far as the image of its full reaches.
    AtLeast(Revision),
}

impl Goal {
    /// The last revision whose records are wanted.
    pub fn upto(self) -> Revision {
        match self {
            Self::Exactly(revision) | Self::AtLeast(revision) => revision,
        }
    }

    /// The revision of a database that it leads to, where the image reaches `image`.
    pub fn reached(self, image: Revision) -> Revision {
        match self {
            Self::Exactly(revision) => revision,
            Self::AtLeast(revision) => revision.max(image),
        }
    }
}

/// Adds to the image in `stage`, which is that of the full of `stretch`, the records up to `goal`, or cuts off those
/// behind it; gives it the leases of then.
///
/// Records that the image has as well must be the same.
///
/// # Errors
/// `Refused` where image and deltas are of different histories, or the image is compacted behind the goal; those of
/// [`replay`]. The stage is gone then.
pub async fn append(
    mut stage: StagedDataDir,
    stretch: Stretch<'_>,
    goal: Goal,
    learned: Learned,
    missing_ttl_s: i64,
    context: &RunContext,
) -> Result<(StagedDataDir, Replayed, LeaseChanges)> {
    let take = move |records: &mut super::records::ChainRecords| {
        let image = stage.image()?;
        let revision = image.extent()?.revision;
        let mut overlap = Overlap::with(&image)?;
        let leases = stage.grow(&image, |growth| {
            records.each_batch(|batch| take_batch(batch, &mut overlap, growth))?;
            overlap.finish()?;
            if goal.reached(revision) < revision {
                growth.cut_behind(goal.upto())?;
            }
            let leases = records.learned().leases(missing_ttl_s);
            growth.change_leases(&leases)?;
            Ok(leases)
        })?;
        Ok((stage, leases))
    };
    let ((stage, leases), replayed) = replay(stretch, learned, take, context).await?;
    Ok((stage, replayed, leases))
}

fn take_batch(batch: &mut Batch<'_>, overlap: &mut Overlap<'_>, growth: &mut Growth<'_>) -> Result<()> {
    let object = batch.object();
    let mut records = batch.peekable();
    while let Some(record) = records.next_if(|record| record.as_ref().is_ok_and(|record| overlap.covers(record.main))) {
        overlap.compare(&record?).map_err(|error| object.blame(error))?;
    }
    growth.append(records)
}
