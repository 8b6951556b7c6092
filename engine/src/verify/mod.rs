//! Proving backups without restoring them and without an etcd: a plan, which is a value, and its run.
//!
//! A backup is verified exactly as a restore proves it, down to HashKV, over a scratch file that has no name. The archive
//! is only read.

mod plan;
mod run;

pub use plan::{LineagePlan, Scope, VerifyPlan, VerifyRequest, plan_verify};
pub use run::{Verdict, Verified, VerifySummary, run_verify};
