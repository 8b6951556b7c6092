//! Ranged reads that give all that was asked for, of one version, or fail.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::BytesMut;

use crate::error::{Error, ErrorKind, Result};
use crate::store::extent::Extent;
use crate::store::object::{ByteRange, ETag, ReadAnswer};
use crate::store::retry::Failure;
use crate::store::s3::Shared;
use crate::store::s3::failure::S3Failure;

/// Reads a range of an object, of exactly the version `pin` where it is given. A body that breaks goes on at the
/// byte where it broke, of the version that it began with.
///
/// # Errors
/// `NotFound`, `Denied`, `Unavailable`; `Damaged` for another version or an object that ends before the range;
/// `Invalid` where the store's answers make no sense.
pub(super) async fn read(shared: &Shared, key: &str, range: ByteRange, pin: Option<&ETag>) -> Result<ReadAnswer> {
    let mut reading = Reading { shared, key, range, etag: pin.cloned(), extent: None, bytes: BytesMut::new() };
    let mut attempts = shared.retry.begin();
    loop {
        match reading.attempt().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => attempts.again(failure).await?,
        }
    }
}

/// One read and what its attempts have got so far.
struct Reading<'a> {
    shared: &'a Shared,
    key: &'a str,
    range: ByteRange,
    /// The version that was asked for or that the first attempt began with.
    etag: Option<ETag>,
    /// Known from the first answer on.
    extent: Option<Extent>,
    bytes: BytesMut,
}

impl Reading<'_> {
    async fn attempt(&mut self) -> Result<ReadAnswer, Failure> {
        let call = self.shared.client.get_object().bucket(&self.shared.bucket).key(self.key);
        let pin = self.etag.as_ref().map(|etag| etag.0.clone());
        let answer = call.range(self.range_header()).set_if_match(pin).send().await;
        let answer = answer.map_err(|error| S3Failure::new(error).failure(self.shared.subject("read", self.key)))?;
        let (extent, etag) = self.check(&answer).map_err(Failure::Final)?;
        self.fill(answer, extent).await?;
        let (start, object_bytes) = (extent.start, extent.object_bytes);
        Ok(ReadAnswer { bytes: std::mem::take(&mut self.bytes).freeze(), start, object_bytes, etag })
    }

    /// What is still missing, as a Range header.
    fn range_header(&self) -> String {
        let got = self.bytes.len() as u64;
        match (self.extent, self.range) {
            (Some(extent), _) => format!("bytes={}-{}", extent.start + got, extent.start + extent.len - 1),
            (None, ByteRange::Exact { start, len }) => format!("bytes={start}-{}", start.saturating_add(len - 1)),
            (None, ByteRange::Suffix(len)) => format!("bytes=-{len}"),
        }
    }

    /// Holds the answer's head against what was asked for and what is known already.
    fn check(&mut self, answer: &GetObjectOutput) -> Result<(Extent, ETag)> {
        let unusable = |what| self.shared.unusable("GET", self.key, what);
        let etag = ETag(answer.e_tag().ok_or_else(|| unusable("an etag"))?.to_owned());
        if self.etag.as_ref().is_some_and(|known| *known != etag) {
            return Err(self.changed());
        }
        let told = match answer.content_range() {
            Some(text) => {
                Extent::parse_content_range(text).ok_or_else(|| unusable("a content-range that can be read"))?
            }
            // The whole object: fine where the whole was asked for.
            None => {
                let whole = answer.content_length().and_then(|bytes| u64::try_from(bytes).ok());
                let len = whole.ok_or_else(|| unusable("a content-length"))?;
                Extent { start: 0, len, object_bytes: len }
            }
        };
        let extent = match self.extent {
            Some(extent) if extent.object_bytes != told.object_bytes => return Err(self.changed()),
            Some(extent) => extent,
            None => {
                let (start, len) = self.range.within(self.key, told.object_bytes)?;
                Extent { start, len, object_bytes: told.object_bytes }
            }
        };
        let got = self.bytes.len() as u64;
        let missing = Extent { start: extent.start + got, len: extent.len - got, ..extent };
        if told != missing {
            return Err(unusable(&format!("the range: {missing:?} is missing, {told:?} came")));
        }
        (self.etag, self.extent) = (Some(etag.clone()), Some(extent));
        Ok((extent, etag))
    }

    /// Takes the body. What has come stays, whatever happens next.
    async fn fill(&mut self, answer: GetObjectOutput, extent: Extent) -> Result<(), Failure> {
        let want = usize::try_from(extent.len).map_err(|_| {
            Failure::Final(Error::new(ErrorKind::Invalid, format!("{}: a range of {} bytes", self.key, extent.len)))
        })?;
        self.bytes.reserve(want - self.bytes.len());
        let mut body = answer.body;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| self.broken(want).caused_by(error)).map_err(Failure::Passing)?;
            if piece.len() > want - self.bytes.len() {
                return Err(Failure::Final(self.shared.unusable(
                    "GET",
                    self.key,
                    "an end: more bytes than announced came",
                )));
            }
            self.bytes.extend_from_slice(&piece);
        }
        if self.bytes.len() == want { Ok(()) } else { Err(Failure::Passing(self.broken(want))) }
    }

    fn broken(&self, want: usize) -> Error {
        let (key, store, got) = (self.key, &self.shared.described, self.bytes.len());
        Error::new(ErrorKind::Unavailable, format!("{key} in {store} broke off after {got} of {want} bytes"))
    }

    fn changed(&self) -> Error {
        let message = format!("{} in {} changed while it was read", self.key, self.shared.described);
        Error::new(ErrorKind::Damaged, message).hint("list the store again and start over")
    }
}
