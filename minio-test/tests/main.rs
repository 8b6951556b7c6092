//! The promises that a store of our own making cannot prove, against a real MinIO.

mod full_backup;
mod store;
