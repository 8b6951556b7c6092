//! Clearing up what nobody needs: backups that no policy keeps, deltas that others hold, and the uploads that killed backups
//! have left in the store.
//!
//! A plan, which is a value, and its run, for each. What stays is decided in `retention`.

mod memory;
mod sweep;
mod uploads;

pub use memory::SweepMemory;
pub use sweep::{KeptAgainst, SweepOutcome, plan_sweep, run_sweep, sweep, sweep_into};
pub use uploads::{UploadsPlan, UploadsRequest, abort_uploads, plan_uploads};
