//! Turning a backup or a plain snapshot into a data directory: a plan, which is a value, and its run.

mod plan;
mod run;

pub use plan::{Purpose, RestorePlan, RestoreRequest, RestoreSource, plan_plain_restore, plan_restore};
pub use run::{RestoreSummary, Restored, run_restore};
