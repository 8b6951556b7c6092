//! Signed URLs of objects in a bucket.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{ResponseChecksumValidation, SharedCredentialsProvider};
use aws_sdk_s3::presigning::PresigningConfig;

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::SecretText;
use crate::store::key::check_key;
use crate::store::presign::{MAX_LIFETIME, Presign, PresignedUrl, SessionEnd};
use crate::store::s3::{S3Store, Shared};

#[async_trait]
impl Presign for S3Store {
    async fn presign_read(&self, key: &str, now: UnixMillis, lifetime: Duration) -> Result<PresignedUrl> {
        check_key(key)?;
        if lifetime > MAX_LIFETIME || lifetime.as_secs() == 0 {
            let what = format!("a URL cannot be signed for {} s", lifetime.as_secs());
            return Err(Error::new(ErrorKind::Invalid, what).hint("a signature lives from one second to seven days"));
        }
        let shared = &self.shared;
        // Asked for once and kept: what is said of their end is then true of those that sign.
        let credentials = credentials(shared).await?;
        // A signature counts from a whole second.
        let signed_at = Duration::from_secs(u64::try_from(now.0).unwrap_or_default() / 1_000);
        let config = PresigningConfig::builder().start_time(UNIX_EPOCH + signed_at).expires_in(lifetime).build();
        let config = config.map_err(|error| self.unsigned(key).caused_by(error))?;
        let signed = signer(shared, &credentials).get_object().bucket(&shared.bucket).key(key).presigned(config).await;
        let signed = signed.map_err(|error| self.unsigned(key).caused_by(error))?;
        if signed.headers().next().is_some() {
            // Whoever fetches it sends none.
            return Err(self.unsigned(key).caused_by("the signature asks for headers"));
        }
        let signature_end = millis(UNIX_EPOCH + signed_at + Duration::from_secs(lifetime.as_secs()));
        let session = match (credentials.session_token(), credentials.expiry()) {
            (_, Some(end)) => SessionEnd::At(millis(end)),
            (Some(_), None) => SessionEnd::Unknown,
            (None, None) => SessionEnd::Lasting,
        };
        Ok(PresignedUrl { url: SecretText::new(signed.uri()), signature_end, session })
    }
}

impl S3Store {
    fn unsigned(&self, key: &str) -> Error {
        Error::new(ErrorKind::Internal, format!("cannot sign a URL of {key} in {}", self.shared.described))
    }
}

async fn credentials(shared: &Shared) -> Result<Credentials> {
    let denied = || {
        Error::new(ErrorKind::Denied, format!("no credentials sign for {}", shared.described))
            .hint("give credentials in the environment or in a profile")
    };
    let provider = shared.credentials.as_ref().ok_or_else(denied)?;
    provider.provide_credentials().await.map_err(|error| denied().caused_by(error))
}

/// A client whose signatures cover the host and nothing else.
fn signer(shared: &Shared, credentials: &Credentials) -> Client {
    let config = shared.client.config().to_builder();
    let config = config.response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    Client::from_conf(config.credentials_provider(SharedCredentialsProvider::new(credentials.clone())).build())
}

fn millis(time: SystemTime) -> UnixMillis {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
