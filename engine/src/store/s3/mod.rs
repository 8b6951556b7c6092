//! Amazon S3 and what speaks like it. How flavours differ is data (`options::Dialect`).
//!
//! Every call is one loop of attempts (`retry`); what an attempt's failure means is decided in one place
//! (`failure`). The SDK signs, builds and parses; it neither retries nor times out.

mod client;
mod failure;
mod http;
mod list;
mod lock;
mod pace;
mod presign;
mod read;
mod upload;

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedCredentialsProvider;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::store::contract::{ObjectStore, Upload};
use crate::store::key::check_key;
use crate::store::listing::{ListPage, ListQuery, PendingUpload};
use crate::store::object::{ByteRange, ETag, ObjectLock, ObjectMeta, ReadAnswer, Removal};
use crate::store::options::{Dialect, Pace, StoreOptions};
use crate::store::presign::Presign;
use crate::store::retry::RetryPolicy;
use crate::store::times::ToldTime;

use failure::{S3Failure, Subject};
use upload::S3Upload;

/// Deletions under way at once.
const DELETES_IN_FLIGHT: usize = 16;

/// A bucket.
#[derive(Debug, Clone)]
pub struct S3Store {
    shared: Arc<Shared>,
}

/// What the calls of one store share.
#[derive(Debug)]
struct Shared {
    client: Client,
    bucket: String,
    dialect: Dialect,
    described: String,
    payload: Payload,
    pace: Pace,
    retry: RetryPolicy,
    /// Who signs.
    credentials: Option<SharedCredentialsProvider>,
    told_time: Arc<ToldTime>,
}

/// What vouches for the bytes of an upload on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    /// Their SHA-256 in the signature: plain HTTP has nothing else.
    Signed,
    /// TLS does; the second hash would cost two thirds of the throughput.
    Tls,
}

impl S3Store {
    /// A store for `options`, of provider `S3` or `Ecs`. Nothing is asked of the bucket yet.
    ///
    /// # Errors
    /// `Invalid` for an endpoint or a CA file that cannot be used.
    pub async fn connect(options: &StoreOptions) -> Result<Self> {
        let connected = client::connect(options).await?;
        let bucket = options.container.clone();
        let described = match &connected.endpoint {
            Some(endpoint) => format!("bucket {bucket} at {endpoint}"),
            None => format!("bucket {bucket}"),
        };
        let plain = connected.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        Ok(Self {
            shared: Arc::new(Shared {
                client: connected.client,
                bucket,
                dialect: connected.dialect,
                described,
                payload: if plain { Payload::Signed } else { Payload::Tls },
                pace: options.pace,
                retry: options.retry,
                credentials: connected.credentials,
                told_time: connected.told_time,
            }),
        })
    }
}

impl Shared {
    /// For error messages.
    fn subject<'a>(&'a self, action: &'a str, key: &'a str) -> Subject<'a> {
        Subject { action, key, store: &self.described }
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let mut attempts = self.retry.begin();
        loop {
            // Its own name makes the answer's loss harmless: the same bytes go to the same key again.
            let call = self.client.put_object().bucket(&self.bucket).key(key);
            let call = call.content_length(length(&body)).body(ByteStream::from(body.clone())).customize();
            let call = if self.payload == Payload::Tls { call.disable_payload_signing() } else { call };
            match call.send().await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    attempts.again(S3Failure::new(error).failure(self.subject("write", key))).await?;
                }
            }
        }
    }

    async fn head(&self, key: &str, retry: RetryPolicy) -> Result<ObjectMeta> {
        let mut attempts = retry.begin();
        loop {
            let answer = self.client.head_object().bucket(&self.bucket).key(key).send().await;
            let error = match answer {
                Ok(head) => {
                    let bytes = head.content_length().and_then(|bytes| u64::try_from(bytes).ok());
                    let modified = head.last_modified().and_then(|time| time.to_millis().ok());
                    let (Some(bytes), Some(etag)) = (bytes, head.e_tag()) else {
                        return Err(self.unusable("HEAD", key, "size or etag"));
                    };
                    let (modified, etag) = (UnixMillis(modified.unwrap_or_default()), ETag(etag.to_owned()));
                    return Ok(ObjectMeta { key: key.to_owned(), bytes, modified, etag });
                }
                Err(error) => S3Failure::new(error),
            };
            attempts.again(error.failure(self.subject("look at", key))).await?;
        }
    }

    /// One by one and not by DeleteObjects: that call alone needs a Content-MD5 or a checksum, which is exactly
    /// where S3's relatives differ; each key's error is its own; and DELETE costs nothing.
    ///
    /// Never by version: what a lock or a legal hold protects are versions, and they stay.
    async fn delete(&self, key: &str) -> Result<Removal> {
        let mut attempts = self.retry.begin();
        loop {
            let answer = self.client.delete_object().bucket(&self.bucket).key(key).send().await;
            let failure = match answer {
                Ok(gone) if gone.delete_marker() == Some(true) => return Ok(Removal::Hidden),
                Ok(_) => return Ok(Removal::Gone),
                Err(error) => S3Failure::new(error),
            };
            if failure.is_missing() {
                return Ok(Removal::Gone);
            }
            attempts.again(failure.failure(self.subject("delete", key))).await?;
        }
    }

    /// A store that answers without what every S3 sends.
    fn unusable(&self, call: &str, key: &str, what: &str) -> Error {
        let message = format!("{} answered {call} of {key} without {what}", self.described);
        Error::new(ErrorKind::Invalid, message).hint("the store does not speak S3 well enough")
    }
}

/// As the SDK wants it.
fn length(body: &Bytes) -> i64 {
    i64::try_from(body.len()).unwrap_or(i64::MAX)
}

#[async_trait]
impl ObjectStore for S3Store {
    fn describe(&self) -> String {
        self.shared.described.clone()
    }

    fn time(&self) -> Option<UnixMillis> {
        self.shared.told_time.now()
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        check_key(key)?;
        if body.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, format!("{key}: an object is never empty")));
        }
        self.shared.put(key, body).await
    }

    async fn start_upload(&self, key: &str, part_bytes: u64) -> Result<Arc<dyn Upload>> {
        check_key(key)?;
        Ok(Arc::new(S3Upload::start(Arc::clone(&self.shared), key, part_bytes).await?))
    }

    async fn read(&self, key: &str, range: ByteRange, pin: Option<&ETag>) -> Result<ReadAnswer> {
        check_key(key)?;
        range.check(key)?;
        read::read(&self.shared, key, range, pin).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        check_key(key)?;
        self.shared.head(key, self.shared.retry).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        list::page(&self.shared, query).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Removal> {
        for key in keys {
            check_key(key)?;
        }
        let deletions = keys.iter().cloned().map(|key| {
            let shared = Arc::clone(&self.shared);
            async move { shared.delete(&key).await }
        });
        let removals = futures::stream::iter(deletions).buffer_unordered(DELETES_IN_FLIGHT);
        removals.try_fold(Removal::Gone, |worst, removal| async move { Ok(worst.max(removal)) }).await
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        list::pending(&self.shared, prefix).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        check_key(&upload.key)?;
        upload::abort(&self.shared, &upload.key, &upload.id).await
    }

    async fn object_lock(&self) -> Result<ObjectLock> {
        lock::of_bucket(&self.shared).await
    }

    fn presigner(&self) -> Option<&dyn Presign> {
        Some(self)
    }
}
