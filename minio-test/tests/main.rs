//! The promises that a store of our own making cannot prove, against a real MinIO.

#![allow(clippy::unwrap_used, reason = "every function here is part of a test")]

mod doctor;
mod full_backup;
mod lock;
mod narrow;
mod presign;
mod store;
