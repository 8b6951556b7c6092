//! What a store is opened with. How flavours of S3 differ is data here (`Dialect`), not code elsewhere.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretText;
use crate::store::retry::RetryPolicy;
use crate::tls::{ServerIdentity, TlsOptions};

/// Region of custom endpoints that are told none.
const DEFAULT_REGION: &str = "us-east-1";
/// What `etcdbrctl` sends to ECS, which ignores it.
const ECS_REGION: &str = "US-Standard";

/// The kinds of store, named as `--storage-provider` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// A directory.
    #[default]
    Local,
    /// Amazon S3, MinIO and everything else that speaks S3.
    S3,
    /// Dell ECS and ObjectScale.
    Ecs,
}

/// Everything that opening a store needs.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The kind of store.
    pub provider: Provider,
    /// Its container: a bucket's name; for `Local` a directory: an absolute path is absolute, a relative one is
    /// relative to the working directory at the time of opening.
    pub container: String,
    /// Where the store is, `https://host:port`; without a scheme it means https. `None`: Amazon's own.
    pub endpoint: Option<String>,
    /// Its region; `None`: from the AWS configuration, else `us-east-1`.
    pub region: Option<String>,
    /// Who we are.
    pub credentials: Credentials,
    /// Where the bucket's name goes.
    pub addressing: Addressing,
    /// Whom to trust.
    pub tls: TlsOptions,
    /// How slow the store may be.
    pub pace: Pace,
    /// How often calls are made again.
    pub retry: RetryPolicy,
}

/// Who we are.
#[derive(Debug, Clone, Default)]
pub enum Credentials {
    /// `AWS_*` environment, profiles, web identity, container and instance roles, in the order of the AWS SDKs.
    #[default]
    AwsChain,
    /// These keys.
    Static(StaticKeys),
}

/// An access key with its secret.
#[derive(Debug, Clone)]
pub struct StaticKeys {
    /// The access key's id.
    pub access_key: SecretText,
    /// Its secret.
    pub secret_key: SecretText,
    /// For temporary credentials.
    pub session_token: Option<SecretText>,
}

/// Where the bucket's name goes in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Addressing {
    /// `Path` for custom endpoints, `VirtualHost` for Amazon.
    #[default]
    Auto,
    /// `https://host/bucket/key`.
    Path,
    /// `https://bucket.host/key`.
    VirtualHost,
}

/// How slow a store may be before an attempt counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// From the end of a request to the head of its answer.
    pub answer_timeout: Duration,
    /// The same for the completion of an upload: some stores put all parts together before they answer.
    pub complete_timeout: Duration,
    /// In each such time, while a body is on its way, …
    pub window: Duration,
    /// … at least so many bytes move.
    pub min_window_bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            complete_timeout: Duration::from_secs(300),
            window: Duration::from_secs(20),
            min_window_bytes: 16 << 10,
        }
    }
}

impl StoreOptions {
    /// Options with every default.
    pub fn new(provider: Provider, container: impl Into<String>) -> Self {
        Self {
            provider,
            container: container.into(),
            endpoint: None,
            region: None,
            credentials: Credentials::default(),
            addressing: Addressing::default(),
            tls: TlsOptions::default(),
            pace: Pace::default(),
            retry: RetryPolicy::default(),
        }
    }

    /// Options of an ECS from the environment that `etcdbrctl` reads: `ECS_ENDPOINT`, `ECS_ACCESS_KEY_ID`,
    /// `ECS_SECRET_ACCESS_KEY`, and, both false by default, `ECS_DISABLE_SSL` (for an endpoint without a scheme)
    /// and `ECS_INSECURE_SKIP_VERIFY`. An `endpoint` that is given takes the place of the variable.
    ///
    /// # Errors
    /// `Invalid`, naming every variable that is missing or not a boolean.
    pub fn ecs_from_env(
        container: impl Into<String>,
        endpoint: Option<String>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let variable = |name: &str| lookup(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let endpoint = endpoint.or_else(|| variable("ECS_ENDPOINT"));
        let access_key = variable("ECS_ACCESS_KEY_ID");
        let secret_key = variable("ECS_SECRET_ACCESS_KEY");
        let (Some(endpoint), Some(access_key), Some(secret_key)) = (&endpoint, &access_key, &secret_key) else {
            let missing = [
                ("ECS_ENDPOINT", &endpoint),
                ("ECS_ACCESS_KEY_ID", &access_key),
                ("ECS_SECRET_ACCESS_KEY", &secret_key),
            ];
            let names: Vec<_> = missing.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
            return Err(Error::new(ErrorKind::Invalid, format!("storage provider ECS needs {}", names.join(", ")))
                .hint("set them in the environment"));
        };
        let plain = switch("ECS_DISABLE_SSL", variable("ECS_DISABLE_SSL"))?;
        let unchecked = switch("ECS_INSECURE_SKIP_VERIFY", variable("ECS_INSECURE_SKIP_VERIFY"))?;
        let mut options = Self::new(Provider::Ecs, container);
        let default_scheme = if plain { "http" } else { "https" };
        options.endpoint = Some(with_scheme(endpoint, default_scheme));
        options.credentials = Credentials::Static(StaticKeys {
            access_key: SecretText::new(access_key),
            secret_key: SecretText::new(secret_key),
            session_token: None,
        });
        if unchecked {
            options.tls.server_identity = ServerIdentity::Unchecked;
        }
        Ok(options)
    }
}

/// How one flavour of S3 differs from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    /// Region where none is told.
    pub(super) region: &'static str,
    /// Where the bucket's name goes.
    pub(super) addressing: Addressing,
    /// Whether bodies carry checksums.
    pub(super) checksums: Checksums,
    /// How uploads under a prefix are found.
    pub(super) pending: PendingListing,
}

