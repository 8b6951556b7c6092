//! Where the archive is; names as `etcdbrctl` has them.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use etcdbr_engine::archive::{Archive, Keyring};
use etcdbr_engine::format::ArchivePrefix;
use etcdbr_engine::store::{self, Provider, StoreOptions};
use etcdbr_engine::tls::TlsOptions;
use etcdbr_engine::{Error, ErrorKind, Result};

/// What `etcdbrctl` uses where nothing is said.
const DEFAULT_LOCAL_CONTAINER: &str = "default.bkp";
/// Where `etcdbrctl` looks when the flag is absent.
const CONTAINER_VARIABLE: &str = "STORAGE_CONTAINER";

/// Where the archive is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Archive")]
pub(crate) struct StoreArgs {
    /// Kind of store: Local (a directory), S3 (also MinIO and others that speak S3) or ECS
    #[arg(long, env = "ETCDBR_STORAGE_PROVIDER", value_name = "KIND", default_value = "Local", value_parser = Provider::from_str)]
    storage_provider: Provider,
    /// Bucket, or for Local a directory [default for Local: default.bkp]
    #[arg(long, env = "ETCDBR_STORE_CONTAINER", value_name = "NAME")]
    store_container: Option<String>,
    /// Keys of the archive begin with this path
    #[arg(long, env = "ETCDBR_STORE_PREFIX", value_name = "PATH", default_value = "")]
    store_prefix: String,
    /// URL of the store, where it is not Amazon's
    #[arg(long, env = "ETCDBR_STORE_ENDPOINT_OVERRIDE", value_name = "URL")]
    store_endpoint_override: Option<String>,
    /// Region of the store [default: from the AWS configuration, else us-east-1]
    #[arg(long, env = "ETCDBR_STORE_REGION", value_name = "NAME")]
    store_region: Option<String>,
    /// PEM file of the certificate authorities to trust for the store, and for the URL of a plain snapshot
    #[arg(long, env = "ETCDBR_STORE_CACERT", value_name = "FILE")]
    store_cacert: Option<PathBuf>,
}

impl StoreArgs {
    /// Opens the archive.
    ///
    /// # Errors
    /// `Invalid` for what cannot be right.
    pub(crate) async fn archive(self, keyring: Keyring) -> Result<Archive> {
        let prefix = ArchivePrefix::new(&self.store_prefix)?;
        let store = store::open(&self.options()?).await?;
        Ok(Archive::new(store, prefix, keyring))
    }

    /// Whom to trust.
    pub(crate) fn tls(&self) -> TlsOptions {
        TlsOptions { ca_file: self.store_cacert.clone(), ..TlsOptions::default() }
    }

    /// The flags that name the same archive again.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--storage-provider".to_owned(), self.storage_provider.to_string()];
        let prefix = Some(&self.store_prefix).filter(|prefix| !prefix.is_empty());
        let cacert = self.store_cacert.as_ref().map(|file| file.display().to_string());
        for (flag, value) in [
            ("--store-container", self.store_container.as_ref()),
            ("--store-prefix", prefix),
            ("--store-endpoint-override", self.store_endpoint_override.as_ref()),
            ("--store-region", self.store_region.as_ref()),
            ("--store-cacert", cacert.as_ref()),
        ] {
            flags.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value.clone()]));
        }
        flags
    }

    fn options(self) -> Result<StoreOptions> {
        let container = self.store_container.or_else(|| variable(CONTAINER_VARIABLE));
        let container = match (container, self.storage_provider) {
            (Some(container), _) => container,
            (None, Provider::Local) => DEFAULT_LOCAL_CONTAINER.to_owned(),
            (None, _) => {
                return Err(Error::new(ErrorKind::Invalid, "no bucket is given")
                    .hint(format!("name it with --store-container or {CONTAINER_VARIABLE}")));
            }
        };
        let mut options = match self.storage_provider {
            Provider::Ecs => StoreOptions::ecs_from_env(container, self.store_endpoint_override.clone(), variable)?,
            provider => StoreOptions::new(provider, container),
        };
        options.endpoint = options.endpoint.or(self.store_endpoint_override);
        options.region = self.store_region.or(options.region);
        options.tls.ca_file = self.store_cacert.or(options.tls.ca_file);
        Ok(options)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
