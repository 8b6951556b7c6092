//! A plain snapshot: what it is, its image, and the SHA-256 behind it.
//!
//! # Why nothing is installed that was not checked
//! The size says whether a SHA-256 follows the image (as etcd itself decides it), and without one nothing is read unless
//! the operator asked for that. The image is given on before its SHA-256 is known; [`PlainImage::check`] compares it, and
//! whoever takes the image relies on nothing before that.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;

use super::file::SnapshotFile;
use crate::bbolt;
use crate::error::{Error, ErrorKind, Result};
use crate::run::blocking;
use crate::store::{HttpObject, HttpOptions, Lanes, Location, Transfer};

/// Bytes of a SHA-256.
const TRAILER_BYTES: u64 = 32;
/// Images are whole multiples of this.
const GRAIN_BYTES: u64 = 512;

/// Whether a snapshot must prove itself by its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashCheck {
    /// It must have one, and it must be right.
    #[default]
    Required,
    /// It may have none; where it has one, that must be right.
    WherePresent,
    /// It may have none, and nobody looks at it.
    Skipped,
}

/// What follows the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trailer {
    /// Its SHA-256.
    Sha256,
    /// Nothing: it was copied from a data directory.
    Absent,
}

/// How a snapshot is read.
#[derive(Debug, Clone)]
pub struct PlainOptions {
    /// For URLs.
    pub http: HttpOptions,
    /// For URLs: ranges under way.
    pub lanes: Lanes,
    /// What its SHA-256 is worth.
    pub hash_check: HashCheck,
}

/// A plain snapshot that is there, and begins like one. Nothing of it has been given on.
#[derive(Debug)]
pub struct PlainSnapshot {
    name: String,
    source: Source,
    total_bytes: u64,
    trailer: Trailer,
    hash_check: HashCheck,
}

#[derive(Debug)]
enum Source {
    File(SnapshotFile),
    Url(Box<HttpObject>),
}

impl PlainSnapshot {
    /// Opens the snapshot at `location`: looks at its size and its first bytes.
    ///
    /// # Errors
    /// `Refused` for one without a SHA-256 where one is required, or one that an etcd is running on; `Damaged` for what
    /// is no etcd database, or was cut short; those of the file system, or of the server.
    pub async fn open(location: &Location, options: &PlainOptions) -> Result<Self> {
        match location {
            Location::File(path) => Self::open_file(path, options.hash_check).await,
            Location::Url(url) => {
                let object = HttpObject::open(url.clone(), &options.http, options.lanes).await?;
                let (bytes, head) = (object.object_bytes(), object.head().to_vec());
                Self::recognised(location.to_string(), Source::Url(Box::new(object)), bytes, &head, options.hash_check)
            }
        }
    }

    /// Opens the snapshot at `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_file(path: &Path, hash_check: HashCheck) -> Result<Self> {
        let (name, path) = (Location::File(path.to_owned()).to_string(), path.to_owned());
        let opened = blocking(move || {
            let file = SnapshotFile::open(&path)?;
            let head = file.head()?;
            Ok((file, head))
        });
        let (file, head) = opened.await?;
        let bytes = file.bytes();
        Self::recognised(name, Source::File(file), bytes, &head, hash_check)
    }

    fn recognised(name: String, source: Source, total_bytes: u64, head: &[u8], hash_check: HashCheck) -> Result<Self> {
        recognise(head).map_err(|error| error.about(&name))?;
        let trailer = trailer(total_bytes, hash_check).map_err(|error| error.about(&name))?;
        Ok(Self { name, source, total_bytes, trailer, hash_check })
    }

    /// The file itself, to be mapped; while it is held no etcd can open it. `None` for what comes from a server.
    ///
    /// # Errors
    /// `Refused` where an etcd is running on it; `Local`.
    pub fn file(&self) -> Result<Option<File>> {
        match &self.source {
            Source::File(file) => file.share().map(Some),
            Source::Url(_) => Ok(None),
        }
    }

    /// Its path, or its URL without what is secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the image alone.
    pub fn image_bytes(&self) -> u64 {
        match self.trailer {
            Trailer::Sha256 => self.total_bytes - TRAILER_BYTES,
            Trailer::Absent => self.total_bytes,
        }
    }

    /// What follows the image.
    pub fn trailer(&self) -> Trailer {
        self.trailer
    }

    /// How it will come, where it comes from a server.
    pub fn transfer(&self) -> Option<Transfer> {
        match &self.source {
            Source::File(_) => None,
            Source::Url(object) => Some(object.transfer()),
        }
    }

    /// Its image, to be read.
    pub fn into_image(self) -> PlainImage {
        let image_left = self.image_bytes();
        let pieces = match self.source {
            Source::File(file) => file.into_pieces(),
            Source::Url(object) => object.into_pieces(),
        };
        PlainImage {
            name: self.name,
            pieces,
            image_left,
            sha256: Vec::new(),
            trailer: self.trailer,
            hash_check: self.hash_check,
        }
    }
}

/// The image of a plain snapshot, piece by piece.
pub struct PlainImage {
    name: String,
    pieces: BoxStream<'static, Result<Bytes>>,
    image_left: u64,
    /// What has come of the SHA-256.
    sha256: Vec<u8>,
    trailer: Trailer,
    hash_check: HashCheck,
}

