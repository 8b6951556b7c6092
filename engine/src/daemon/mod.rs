//! The sidecar: a full where one is needed, and then everything that happens, for as long as it runs.

mod cycle;
mod fulls;
mod request;
mod session;

pub use cycle::run_sidecar;
pub use request::SidecarRequest;
