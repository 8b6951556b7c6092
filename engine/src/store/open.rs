//! From options to a store.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::store::contract::ObjectStore;
use crate::store::local::LocalStore;
use crate::store::options::{Provider, StoreOptions};
use crate::store::s3::S3Store;

/// Opens a store. Nothing is asked of it yet: a container that does not exist shows at the first call.
///
/// # Errors
/// `Invalid` for options that cannot be right (an empty container, a bad endpoint, an unreadable CA file).
pub async fn open(options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    if options.container.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "no store container is given").hint("set --store-container"));
    }
    Ok(match options.provider {
        Provider::Local => Arc::new(LocalStore::new(&options.container)?),
        Provider::S3 | Provider::Ecs => Arc::new(S3Store::connect(options).await?),
    })
}
