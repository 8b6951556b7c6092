//! Turning a backup into a data directory: a plan, which is a value, and its run.

mod plan;
mod run;

pub use plan::{Purpose, RestorePlan, RestoreRequest, plan_restore};
pub use run::{RestoreSummary, run_restore};
