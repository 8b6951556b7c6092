//! What is in a plain `snapshot.db` or in a backup, in the figures of `etcdutl snapshot status`. Nothing is modified.

mod look;

pub use look::{Origin, Status, StatusRequest, TotalKeys, look};
