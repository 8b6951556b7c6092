//! When narrow deltas become a wide one.

use std::time::Duration;

use clap::Args;
use etcdbr_engine::rollup::RollupPolicy;

use super::units::parse_interval;

/// When narrow deltas become a wide one.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Rollups")]
pub(crate) struct RollupArgs {
    /// Make one delta of those of each such time, once it is over; 0: never
    #[arg(long, env = "ETCDBR_ROLLUP_PERIODS", value_name = "TIME", default_value = "5m,1h", value_delimiter = ',', value_parser = parse_interval)]
    rollup_periods: Vec<Duration>,
}

impl RollupArgs {
    /// The policy.
    pub(crate) fn policy(&self) -> RollupPolicy {
        let periods: Vec<Duration> = self.rollup_periods.iter().copied().filter(|period| !period.is_zero()).collect();
        RollupPolicy::new(&periods)
    }
}
