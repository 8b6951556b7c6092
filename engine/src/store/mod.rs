//! Objects in and out of a place that keeps them. A store has never heard of a backup.
//!
//! Keys are `/`-separated and never reused: callers put a nonce into every key, so nothing here relies on
//! create-only writes, and a retry writes the same bytes again. Objects are never empty.
//!
//! [`open`] makes a store of [`StoreOptions`]; every store and every decorator passes [`conformance::run`].

// Values and the contract.
mod contract;
mod key;
mod listing;
mod object;
mod presign;

// What the stores share.
mod connector;
mod extent;
mod ledger;
mod retry;
mod times;

// The stores, and a source that is none.
mod http;
mod local;
mod s3;

// From flags and environment to a store.
mod open;
mod options;

// For tests, of any crate.
pub mod conformance;
pub mod faulty;

pub use contract::{ObjectStore, Upload};
pub use extent::Extent;
pub use http::{AnswerHead, Asked, HttpObject, HttpOptions, Lanes, Location, Served, SourceUrl, Transfer, Version};
pub use listing::{ListDepth, ListPage, ListQuery, PendingUpload};
pub use local::LocalStore;
pub use object::{ByteRange, ETag, ObjectLock, ObjectMeta, PartNumber, ReadAnswer, Removal};
pub use open::open;
pub use options::{Addressing, Credentials, Pace, Provider, StaticKeys, StoreOptions};
pub use presign::{MAX_LIFETIME, Presign, PresignedUrl, SessionEnd};
pub use retry::RetryPolicy;
pub use s3::S3Store;
