//! One object behind an http(s) URL, presigned or public: read-only, and without credentials.
//!
//! The first request asks for a first range: its answer tells size and version, for HEAD is refused where a GET was
//! signed. Then ranges are fetched in parallel and given in order, each pinned to that version, each asked for again
//! at the byte where it broke. A server that knows no ranges is read in one stream.
//!
//! Invariant: pieces of two versions are never put together as far as the server lets them be told apart, and what the
//! URL's query holds is never shown.

mod answer;
mod ranges;
mod refusal;
mod stream;
mod transport;
mod url;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;

use crate::error::Result;
use crate::store::extent::Extent;
use crate::store::retry::Failure;

use ranges::RangeReading;
use stream::OneStream;
use transport::{Answer, Moving, Transport};

pub use answer::{AnswerHead, Asked, Served, Version};
pub use transport::HttpOptions;
pub use url::{Location, SourceUrl};

/// Of a file that comes in one stream so much is read to see what it is.
const HEAD_BYTES: usize = 64 << 10;

/// How much is under way at once: memory is one times the other, and one range more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Bytes of a range, at least 1.
    pub range_bytes: u64,
    /// Ranges under way, or waiting for their turn.
    pub parallel: usize,
}

/// How an object will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// In parallel ranges of one version.
    Ranges,
    /// In one stream, because the server knows no ranges or says nothing of versions.
    OneStream,
}

/// An object that has been asked for once: there, of known size, with its first bytes at hand.
#[derive(Debug)]
pub struct HttpObject {
    transport: Arc<Transport>,
    lanes: Lanes,
    object_bytes: u64,
    version: Version,
    head: Bytes,
    /// The rest of the one stream, where the server knows no ranges.
    rest: Option<Moving>,
}

impl HttpObject {
    /// Asks for the first range of the object.
    ///
    /// # Errors
    /// `Denied`, saying when an expired URL ended; `NotFound`; `Unavailable` where retries are used up; `Damaged` for an
    /// empty file; `Refused` for a redirect that gives up TLS; `Invalid` where the server's answers make no sense. All
    /// name the URL without its query.
    pub async fn open(url: SourceUrl, options: &HttpOptions, lanes: Lanes) -> Result<Self> {
        let lanes = Lanes { range_bytes: lanes.range_bytes.max(1), parallel: lanes.parallel.max(1) };
        let transport = Arc::new(Transport::new(url, options)?);
        let mut attempts = transport.retry.begin();
        loop {
            match Self::begin(&transport, lanes).await {
                Ok(object) => return Ok(object),
                Err(failure) => attempts.again(failure).await?,
            }
        }
    }

    async fn begin(transport: &Arc<Transport>, lanes: Lanes) -> Result<Self, Failure> {
        let range = format!("bytes=0-{}", lanes.range_bytes - 1);
        let Answer { head, body } = transport.ask(Some(&range), None).await?;
        let asked = Asked { start: 0, len: lanes.range_bytes };
        let served = head.served(asked).map_err(|error| transport.final_error(error))?;
        let version = head.version();
        let (object_bytes, head, rest) = match served {
            Served::Part(extent) => {
                let first = Extent { len: lanes.range_bytes.min(extent.object_bytes), ..extent };
                let reading = RangeReading::new(transport.clone(), version.clone(), first);
                // It retries by itself.
                let head = reading.run(Some((body, extent.len))).await.map_err(Failure::Final)?;
                (extent.object_bytes, head, None)
            }
            Served::Whole(object_bytes) => {
                let (head, rest) = first_bytes(transport, body, object_bytes).await?;
                (object_bytes, head, Some(rest))
            }
        };
        Ok(Self { transport: transport.clone(), lanes, object_bytes, version, head, rest })
    }

    /// Bytes of the object.
    pub fn object_bytes(&self) -> u64 {
        self.object_bytes
    }

    /// Its first bytes: 64 KiB or more, where it has so many.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// How the rest will come.
    pub fn transfer(&self) -> Transfer {
        // Ranges of what nothing tells apart could be of two versions.
        if self.rest.is_none() && self.version.is_known() { Transfer::Ranges } else { Transfer::OneStream }
    }

    /// All bytes of the object, in order.
    ///
    /// # Errors
    /// Of the stream: as those of [`open`](Self::open); `Damaged` where the object changed meanwhile.
    pub fn into_pieces(self) -> BoxStream<'static, Result<Bytes>> {
        match self.transfer() {
            Transfer::Ranges => {
                ranges::in_order(self.transport, self.version, self.object_bytes, self.head, self.lanes)
            }
            Transfer::OneStream => {
                let begun = self.rest.map(|rest| (self.head, rest));
                OneStream::new(self.transport, self.version, self.object_bytes).run(begun)
            }
        }
    }
}

/// The first bytes of a body that holds the whole object.
async fn first_bytes(transport: &Transport, mut body: Moving, object_bytes: u64) -> Result<(Bytes, Moving), Failure> {
    let mut head = BytesMut::new();
    while head.len() < HEAD_BYTES && (head.len() as u64) < object_bytes {
        match body.next().await {
            Ok(Some(piece)) => head.extend_from_slice(&piece),
            Ok(None) => return Err(transport.broken(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
            Err(error) => return Err(transport.broken(error)),
        }
    }
    Ok((head.freeze(), body))
}
