//! From the archive to a proven database: what the verbs share that read a backup as records.
//!
//! [`move_image`] brings the image of a full to whatever takes it (a stage, a scratch file) and holds it against the
//! footer, [`move_plain`] that of a plain snapshot against the SHA-256 behind it; [`prove`] examines it and compares it with what the source itself answered. Nothing here knows which verb
//! calls it, or has heard of a live etcd.

mod image;
mod proof;

pub use image::{move_image, move_plain};
pub use proof::{HashKvProof, Integrity, Proof, Proving, Thoroughness, TreeProof, prove};
