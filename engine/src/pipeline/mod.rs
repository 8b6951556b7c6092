//! Cut, compress, seal, and back. CPU only: no stores, no etcd, no async.
//!
//! ```text
//! bytes -> Cutter -> chunk -> Sealer -> frame -> Cutter -> part        (a backup)
//! frame -> Opener -> chunk                                             (a restore)
//! ```
//! Every buffer comes from a [`Pool`] and goes back to it; how many are out at once is the caller's bound.

mod cut;
mod open;
mod pool;
mod protect;
mod seal;

pub use cut::Cutter;
pub use open::Opener;
pub use pool::{Buffer, Pool};
pub use protect::Protector;
pub use seal::{CompressionLevel, Sealer};

#[cfg(test)]
mod tests;
