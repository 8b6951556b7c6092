//! Lending a backup to somebody without credentials: a plain snapshot beside the archive, a signed URL to it, and its
//! removal afterwards.
//!
//! A plan, which is a value, and its run; of both, one to lend and one to clear up.

mod lend;
mod sweep;

pub use lend::{Plaintext, PresignPlan, PresignRequest, PresignSummary, plan_presign, run_presign};
pub use sweep::{SweepPlan, SweepRequest, plan_sweep, run_sweep};
