//! Reading objects that are files.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use bytes::{Bytes, BytesMut};

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::store::local::place::Root;
use crate::store::object::{ByteRange, ETag, ObjectMeta, ReadAnswer};

/// Reads a range of an object, of exactly the version `pin` where it is given.
///
/// # Errors
/// `NotFound`; `Damaged` for another version or an object that ends before the range; `Local`; `Invalid`.
pub(super) fn read(root: &Root, key: &str, range: ByteRange, pin: Option<&ETag>) -> Result<ReadAnswer> {
    let path = root.file_of(key);
    let (file, metadata) = open(root, key, &path)?;
    let etag = etag_of(&metadata);
    if pin.is_some_and(|pin| *pin != etag) {
        return Err(Error::new(ErrorKind::Damaged, format!("{key} changed while it was read"))
            .hint("list the store again and start over"));
    }
    let object_bytes = metadata.len();
    let (start, len) = range.within(key, object_bytes)?;
    let len =
        usize::try_from(len).map_err(|_| Error::new(ErrorKind::Invalid, format!("{key}: range of {len} bytes")))?;
    let mut bytes = BytesMut::zeroed(len);
    file.read_exact_at(&mut bytes, start).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Damaged, format!("{key} became shorter while it was read"))
        }
        _ => Error::file("read", &path, error),
    })?;
    Ok(ReadAnswer { bytes: Bytes::from(bytes), start, object_bytes, etag })
}

/// What the directory knows of one object.
///
/// # Errors
/// `NotFound`, `Local`.
pub(super) fn head(root: &Root, key: &str) -> Result<ObjectMeta> {
    let (_, metadata) = open(root, key, &root.file_of(key))?;
    Ok(meta_of(key.to_owned(), &metadata))
}

/// The values of an object from those of its file.
pub(super) fn meta_of(key: String, metadata: &Metadata) -> ObjectMeta {
    let modified = UnixMillis(metadata.mtime() * 1_000 + metadata.mtime_nsec() / 1_000_000);
    ObjectMeta { key, bytes: metadata.len(), modified, etag: etag_of(metadata) }
}

fn open(root: &Root, key: &str, path: &Path) -> Result<(File, Metadata)> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    match opened {
        Ok((file, metadata)) if metadata.is_file() => Ok((file, metadata)),
        Ok(_) => Err(missing(root, key)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(missing(root, key))
        }
        Err(error) => Err(Error::file("open", path, error)),
    }
}

fn missing(root: &Root, key: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no object {key} in directory {}", root.path().display()))
}

fn etag_of(metadata: &Metadata) -> ETag {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    ETag(format!("\"{:x}-{seconds:x}.{nanos:x}-{:x}\"", metadata.len(), metadata.ino()))
}
