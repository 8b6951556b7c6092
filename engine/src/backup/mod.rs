//! Taking backups of a live etcd.

mod full;
mod hash_kv;
mod place;

pub(crate) use full::source;
pub use full::{
    Beginning, BegunFull, FullRequest, FullSummary, begin_full, begin_full_within, check_policy, run_full, take_full,
};
pub use hash_kv::{HashKvOutcome, HashKvPolicy};
pub use place::SeamWitness;
