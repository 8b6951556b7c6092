//! A full as others know snapshots: its image, followed by its SHA-256.

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};

use super::reader::{BackupReader, ReadLimits};
use crate::error::{Error, ErrorKind, Result};
use crate::format::NameKind;
use crate::run::blocking;

/// Bytes of a SHA-256.
const TRAILER_BYTES: u64 = 32;

impl BackupReader {
    /// Bytes of [`snapshot`](Self::snapshot).
    pub fn snapshot_bytes(&self) -> u64 {
        self.footer().plain_bytes + TRAILER_BYTES
    }

    /// The plain snapshot of a full, as `etcdctl snapshot save` writes it: **in the clear**. Its SHA-256 comes last, and
    /// only after it was compared with the footer's; a stream that ends with an error is not a snapshot. Memory is that of
    /// [`chunks`](Self::chunks).
    ///
    /// # Errors
    /// Of the stream: `Invalid` for a delta, which has no image; `Damaged` where the image is not the one that was backed
    /// up; those of the store.
    pub fn snapshot(&self, limits: ReadLimits) -> impl Stream<Item = Result<Bytes>> + Send + use<> {
        let (name, footer) = (*self.name(), self.footer());
        let expected = (footer.plain_bytes, footer.facts.plain_sha256);
        let is_full = matches!(name.kind, NameKind::Full { .. });
        let chunks = is_full.then(|| self.chunks(limits).boxed());
        let begun = Some((chunks, 0, Sha256::new()));
        stream::try_unfold(begun, move |state| async move {
            let Some((chunks, seen_bytes, sha256)) = state else { return Ok(None) };
            let Some(mut chunks) = chunks else {
                return Err(Error::new(ErrorKind::Invalid, format!("{name} is a delta: it has no image")));
            };
            if let Some((chunk, _)) = chunks.try_next().await? {
                let hashed = blocking(move || {
                    let mut sha256 = sha256;
                    sha256.update(&**chunk);
                    Ok((chunk.into_bytes(), sha256))
                });
                let (chunk, sha256) = hashed.await?;
                let seen_bytes = seen_bytes + chunk.len() as u64;
                return Ok(Some((chunk, Some((Some(chunks), seen_bytes, sha256)))));
            }
            let digest: [u8; 32] = sha256.finalize().into();
            if (seen_bytes, digest) != expected {
                let what = format!("{name}: its contents do not have the SHA-256 of its footer");
                return Err(Error::new(ErrorKind::Damaged, what).hint("use another backup"));
            }
            Ok(Some((Bytes::copy_from_slice(&digest), None)))
        })
    }
}
