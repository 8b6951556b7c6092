//! Why fulls are begun, each reason a word for counters.

use super::fulls::FullReason;
use crate::capture::Unproven;

/// The cluster has no lineage in the archive.
pub(super) const FIRST: &str = "first";
/// The full that was to open a lineage failed.
pub(super) const FULL_FAILED: &str = "full-failed";
/// Users, roles or permissions have changed, and no full could be proven to be of the lineage.
pub(super) const AUTH_UNPROVEN: &str = "auth-unproven";
/// etcd has compacted what was not captured.
pub(super) const COMPACTED: &str = Unproven::COMPACTED;
/// The watch passed revisions by, or gave more than can be held.
pub(super) const BROKEN_WATCH: &str = Unproven::BROKEN_WATCH;

/// Every reason that there is.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    let opening = [FIRST, FULL_FAILED, AUTH_UNPROVEN].into_iter().chain(Unproven::REASONS);
    opening.chain(FullReason::ALL.map(FullReason::word))
}
