//! The live cluster: one pinned member, its revision, its records, its image.
//!
//! Everything that one full needs comes from one [`Member`]: another member may lag and make the numbers lie.
//! gRPC over our own TLS stack, no etcd process, and nothing here knows of stores or files. Each wait has a named
//! bound, and no stream is left open behind a value that was dropped.
//!
//! In the order of a full: [`Member::pin`], [`Member::linearizable_revision`], [`Member::seam`],
//! [`Member::snapshot`], [`Member::hash_kv`].

mod dial;
mod endpoint;
mod fault;
mod hash;
mod member;
mod pin;
mod seam;
mod session;
mod snapshot;
mod status;

pub use endpoint::{ENDPOINTS_MAX, Endpoint, EtcdOptions};
pub use hash::{HashAnswer, HashAt};
pub use member::{Identity, Member};
pub use seam::{Proof, SEAM_BYTES_MAX, SEAM_WAIT, SeamCapture, Unproven};
pub use snapshot::SnapshotStream;
pub use status::{Alarm, MemberStatus, Role};
