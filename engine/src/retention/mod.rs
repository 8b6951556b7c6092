//! What stays and what goes: a pure decision over names, sizes and times, with a reason for every object.
//!
//! Nothing here reads or deletes anything; `gc` acts. The argument why a sweep takes nothing away that was promised stands
//! in `plan`.

mod covered;
mod fulls;
mod plan;
mod policy;

pub use covered::{Candidate, Covered, candidates};
pub use plan::{Decided, Decision, DeleteReason, KeepReason, RetentionPlan, plan, store_now, written};
pub use policy::{FullsPolicy, RetentionPolicy};

#[cfg(test)]
mod tests;
