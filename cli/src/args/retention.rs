//! What to keep; names as `etcdbrctl` has them where the meaning is the same.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use etcdbr_engine::retention::{FullsPolicy, RetentionPolicy};
use etcdbr_engine::{Error, ErrorKind, Result};

use super::units::parse_long_interval;

/// What to keep.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Retention")]
pub(crate) struct RetentionArgs {
    /// Keep every revision of this time restorable [default: 7d, where no policy is given]
    #[arg(long, env = "ETCDBR_KEEP_WITHIN", value_name = "TIME", value_parser = parse_long_interval)]
    keep_within: Option<Duration>,
    /// Keep fulls: Exponential (hourly for today, daily for a week, weekly for four) or LimitBased (--max-backups)
    #[arg(long, env = "ETCDBR_GARBAGE_COLLECTION_POLICY", value_name = "POLICY", value_parser = FullsPolicy::from_str)]
    garbage_collection_policy: Option<FullsPolicy>,
    /// With LimitBased: how many fulls
    #[arg(short, long, env = "ETCDBR_MAX_BACKUPS", value_name = "N", default_value_t = 7)]
    max_backups: usize,
    /// With --garbage-collection-policy: keep every revision of this time restorable too
    #[arg(long, env = "ETCDBR_DELTA_SNAPSHOT_RETENTION_PERIOD", value_name = "TIME", default_value = "0", value_parser = parse_long_interval)]
    delta_snapshot_retention_period: Duration,
    /// Keep deltas for so long after one object holds all that they do
    #[arg(long, env = "ETCDBR_COVERED_DELTA_GRACE", value_name = "TIME", default_value = "15m", value_parser = parse_long_interval)]
    covered_delta_grace: Duration,
}

impl RetentionArgs {
    /// The policy.
    ///
    /// # Errors
    /// `Invalid` where nothing but the newest chain would be kept.
    pub(crate) fn policy(&self) -> Result<RetentionPolicy> {
        let default = RetentionPolicy::default();
        let keep_within = match (self.keep_within, self.garbage_collection_policy) {
            (None, None) => default.keep_within,
            (Some(Duration::ZERO), None) => {
                return Err(Error::new(ErrorKind::Invalid, "--keep-within 0 alone would keep the newest chain only")
                    .hint("give a time, or --garbage-collection-policy LimitBased --max-backups 1"));
            }
            (given, _) => given.filter(|within| !within.is_zero()),
        };
        Ok(RetentionPolicy {
            keep_within,
            fulls: self.garbage_collection_policy,
            max_backups: self.max_backups,
            delta_retention: self.delta_snapshot_retention_period,
            covered_grace: self.covered_delta_grace,
        })
    }
}
