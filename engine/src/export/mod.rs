//! Giving a backup away as a plain `snapshot.db`, which etcd's own tools take: a plan, which is a value, and its run.

mod plan;
mod run;

pub use plan::{ExportPlan, ExportRequest, Plaintext, plan_export};
pub use run::{ExportSummary, run_export};
