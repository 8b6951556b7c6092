//! What the tests share: neighbours that can be scripted.

pub mod fake_etcd;
