//! From the archive to a proven database: what the verbs share that read a backup as records.
//!
//! [`move_image`] brings the image of a full to whatever takes it (a stage, a scratch file) and holds it against the
//! footer, [`move_plain`] that of a plain snapshot against the SHA-256 behind it; [`prove`] examines it and compares it with what the source itself answered. Nothing here knows which verb
//! calls it, or has heard of a live etcd.

mod append;
mod check;
mod deletion;
mod facts;
mod image;
mod line;
mod marks;
mod moment;
mod proof;
mod records;
mod rewrite;

pub use append::{Goal, append};
pub use check::{ChainCheck, CheckedChain, Digests, check_chain, check_delta};
pub use deletion::last_deletion;
pub use facts::Learned;
pub use image::{move_image, move_plain};
pub use marks::{learn_marks, told_behind};
pub use moment::moment;
pub use proof::{HashKvProof, Integrity, Proof, Proving, Thoroughness, TreeProof, prove};
pub use records::{Batch, ChainRecords, Replayed, Stretch, replay};
pub use rewrite::{Rewriting, Rewritten, rewrite};
