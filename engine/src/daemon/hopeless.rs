//! Which failures end a sidecar that has only begun.

use crate::error::{Error, ErrorKind};

/// Whether trying again cannot help before somebody has done something.
pub(super) fn is_hopeless(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Refused | ErrorKind::Key | ErrorKind::Denied)
}
