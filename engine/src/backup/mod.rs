//! Taking backups of a live etcd.

mod full;

pub(crate) use full::source;
pub use full::{BegunFull, FullRequest, FullSummary, begin_full, check_policy, run_full, take_full};
