//! The promises that a store of our own making cannot prove, against a real MinIO.

mod store;
