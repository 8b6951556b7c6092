//! The live cluster: one pinned member, its revision, its records, its image.
//!
//! Everything that one full needs comes from one [`Member`]: another member may lag and make the numbers lie.
//! gRPC over our own TLS stack, no etcd process, and nothing here knows of stores or files. Each wait has a named
//! bound, and no stream is left open behind a value that was dropped.
//!
//! In the order of a full: [`Member::pin`], [`Member::linearizable_revision`], [`Member::seam`],
//! [`Member::snapshot`], [`Member::hash_kv_at_seam`].
//!
//! In the order of a capture: [`Member::pin`], [`Member::standing`] (can it be the history that was known?),
//! [`Member::watch`] from far enough back that its records prove that it is, then [`WatchStream::next`] for ever. A
//! watch that has ended is opened again at [`WatchStream::next_revision`], at this member or another. Beside it, now
//! and then: [`Member::linearizable_revision`] (did nothing happen?), [`Member::lease_ttls_s`], [`Member::leases`],
//! [`Member::compact_revision`], [`Member::auth_mark`], [`MemberStatus::alarms`].

mod assemble;
mod auth;
mod dial;
mod endpoint;
mod event;
mod fault;
mod feed;
mod hash;
mod leader;
mod lease;
mod member;
mod pin;
mod probe;
mod seam;
mod session;
mod snapshot;
mod standing;
mod status;
mod watch;

pub use assemble::Revisions;
pub use auth::AuthMark;
pub use endpoint::{ENDPOINTS_MAX, Endpoint, EtcdOptions};
pub use hash::{HashAnswer, HashAt, SeamHash};
pub use leader::Leadership;
pub use member::{Identity, Member};
pub use probe::Readable;
pub use seam::{Proof, SEAM_BYTES_MAX, SEAM_WAIT, SeamCapture, Unproven};
pub use snapshot::SnapshotStream;
pub use standing::{Discontinuity, Standing};
pub use status::{Alarm, MemberStatus, Role};
pub use watch::{WatchEnd, WatchLimits, WatchStream};