impl PlainImage {
    /// The next bytes of the image; `None` at its end.
    ///
    /// # Errors
    /// `Damaged` where the file changes meanwhile; those of the file system, or of the server.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(mut piece) = self.pieces.try_next().await? {
            let behind = piece.split_off(self.image_left.min(piece.len() as u64) as usize);
            self.sha256.extend_from_slice(&behind);
            self.image_left -= piece.len() as u64;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// Holds the SHA-256 of the image that was given on against the one behind it. Gives what was compared: nothing where
    /// the operator did not want it.
    ///
    /// # Errors
    /// `Damaged` where they differ; `Internal` before the end.
    pub fn check(self, sha256: [u8; 32]) -> Result<HashCheck> {
        if self.image_left > 0 {
            return Err(Error::new(ErrorKind::Internal, format!("{} was not read to its end", self.name)));
        }
        if self.hash_check == HashCheck::Skipped || self.trailer == Trailer::Absent {
            return Ok(HashCheck::Skipped);
        }
        if self.sha256 == sha256 {
            return Ok(HashCheck::Required);
        }
        let what = format!("{}: the SHA-256 at its end is not that of its contents", self.name);
        Err(Error::new(ErrorKind::Damaged, what).hint("fetch or copy it again, or use another snapshot"))
    }
}

impl std::fmt::Debug for PlainImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlainImage({})", self.name)
    }
}

/// Whether a SHA-256 follows the image, by the rule of etcd's own tools.
fn trailer(total_bytes: u64, hash_check: HashCheck) -> Result<Trailer> {
    match (total_bytes % GRAIN_BYTES, hash_check) {
        (TRAILER_BYTES, _) => Ok(Trailer::Sha256),
        (_, HashCheck::Skipped) => Ok(Trailer::Absent),
        (0, HashCheck::WherePresent) => Ok(Trailer::Absent),
        (0, HashCheck::Required) => Err(Error::new(ErrorKind::Refused, "no SHA-256 follows the database").hint(
            "it was not made by `snapshot save`; if it was copied from a data directory, give --skip-hash-check",
        )),
        (_, HashCheck::Required | HashCheck::WherePresent) => {
            let what = format!("it is cut short: {total_bytes} bytes are no whole pages with a SHA-256");
            Err(Error::new(ErrorKind::Damaged, what).hint("fetch or copy it again, or use another snapshot"))
        }
    }
}

/// Refuses what does not begin as a database does: an error page, say, that a server sent as if it were the file.
fn recognise(head: &[u8]) -> Result<()> {
    if bbolt::begins_a_file(head) {
        return Ok(());
    }
    let text = head.trim_ascii_start();
    let (what, hint) = if head.is_empty() {
        ("it is empty", "use another snapshot")
    } else if text.starts_with(b"<") {
        ("it is no etcd database but a page of text (HTML or XML)", "look at what the URL leads to")
    } else if head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        ("it is no etcd database but a compressed file", "decompress it first (gzip -d, zstd -d)")
    } else if head.starts_with(&crate::format::OBJECT_MAGIC) {
        ("it is a backup of etcdbr, not a plain snapshot", "restore it from its archive, with --backup")
    } else {
        ("it is no etcd database", "name a snapshot.db, as `etcdctl snapshot save` or `etcdbr export` writes it")
    };
    Err(Error::new(ErrorKind::Damaged, what).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_rule_says_whether_a_sha256_follows() {
        for bytes in [512 * 64 + 32, 32] {
            assert_eq!(trailer(bytes, HashCheck::Required).unwrap(), Trailer::Sha256);
            assert_eq!(trailer(bytes, HashCheck::WherePresent).unwrap(), Trailer::Sha256);
            assert_eq!(trailer(bytes, HashCheck::Skipped).unwrap(), Trailer::Sha256);
        }
        for (bytes, kind) in
            [(512 * 64, ErrorKind::Refused), (512 * 64 + 31, ErrorKind::Damaged), (7, ErrorKind::Damaged)]
        {
            assert_eq!(trailer(bytes, HashCheck::Required).unwrap_err().kind(), kind);
            assert_eq!(trailer(bytes, HashCheck::Skipped).unwrap(), Trailer::Absent);
            let optional = trailer(bytes, HashCheck::WherePresent);
            assert_eq!(optional.ok(), (bytes == 512 * 64).then_some(Trailer::Absent));
        }
    }

    #[test]
    fn what_is_no_database_is_named() {
        for (head, word) in [
            (b"".as_slice(), "empty"),
            (b"\n  <!DOCTYPE html>", "HTML"),
            (b"<?xml version=\"1.0\"?><Error/>", "XML"),
            (b"\x1f\x8b\x08\0", "compressed"),
            (b"\x28\xb5\x2f\xfd\0", "compressed"),
            (b"\x89ETCDBR\n\x01", "backup of etcdbr"),
            (&[0; 70_000], "no etcd database"),
        ] {
            let error = recognise(head).unwrap_err();
            assert!(error.kind() == ErrorKind::Damaged && error.to_string().contains(word), "{error}");
        }
    }
}
