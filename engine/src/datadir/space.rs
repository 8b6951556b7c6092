//! Whether a file system has the bytes that are going to be written.

use std::path::Path;

use rustix::fs::statvfs;

use super::disk::attempt;
use crate::error::{Error, ErrorKind, Result};

/// Refuses where the file system of `dir` has less than `needed_bytes` to give; `flag` is the one that names it.
///
/// # Errors
/// `Local`, with both numbers.
pub(super) fn check_space(dir: &Path, needed_bytes: u64, flag: &str) -> Result<()> {
    let stat = attempt("look at", dir, || Ok(statvfs(dir)?))?;
    let available = stat.f_bavail.saturating_mul(stat.f_frsize);
    if available >= needed_bytes {
        return Ok(());
    }
    let message = format!(
        "not enough space: {needed_bytes} bytes are needed, the file system of {} has {available}",
        dir.display()
    );
    Err(Error::new(ErrorKind::Local, message).hint(format!("free some space or choose another {flag}")))
}
