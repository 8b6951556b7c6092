//! The etcdbr engine: a running etcd in, immutable objects out, and any of them back as a data directory.
//!
//! Rooms are listed in the order in which data flows, ground first. A room imports only from lower floors, and
//! the verbs of the top floor never import each other; `tests/tests/tidy.rs` holds this.

// Floor 0: words and values that several rooms share.
pub mod clock;
pub mod error;
pub mod monitor;
pub mod record;
pub mod revision;
pub mod run;
pub mod secret;
pub mod tls;

// Floor 1: the two byte formats, ours and etcd's page file. No I/O, no async.
pub mod bbolt;
pub mod format;

// Floor 2: one neighbour of the world each.
pub mod datadir;
pub mod etcd;
pub mod pipeline;
pub mod store;

// Floor 3: the store's objects seen as backups, and snapshots that others made.
pub mod archive;
pub mod foreign;

// Floor 4: from the archive to a proven database, and what of the archive stays.
pub mod replay;
pub mod retention;

// Floor 5: verbs, a plan and its run each.
pub mod backup;
pub mod capture;
pub mod doctor;
pub mod export;
pub mod gc;
pub mod presign;
pub mod restore;
pub mod rollup;
pub mod status;
pub mod verify;

// Floor 6: verbs that run by themselves.
pub mod daemon;

pub use error::{Error, ErrorKind, Result};
