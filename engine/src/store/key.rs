//! Which keys and prefixes a store takes. The same rules for every store, so that an archive can be copied.

use crate::error::{Error, ErrorKind, Result};

/// S3's limit, bytes.
const MAX_KEY_BYTES: usize = 1_024;

/// Checks the key of one object: not empty, at most 1,024 bytes, no leading or trailing `/`, no empty, `.` or `..`
/// segment, no control characters (XML listings cannot carry them).
///
/// # Errors
/// `Invalid`, naming the key.
pub(super) fn check_key(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "an object's key is empty"));
    }
    for segment in key.split('/') {
        check_segment(key, segment)?;
    }
    check_text(key)
}

/// Checks a prefix: as a key, but empty or ended by `/` or in the middle of a segment is fine.
///
/// # Errors
/// `Invalid`, naming the prefix.
pub(super) fn check_prefix(prefix: &str) -> Result<()> {
    let folders = prefix.rsplit_once('/').map_or("", |(folders, _)| folders);
    if prefix.contains('/') {
        for segment in folders.split('/') {
            check_segment(prefix, segment)?;
        }
    }
    check_text(prefix)
}

fn check_segment(key: &str, segment: &str) -> Result<()> {
    match segment {
        "" => Err(bad(key, "has an empty segment (a leading, trailing or doubled '/')")),
        "." | ".." => Err(bad(key, "has a '.' or '..' segment")),
        _ => Ok(()),
    }
}

fn check_text(key: &str) -> Result<()> {
    if key.len() > MAX_KEY_BYTES {
        return Err(bad(key, "is longer than 1024 bytes"));
    }
    if key.chars().any(char::is_control) {
        return Err(bad(key, "has a control character"));
    }
    Ok(())
}

fn bad(key: &str, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("the key {key:?} {why}")).hint("correct the store prefix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_leave_their_place_are_refused() {
        for key in ["", "/a", "a/", "a//b", "a/../b", "..", "./a", "a\0b", "a\nb", &"k".repeat(1_025)] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        for key in ["a", "a/b", "a..b/.c", "ключ/+ &", "...", &"k".repeat(1_024)] {
            check_key(key).unwrap();
        }
    }

    #[test]
    fn prefixes_may_end_anywhere() {
        for prefix in ["", "a", "a/", "a/b", "a/b/"] {
            check_prefix(prefix).unwrap();
        }
        for prefix in ["/", "/a", "../", "a//", "a/../b"] {
            assert!(check_prefix(prefix).is_err(), "{prefix:?}");
        }
    }
}
