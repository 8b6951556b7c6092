//! Rollups: one delta in the place of many narrow ones, made of what is stored.
//!
//! [`plan`] is a pure decision over names; [`roll_up`] lists, plans and acts. Nothing is deleted here: a rollup makes narrow
//! deltas redundant, and retention removes them when that has been seen for a while. [`RollupTurns`] tell a process that goes on
//! and on when to look.

mod facts;
mod plan;
mod run;
mod turns;

pub use plan::{RollupPlan, RollupPolicy, Span, plan};
pub use run::{RolledUp, RollupOptions, SkippedRollup, list_and_plan, roll_up, run_plan};
pub use turns::RollupTurns;

#[cfg(test)]
mod tests;
