//! One file per command: its flags, and what they mean to the engine.

pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod gc;
pub(crate) mod keygen;
pub(crate) mod list;
pub(crate) mod presign;
pub(crate) mod restore;
pub(crate) mod rollup;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod verify;
