//! A full inside a lineage that is being captured: what it must hear from whoever captures.

use async_trait::async_trait;

use crate::error::Result;
use crate::format::{HistoryDigest, Seam, TimeMark};
use crate::revision::Revision;

/// Whoever captures the lineage that a full is taken into, through the same member, without a pause since it was asked
/// for the first time.
#[async_trait]
pub trait SeamWitness: Send + Sync + std::fmt::Debug {
    /// D of `seam`, which the source reached at `mark`.
    ///
    /// # Errors
    /// `Refused` where the two have not seen the same records, or nothing shows that they have; `Unavailable` where
    /// capture has paused.
    async fn meet(&self, seam: &Seam, mark: TimeMark) -> Result<HistoryDigest>;

    /// Waits until all deltas up to `seam` are durable.
    ///
    /// # Errors
    /// `Unavailable` where capture has paused.
    async fn settled(&self, seam: Revision) -> Result<()>;
}
