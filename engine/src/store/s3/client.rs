//! From options to an SDK client that behaves as the store's dialect asks.

use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials as SdkCredentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Builder, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
    StalledStreamProtectionConfig,
};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;

use crate::error::{Error, ErrorKind, Result};
use crate::store::options::{Addressing, Checksums, Credentials, Dialect, Provider, StoreOptions, with_scheme};
use crate::store::s3::http::Http;
use crate::store::times::ToldTime;

/// A client with what its requests need to know.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) dialect: Dialect,
    /// `None`: Amazon's own.
    pub(super) endpoint: Option<String>,
    pub(super) credentials: Option<SharedCredentialsProvider>,
    /// The clock of whoever answers.
    pub(super) told_time: Arc<ToldTime>,
}

/// Builds the client. The SDK neither retries nor times out: `retry` and `pace` of this room do, alike for all calls.
///
/// # Errors
/// `Invalid` for an endpoint or a CA file that cannot be used.
pub(super) async fn connect(options: &StoreOptions) -> Result<Connected> {
    let http = Http::new(options.tls.client_config()?, options.pace);
    let told_time = http.told_time();
    let given = options.endpoint.as_deref().map(|endpoint| with_scheme(endpoint, "https"));
    if let Some(endpoint) = &given {
        check_endpoint(endpoint)?;
    } else if options.provider == Provider::Ecs {
        return Err(Error::new(ErrorKind::Invalid, "storage provider ECS needs an endpoint").hint("set ECS_ENDPOINT"));
    }
    let shared = shared_config(options, http).await;
    let endpoint = given.or_else(|| configured_endpoint(&shared));
    let dialect = Dialect::of(options.provider, endpoint.as_deref());
    let region = options.region.clone().map(Region::new).or_else(|| match options.provider {
        Provider::Ecs => None,
        _ => shared.region().cloned(),
    });
    let mut builder = Builder::from(&shared)
        .region(region.unwrap_or(Region::new(dialect.region)))
        .force_path_style(path_style(options.addressing, dialect))
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(answer_within(options.pace.answer_timeout));
    if let Some(endpoint) = &endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    if dialect.checksums == Checksums::Off {
        builder = builder
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    }
    let credentials = shared.credentials_provider();
    Ok(Connected { client: Client::from_conf(builder.build()), dialect, endpoint, credentials, told_time })
}

/// How long one call may wait for its answer; connecting is bounded by the connector itself.
pub(super) fn answer_within(limit: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().read_timeout(limit).disable_operation_timeout().disable_operation_attempt_timeout().build()
}

/// Credentials, region and endpoint: of the AWS configuration unless they are given.
async fn shared_config(options: &StoreOptions, http: Http) -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    match &options.credentials {
        Credentials::AwsChain => loader.load().await,
        Credentials::Static(keys) => {
            let token = keys.session_token.as_ref().map(|token| token.expose().to_owned());
            let (access_key, secret_key) = (keys.access_key.expose(), keys.secret_key.expose());
            let credentials = SdkCredentials::new(access_key, secret_key, token, None, "options");
            let loader = loader.credentials_provider(SharedCredentialsProvider::new(credentials));
            // A region that is known keeps the SDK from asking the instance's metadata service for one.
            let region = options.region.clone().map(Region::new);
            match (&options.endpoint, region) {
                (_, Some(region)) => loader.region(region).load().await,
                (Some(_), None) => {
                    loader.region(Region::new(Dialect::of(options.provider, Some("")).region)).load().await
                }
                (None, None) => loader.load().await,
            }
        }
    }
}

/// The endpoint that the AWS configuration names, which makes it a custom one too.
fn configured_endpoint(shared: &SdkConfig) -> Option<String> {
    std::env::var("AWS_ENDPOINT_URL_S3").ok().or_else(|| shared.endpoint_url().map(str::to_owned))
}

fn path_style(asked: Addressing, dialect: Dialect) -> bool {
    let addressing = if asked == Addressing::Auto { dialect.addressing } else { asked };
    addressing == Addressing::Path
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    let bad = |why: &str| {
        Err(Error::new(ErrorKind::Invalid, format!("the store endpoint {endpoint:?} {why}"))
            .hint("give it as https://host:port"))
    };
    match url::Url::parse(endpoint) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => bad("is neither http nor https"),
        Ok(url) if url.host().is_none() => bad("names no host"),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            // Not repeated: it holds a secret.
            Err(Error::new(ErrorKind::Invalid, "the store endpoint holds credentials")
                .hint("give them in the environment"))
        }
        Ok(_) => Ok(()),
        Err(_) => bad("is no URL"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        for bad in ["ftp://x", "https://", "http://a b", "https://user:secret@host"] {
            let error = check_endpoint(bad).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && !error.to_string().contains("secret"), "{bad}");
        }
        check_endpoint("http://127.0.0.1:9000").unwrap();
    }

    #[test]
    fn custom_endpoints_use_paths_unless_told_otherwise() {
        let custom = Dialect::of(Provider::S3, Some("http://minio"));
        let amazon = Dialect::of(Provider::S3, None);
        assert!(path_style(Addressing::Auto, custom) && !path_style(Addressing::Auto, amazon));
        assert!(path_style(Addressing::Path, amazon) && !path_style(Addressing::VirtualHost, custom));
    }
}
