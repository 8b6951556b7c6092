//! The door through which this room works on a file system: one operation at a time, and its error names the path.
//!
//! In tests every operation can be made to fail by its number, and all of them are written down in order ([`trouble`]).

use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// Runs one operation on `path`.
///
/// # Errors
/// `Local`, with `action` and `path`.
pub(super) fn attempt<T>(action: &'static str, path: &Path, work: impl FnOnce() -> io::Result<T>) -> Result<T> {
    operation(action, path, work).map_err(|error| Error::file(action, path, error))
}

/// Runs one operation on `path`, for callers that judge its error themselves.
pub(super) fn operation<T>(
    #[cfg_attr(not(test), expect(unused_variables, reason = "written down in tests"))] action: &'static str,
    #[cfg_attr(not(test), expect(unused_variables, reason = "written down in tests"))] path: &Path,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    #[cfg(test)]
    trouble::pass(action, path)?;
    work()
}

/// Makes what `path` names durable; in a test with planned failures it is only written down.
pub(super) fn sync(path: &Path, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    operation("sync", path, || {
        #[cfg(test)]
        if trouble::is_planned() {
            return Ok(());
        }
        work()
    })
}

/// Planned failures, for the thread of a test.
#[cfg(test)]
pub(super) mod trouble {
    use std::cell::RefCell;
    use std::io;
    use std::path::{Path, PathBuf};

    /// How long the file system fails.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in super::super) enum Reach {
        /// One operation.
        Once,
        /// Every operation from then on.
        FromThenOn,
    }

    struct Plan {
        nth: usize,
        reach: Reach,
        kind: io::ErrorKind,
        done: Vec<(&'static str, PathBuf)>,
    }

    thread_local! {
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    /// Runs `work` while the `nth` operation of this thread (1: the first) fails with `kind`; what it was, and every
    /// operation that was tried, in order.
    pub(in super::super) fn during<T>(
        nth: usize,
        reach: Reach,
        kind: io::ErrorKind,
        work: impl FnOnce() -> T,
    ) -> (T, Vec<(&'static str, PathBuf)>) {
        PLAN.set(Some(Plan { nth, reach, kind, done: Vec::new() }));
        let outcome = work();
        (outcome, PLAN.take().map(|plan| plan.done).unwrap_or_default())
    }

    pub(super) fn is_planned() -> bool {
        PLAN.with_borrow(Option::is_some)
    }

    pub(super) fn pass(action: &'static str, path: &Path) -> io::Result<()> {
        PLAN.with_borrow_mut(|plan| {
            let Some(plan) = plan else { return Ok(()) };
            plan.done.push((action, path.to_owned()));
            let number = plan.done.len();
            let struck = number == plan.nth || (number > plan.nth && plan.reach == Reach::FromThenOn);
            if struck { Err(plan.kind.into()) } else { Ok(()) }
        })
    }
}
