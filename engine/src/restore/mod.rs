//! Turning a moment of a history, or a plain snapshot, into a data directory: a plan, which is a value, and its run.

mod database;
mod plan;
mod point;
mod run;
mod way;

pub use plan::{Purpose, RestorePlan, RestoreRequest, RestoreSource, plan_plain_restore, plan_restore};
pub use point::{PointPlan, PointRequest, Resolved, Target};
pub use run::{RestoreSummary, Restored, RestoredPoint, run_restore};
pub use way::{Sizes, Way, WayWanted};

#[cfg(test)]
mod tests;
