//! Ranges of one version: fetched in parallel, given in order, each of them whole or an error.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::store::extent::Extent;
use crate::store::http::Lanes;
use crate::store::http::answer::{Asked, Served, Version};
use crate::store::http::refusal::changed;
use crate::store::http::transport::{Moving, Transport};
use crate::store::retry::Failure;

/// A server may answer with less than it was asked for, but not with less than this: it would never end.
const MIN_ANSWER_BYTES: u64 = 64 << 10;

/// The object in order: `first`, which is here already, and ranges of the rest.
pub(super) fn in_order(
    transport: Arc<Transport>,
    version: Version,
    object_bytes: u64,
    first: Bytes,
    lanes: Lanes,
) -> BoxStream<'static, Result<Bytes>> {
    let mut start = first.len() as u64;
    let rest = std::iter::from_fn(move || {
        let len = lanes.range_bytes.min(object_bytes - start);
        let extent = Extent { start, len, object_bytes };
        start += len;
        Some(extent).filter(|extent| extent.len > 0)
    });
    let rest = stream::iter(rest)
        .map(move |extent| {
            // A task of its own goes on while the reader of this stream is busy.
            let reading = RangeReading::new(transport.clone(), version.clone(), extent).run(None);
            AbortOnDropHandle::new(tokio::spawn(reading))
        })
        .buffered(lanes.parallel)
        .map(|ended| {
            ended.map_err(|error| {
                Error::new(ErrorKind::Internal, "a task of the download ended by itself").caused_by(error)
            })
        })
        .map(|ended| ended.and_then(|read| read));
    stream::iter([Ok(first)]).chain(rest).try_filter(|piece| std::future::ready(!piece.is_empty())).boxed()
}

/// One range, and what its attempts have got so far.
#[derive(Debug)]
pub(super) struct RangeReading {
    transport: Arc<Transport>,
    version: Version,
    extent: Extent,
    got: BytesMut,
}

impl RangeReading {
    /// A reading of `extent` of an object that was of this version, and as large, at the first answer.
    pub(super) fn new(transport: Arc<Transport>, version: Version, extent: Extent) -> Self {
        Self { transport, version, extent, got: BytesMut::new() }
    }

    /// Reads all of it; `begun` is an answer that is here already, and the bytes that it promises.
    ///
    /// # Errors
    /// `Damaged` where the object is another one now, and those of the server.
    pub(super) async fn run(mut self, mut begun: Option<(Moving, u64)>) -> Result<Bytes> {
        let mut attempts = self.transport.retry.begin();
        while self.missing() > 0 {
            let done = match begun.take() {
                Some((body, len)) => self.fill(body, len).await,
                None => self.attempt().await,
            };
            if let Err(failure) = done {
                attempts.again(failure).await?;
            }
        }
        Ok(self.got.freeze())
    }

    fn missing(&self) -> u64 {
        self.extent.len - self.got.len() as u64
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        let asked = Asked { start: self.extent.start + self.got.len() as u64, len: self.missing() };
        let range = format!("bytes={}-{}", asked.start, asked.start + asked.len - 1);
        let answer = self.transport.ask(Some(&range), self.version.etag.as_ref()).await?;
        let served = answer.head.served(asked).map_err(|error| self.transport.final_error(error))?;
        let Served::Part(told) = served else {
            let error = Error::new(ErrorKind::Unavailable, "it served ranges before, and does not now");
            return Err(Failure::Passing(error.about(&self.transport.url).hint("try again")));
        };
        if told.object_bytes != self.extent.object_bytes || !self.version.agrees_with(&answer.head.version()) {
            return Err(Failure::Final(changed(&self.transport.url)));
        }
        if told.len < asked.len.min(MIN_ANSWER_BYTES) {
            let what = format!("{} bytes were asked for, it sends only {}", asked.len, told.len);
            return Err(self.transport.final_error(Error::new(ErrorKind::Invalid, what)));
        }
        self.fill(answer.body, told.len).await
    }

    /// Takes a body that promises `len` bytes. What has come stays, whatever happens next.
    async fn fill(&mut self, mut body: Moving, len: u64) -> Result<(), Failure> {
        self.got.reserve(usize::try_from(self.missing()).unwrap_or_default());
        let mut left = len;
        while let Some(piece) = body.next().await.map_err(|error| self.transport.broken(error))? {
            left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
                let error = Error::new(ErrorKind::Invalid, "it sends more bytes than it announced");
                self.transport.final_error(error)
            })?;
            self.got.extend_from_slice(&piece);
        }
        if left == 0 {
            return Ok(());
        }
        Err(self.transport.broken(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)))
    }
}
