//! Flags that several commands share, and what they mean to the engine. Every flag has an `ETCDBR_` variable.

mod backup;
mod etcd;
mod keys;
mod output;
mod plain;
mod point;
mod retention;
mod rollup;
mod store;
mod units;
mod upkeep;

pub(crate) use backup::{BackupArgs, ScratchArgs};
pub(crate) use etcd::EtcdArgs;
pub(crate) use keys::KeyArgs;
pub(crate) use output::{OutputArgs, OutputFormat};
pub(crate) use plain::PlainArgs;
pub(crate) use point::PointArgs;
pub(crate) use retention::RetentionArgs;
pub(crate) use rollup::RollupArgs;
pub(crate) use store::StoreArgs;
pub(crate) use units::{parse_bytes, parse_duration, parse_interval, parse_label, parse_level, parse_ttl_s};
pub(crate) use upkeep::UpkeepArgs;
