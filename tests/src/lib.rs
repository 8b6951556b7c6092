//! The harness: real servers, an independent client, and our binary seen from outside.
//!
//! Servers run on loopback ports and in temporary directories of their own, and stop when they are dropped.

pub mod accounts;
pub mod database;
pub mod etcd;
pub mod etcdbr;
pub mod fake_etcd;
pub mod file_server;
pub mod hour;
pub mod keyspace;
pub mod load;
pub mod minio;
pub mod model;
pub mod model_check;
pub mod model_steps;
pub mod model_watch;
pub mod model_world;
pub mod pages;
pub mod plant;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod s3;
pub mod scenario;
pub mod sidecar;
pub mod tiny;
pub mod tls;
pub mod tmpfs;
pub mod tools;
