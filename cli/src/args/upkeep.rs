//! What a sidecar does for its archive beside capture; names as `etcdbrctl` has them where the meaning is the same.

use std::time::Duration;

use clap::Args;
use etcdbr_engine::Result;
use etcdbr_engine::daemon::{Sweeping, UpkeepRequest};
use etcdbr_engine::gc::UploadsRequest;
use etcdbr_engine::pipeline::CompressionLevel;
use etcdbr_engine::rollup::RollupOptions;

use super::retention::RetentionArgs;
use super::rollup::RollupArgs;
use super::units::{parse_duration, parse_interval};

/// Whoever wrote this wanted nothing to be removed: `etcdbrctl` takes a second or less for never.
const NEVER_SWEPT: Duration = Duration::from_secs(1);

/// What a sidecar does for its archive.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpkeepArgs {
    #[command(flatten)]
    rollup: RollupArgs,
    #[command(flatten)]
    retention: RetentionArgs,
    /// How often what no policy keeps is removed from the archive. 0 (or up to a second, as etcdbrctl has it): never
    #[arg(long, env = "ETCDBR_GARBAGE_COLLECTION_PERIOD", value_name = "DURATION", default_value = "1m", value_parser = parse_interval, help_heading = "Retention")]
    garbage_collection_period: Duration,
    /// Abort uploads, too, that were begun longer ago than this and never ended, as a killed process leaves them
    #[arg(long, env = "ETCDBR_OLDER_THAN", value_name = "TIME", default_value = "24h", value_parser = parse_duration, help_heading = "Retention")]
    older_than: Duration,
}

impl UpkeepArgs {
    /// What the engine is asked for.
    ///
    /// # Errors
    /// `Invalid` for a policy that keeps nothing.
    pub(crate) fn request(&self, level: CompressionLevel) -> Result<UpkeepRequest> {
        let sweeping = Sweeping {
            every: self.garbage_collection_period,
            policy: self.retention.policy()?,
            uploads: UploadsRequest { older_than: self.older_than },
        };
        Ok(UpkeepRequest {
            rollup: RollupOptions {
                policy: self.rollup.policy(),
                level,
                tool_version: env!("ETCDBR_VERSION").to_owned(),
            },
            sweeping: (self.garbage_collection_period > NEVER_SWEPT).then_some(sweeping),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        upkeep: UpkeepArgs,
    }

    fn request(flags: &[&str]) -> Result<UpkeepRequest> {
        let line = Line::parse_from(["test"].iter().chain(flags));
        line.upkeep.request(CompressionLevel::default())
    }

    #[test]
    fn a_sidecar_keeps_a_week_unless_it_is_told_otherwise() {
        let request = request(&[]).unwrap();
        let sweeping = request.sweeping.unwrap();
        assert_eq!((sweeping.every, sweeping.policy), (Duration::from_secs(60), Default::default()));
        assert_eq!(sweeping.uploads.older_than, Duration::from_secs(24 * 3_600));
        assert_eq!(request.rollup.policy, Default::default());
    }

    #[test]
    fn nothing_is_removed_where_etcdbrctl_would_not() {
        for never in ["0", "0s", "500ms", "1s"] {
            assert!(request(&["--garbage-collection-period", never]).unwrap().sweeping.is_none(), "{never}");
        }
        assert!(request(&["--garbage-collection-period", "2s"]).unwrap().sweeping.is_some());
        assert!(request(&["--keep-within", "0"]).is_err());
        assert!(request(&["--rollup-periods", "0"]).unwrap().rollup.policy.periods().is_empty());
    }
}
