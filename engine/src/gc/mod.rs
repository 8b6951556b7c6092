//! Clearing up what nobody needs: the uploads that killed backups have left in the store.
//!
//! A plan, which is a value, and its run. Objects are never deleted here.

mod uploads;

pub use uploads::{UploadsPlan, UploadsRequest, abort_uploads, plan_uploads};
