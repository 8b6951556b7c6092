//! One stream, where a server knows no ranges.
//!
//! A stream that breaks can only begin again at its start. What was given on stays given: the new stream's first bytes
//! are read over and held against the SHA-256 of the old ones, so that nothing of another version follows them.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Result;
use crate::store::http::answer::{Asked, Served, Version};
use crate::store::http::refusal::changed;
use crate::store::http::transport::{Moving, Transport};
use crate::store::retry::Failure;

/// Pieces, of some 100 KB at most, that wait for their reader.
const WAITING_PIECES: usize = 16;

/// The one stream, and what of it was given on.
#[derive(Debug)]
pub(super) struct OneStream {
    transport: Arc<Transport>,
    version: Version,
    object_bytes: u64,
    given_bytes: u64,
    given: Sha256,
}

impl OneStream {
    /// A stream of an object that was of this version, and as large, at the first answer.
    pub(super) fn new(transport: Arc<Transport>, version: Version, object_bytes: u64) -> Self {
        Self { transport, version, object_bytes, given_bytes: 0, given: Sha256::new() }
    }

    /// Gives the object in order; `begun` is an answer that is here already, with the bytes that were read of it.
    pub(super) fn run(self, begun: Option<(Bytes, Moving)>) -> BoxStream<'static, Result<Bytes>> {
        let (to_reader, pieces) = mpsc::channel(WAITING_PIECES);
        // A task of its own: a reader that is busy must not look like a server that stalls.
        let task = AbortOnDropHandle::new(tokio::spawn(self.pour(begun, to_reader)));
        let next = |(mut pieces, task): (mpsc::Receiver<_>, AbortOnDropHandle<()>)| async {
            pieces.recv().await.map(|piece| (piece, (pieces, task)))
        };
        stream::unfold((pieces, task), next).boxed()
    }

    async fn pour(mut self, mut begun: Option<(Bytes, Moving)>, to_reader: mpsc::Sender<Result<Bytes>>) {
        let mut attempts = self.transport.retry.begin();
        loop {
            let done = match begun.take() {
                Some((head, body)) => self.attempt(head, body, &to_reader).await,
                None => match self.begin_again().await {
                    Ok(body) => self.attempt(Bytes::new(), body, &to_reader).await,
                    Err(failure) => Err(failure),
                },
            };
            let Err(failure) = done else { return };
            if let Err(error) = attempts.again(failure).await {
                let _ = to_reader.send(Err(error)).await;
                return;
            }
        }
    }

    async fn begin_again(&self) -> Result<Moving, Failure> {
        let answer = self.transport.ask(None, self.version.etag.as_ref()).await?;
        let asked = Asked { start: 0, len: self.object_bytes };
        let served = answer.head.served(asked).map_err(|error| self.transport.final_error(error))?;
        if served != Served::Whole(self.object_bytes) || !self.version.agrees_with(&answer.head.version()) {
            return Err(Failure::Final(changed(&self.transport.url)));
        }
        Ok(answer.body)
    }

    /// Reads one body from its start to its end, of which `head` is read already, and gives on what was not yet.
    async fn attempt(
        &mut self,
        head: Bytes,
        mut body: Moving,
        to_reader: &mpsc::Sender<Result<Bytes>>,
    ) -> Result<(), Failure> {
        let (given_before, mut again, mut again_bytes) = (self.given_bytes, Sha256::new(), 0);
        let mut next = Some(head);
        while let Some(mut piece) = next {
            let repeated = piece.split_to((given_before - again_bytes).min(piece.len() as u64) as usize);
            if !repeated.is_empty() {
                again.update(&repeated);
                again_bytes += repeated.len() as u64;
                if again_bytes == given_before && again.finalize_reset() != self.given.clone().finalize() {
                    return Err(Failure::Final(changed(&self.transport.url)));
                }
            }
            if !piece.is_empty() {
                self.given.update(&piece);
                self.given_bytes += piece.len() as u64;
                if to_reader.send(Ok(piece)).await.is_err() {
                    return Ok(());
                }
            }
            next = body.next().await.map_err(|error| self.transport.broken(error))?;
        }
        if self.given_bytes == self.object_bytes && again_bytes == given_before {
            return Ok(());
        }
        Err(self.transport.broken(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)))
    }
}