/// Whether bodies carry checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksums {
    /// As the SDK sees fit: Amazon checks them and keeps them.
    Sent,
    /// None, and no `aws-chunked`: many stores fail on them.
    Off,
}

/// How uploads under a prefix are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PendingListing {
    /// ListMultipartUploads takes a prefix.
    ByPrefix,
    /// It may take only a whole key (MinIO) and answer a prefix with nothing: then all are listed and sieved.
    Sieved,
}

impl Dialect {
    const AMAZON: Self = Self {
        region: DEFAULT_REGION,
        addressing: Addressing::VirtualHost,
        checksums: Checksums::Sent,
        pending: PendingListing::ByPrefix,
    };
    const COMPATIBLE: Self = Self {
        region: DEFAULT_REGION,
        addressing: Addressing::Path,
        checksums: Checksums::Off,
        pending: PendingListing::Sieved,
    };
    const ECS: Self = Self { region: ECS_REGION, ..Self::COMPATIBLE };

    /// The dialect of a provider at a custom endpoint or at Amazon's own.
    pub(super) fn of(provider: Provider, endpoint: Option<&str>) -> Self {
        match (provider, endpoint) {
            (Provider::Ecs, _) => Self::ECS,
            (_, Some(_)) => Self::COMPATIBLE,
            (_, None) => Self::AMAZON,
        }
    }
}

impl FromStr for Provider {
    type Err = Error;

    /// The names of `etcdbrctl`; nothing means `Local`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" | "Local" => Ok(Self::Local),
            "S3" => Ok(Self::S3),
            "ECS" => Ok(Self::Ecs),
            _ => Err(Error::new(ErrorKind::Invalid, format!("unknown storage provider {text:?}"))
                .hint("one of Local, S3, ECS")),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "Local",
            Self::S3 => "S3",
            Self::Ecs => "ECS",
        })
    }
}

/// `endpoint` with a scheme; one that it brings along stays.
pub(super) fn with_scheme(endpoint: &str, scheme: &str) -> String {
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("{scheme}://{endpoint}") }
}

/// A boolean as Go's `strconv.ParseBool` reads it; absent is false.
fn switch(name: &str, value: Option<String>) -> Result<bool> {
    match value.as_deref() {
        Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(true),
        None | Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(false),
        Some(text) => {
            Err(Error::new(ErrorKind::Invalid, format!("{name} is {text:?}")).hint("it must be true or false"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECS: [(&str, &str); 3] =
        [("ECS_ENDPOINT", "ecs:9021"), ("ECS_ACCESS_KEY_ID", "id\n"), ("ECS_SECRET_ACCESS_KEY", "secret")];

    fn ecs(more: &[(&str, &str)]) -> Result<StoreOptions> {
        let find = |name: &str| {
            more.iter().chain(&ECS).find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        StoreOptions::ecs_from_env("bucket", None, find)
    }

    #[test]
    fn ecs_is_read_from_its_variables() {
        let options = ecs(&[]).unwrap();
        assert_eq!(options.endpoint.as_deref(), Some("https://ecs:9021"));
        assert_eq!(options.tls.server_identity, ServerIdentity::Verified);
        let Credentials::Static(keys) = options.credentials else { panic!("static keys") };
        assert_eq!((keys.access_key.expose(), keys.secret_key.expose()), ("id", "secret"));
    }

    #[test]
    fn ecs_switches_turn_tls_down() {
        let options = ecs(&[("ECS_DISABLE_SSL", "true"), ("ECS_INSECURE_SKIP_VERIFY", "1")]).unwrap();
        assert_eq!(options.endpoint.as_deref(), Some("http://ecs:9021"));
        assert_eq!(options.tls.server_identity, ServerIdentity::Unchecked);
        let kept = ecs(&[("ECS_ENDPOINT", "https://ecs"), ("ECS_DISABLE_SSL", "true")]).unwrap();
        assert_eq!(kept.endpoint.as_deref(), Some("https://ecs"));
        assert_eq!(ecs(&[("ECS_DISABLE_SSL", "maybe")]).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn missing_variables_are_named() {
        let none = |_: &str| None;
        let error = StoreOptions::ecs_from_env("b", Some("http://e".into()), none).unwrap_err();
        assert_eq!(error.message(), "storage provider ECS needs ECS_ACCESS_KEY_ID, ECS_SECRET_ACCESS_KEY");
    }

    #[test]
    fn dialects_follow_provider_and_endpoint() {
        assert_eq!(Dialect::of(Provider::S3, None).checksums, Checksums::Sent);
        assert_eq!(Dialect::of(Provider::S3, Some("http://minio")).checksums, Checksums::Off);
        assert_eq!(Dialect::of(Provider::Ecs, None).region, "US-Standard");
    }

    #[test]
    fn providers_are_named_as_on_the_command_line() {
        for provider in [Provider::Local, Provider::S3, Provider::Ecs] {
            assert_eq!(provider.to_string().parse::<Provider>().unwrap(), provider);
        }
        assert!("Tape".parse::<Provider>().is_err());
    }

    #[test]
    fn options_show_no_secret() {
        assert!(!format!("{:?}", ecs(&[]).unwrap()).contains("secret\""));
    }
}
