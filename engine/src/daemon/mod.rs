//! The sidecar: a full where one is needed, and then everything that happens, for as long as it runs.

mod alone;
mod cycle;
mod exposition;
mod exposition_upkeep;
mod fulls;
mod histogram;
mod hopeless;
mod leadership;
mod listener;
mod pace;
mod reasons;
mod request;
mod schedule;
mod session;
mod skew;
mod upkeep;

pub use alone::run_fulls;
pub use cycle::run_sidecar;
pub use leadership::Duty;
pub use listener::Listener;
pub use request::SidecarRequest;
pub use schedule::FullSchedule;
pub use upkeep::{Sweeping, UpkeepRequest};
