//! Taking backups of a live etcd.

mod full;
mod hash_kv;

pub(crate) use full::source;
pub use full::{BegunFull, FullRequest, FullSummary, begin_full, check_policy, run_full, take_full};
pub use hash_kv::{HashKvOutcome, HashKvPolicy};
