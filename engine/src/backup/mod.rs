//! Taking backups of a live etcd.

mod full;

pub use full::{FullRequest, FullSummary, take_full};
