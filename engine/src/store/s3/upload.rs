//! Multipart uploads.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::sync::RwLock;

use crate::error::{Error, ErrorKind, Result};
use crate::store::contract::Upload;
use crate::store::ledger::{Ledger, Sealed};
use crate::store::object::PartNumber;
use crate::store::retry::RetryPolicy;
use crate::store::s3::client::answer_within;
use crate::store::s3::failure::S3Failure;
use crate::store::s3::list::pending;
use crate::store::s3::{Payload, Shared, length};

/// An upload that the store knows by its id. Dropped without an end, it stays in the store until `pending_uploads`
/// finds it.
#[derive(Debug)]
pub(super) struct S3Upload {
    shared: Arc<Shared>,
    key: String,
    id: String,
    ledger: Ledger<Receipt>,
    /// Parts hold it shared; complete and abort hold it alone, so that no part lands behind an abort.
    state: RwLock<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Completed,
    Aborted,
}

/// An attempt whose answer was lost may have begun an upload of which nobody knows the id: keys are never shared, so all
/// of this key but `ours` are such.
async fn forget_others(shared: &Shared, key: &str, ours: &str) -> Result<()> {
    for other in pending(shared, key).await?.into_iter().filter(|other| other.key == key && other.id != ours) {
        abort(shared, key, &other.id).await?;
    }
    Ok(())
}

/// What completing needs to know of a part.
#[derive(Debug, Clone)]
struct Receipt {
    etag: String,
    /// Where the dialect sends checksums, Amazon wants them repeated.
    crc32: Option<String>,
    crc64_nvme: Option<String>,
}

impl S3Upload {
    pub(super) async fn start(shared: Arc<Shared>, key: &str, part_bytes: u64) -> Result<Self> {
        let ledger = Ledger::new(key, part_bytes)?;
        let mut attempts = shared.retry.begin();
        let mut lost_answers = 0;
        let id = loop {
            match shared.client.create_multipart_upload().bucket(&shared.bucket).key(key).send().await {
                Ok(answer) => break answer.upload_id.ok_or_else(|| shared.unusable("POST", key, "an upload id"))?,
                Err(error) => {
                    attempts.again(S3Failure::new(error).failure(shared.subject("begin", key))).await?;
                    lost_answers += 1;
                }
            }
        };
        if lost_answers > 0 {
            // A store that does not let us list them keeps them for the janitor; the backup goes on.
            let _ = forget_others(&shared, key, &id).await;
        }
        Ok(Self { shared, key: key.to_owned(), id, ledger, state: RwLock::new(State::Open) })
    }

    fn check_open(&self, state: State) -> Result<()> {
        if state == State::Open {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Internal, format!("{}: the upload has ended already", self.key)))
    }

    /// Completes, and where the answer is lost or odd, lets the object itself say whether it is there.
    async fn make_visible(&self, sealed: Sealed<Receipt>) -> Result<()> {
        let total_bytes = sealed.total_bytes;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(completed(sealed))).build();
        let mut attempts = self.shared.retry.begin();
        loop {
            let call = self.shared.client.complete_multipart_upload().bucket(&self.shared.bucket).key(&self.key);
            let call = call.upload_id(&self.id).multipart_upload(parts.clone()).customize();
            let patience = answer_within(self.shared.pace.complete_timeout);
            match call.config_override(Builder::new().timeout_config(patience)).send().await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let failure = S3Failure::new(error);
                    let retry = match failure.is_passing() {
                        // Asked again after the next attempt.
                        true => RetryPolicy { max_attempts: 1, ..self.shared.retry },
                        false => self.shared.retry,
                    };
                    if (failure.is_passing() || failure.is_missing()) && self.is_there(total_bytes, retry).await {
                        return Ok(());
                    }
                    let gone = failure.is_missing();
                    let failure = failure.failure(self.shared.subject("complete", &self.key));
                    attempts.again(failure).await.map_err(|error| if gone { self.gone(error) } else { error })?;
                }
            }
        }
    }

    /// Keys are never reused: an object of our key and size is ours. Not being able to tell counts as no.
    async fn is_there(&self, total_bytes: u64, retry: RetryPolicy) -> bool {
        matches!(self.shared.head(&self.key, retry).await, Ok(meta) if meta.bytes == total_bytes)
    }

    fn gone(&self, cause: Error) -> Error {
        let message = format!("cannot complete {} in {}: its upload is gone", self.key, self.shared.described);
        Error::new(ErrorKind::Unavailable, message)
            .hint("somebody or a lifecycle rule aborted it: start again")
            .caused_by(cause)
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn put_part(&self, number: PartNumber, body: Bytes) -> Result<()> {
        let state = self.state.read().await;
        self.check_open(*state)?;
        let bytes = body.len() as u64;
        self.ledger.offset_bytes(&self.key, number, bytes)?;
        let Shared { client, bucket, payload, retry, .. } = &*self.shared;
        let mut attempts = retry.begin();
        loop {
            // `body` is kept until it is acknowledged: a retry sends the same bytes.
            let call = client.upload_part().bucket(bucket).key(&self.key).upload_id(&self.id);
            let call = call.part_number(i32::try_from(number.0).unwrap_or(i32::MAX)).content_length(length(&body));
            let call = call.body(ByteStream::from(body.clone())).customize();
            let call = if *payload == Payload::Tls { call.disable_payload_signing() } else { call };
            let failure = match call.send().await {
                Ok(answer) => {
                    let etag = answer.e_tag.ok_or_else(|| self.shared.unusable("PUT", &self.key, "an etag"))?;
                    let (crc32, crc64_nvme) = (answer.checksum_crc32, answer.checksum_crc64_nvme);
                    self.ledger.note(number, bytes, Receipt { etag, crc32, crc64_nvme });
                    return Ok(());
                }
                Err(error) => S3Failure::new(error),
            };
            let gone = failure.is_missing();
            let failure = failure.failure(self.shared.subject("write a part of", &self.key));
            attempts.again(failure).await.map_err(|error| if gone { self.gone(error) } else { error })?;
        }
    }

    async fn complete(&self) -> Result<()> {
        let mut state = self.state.write().await;
        self.check_open(*state)?;
        self.make_visible(self.ledger.seal(&self.key)?).await?;
        *state = State::Completed;
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        let mut state = self.state.write().await;
        if *state == State::Open {
            abort(&self.shared, &self.key, &self.id).await?;
            *state = State::Aborted;
        }
        Ok(())
    }
}

/// Removes an upload and its parts; one that is not there is no error.
///
/// # Errors
/// `Denied`, `Unavailable`; `NotFound` for a missing bucket.
pub(super) async fn abort(shared: &Shared, key: &str, id: &str) -> Result<()> {
    let mut attempts = shared.retry.begin();
    loop {
        let answer = shared.client.abort_multipart_upload().bucket(&shared.bucket).key(key).upload_id(id).send().await;
        let Err(error) = answer else { return Ok(()) };
        let failure = S3Failure::new(error);
        if failure.is_missing() {
            return Ok(());
        }
        attempts.again(failure.failure(shared.subject("abort the upload of", key))).await?;
    }
}

fn completed(sealed: Sealed<Receipt>) -> Vec<CompletedPart> {
    let part = |(number, receipt): (PartNumber, Receipt)| {
        CompletedPart::builder()
            .part_number(i32::try_from(number.0).unwrap_or(i32::MAX))
            .e_tag(receipt.etag)
            .set_checksum_crc32(receipt.crc32)
            .set_checksum_crc64_nvme(receipt.crc64_nvme)
            .build()
    };
    sealed.parts.into_iter().map(part).collect()
}
