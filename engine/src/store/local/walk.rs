//! Listing a directory tree in the byte order of full keys, one page at a time.
//!
//! A directory's name counts with its slash, because its keys do: `a-b` sorts before `a/b`. Memory is bounded by
//! the page: of each directory on the way down only the next 1,001 names are held.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::store::listing::{ListDepth, ListPage, ListQuery, PendingUpload};
use crate::store::local::place::{Root, is_hidden, parse_unfinished};
use crate::store::local::read::meta_of;

/// One more than a page, so that a full page knows whether it is the last.
const NAMES_HELD: usize = ListPage::MAX_ENTRIES + 1;

/// One page of keys.
///
/// # Errors
/// `Invalid` where the root is no directory, `Local`.
pub(super) fn list(root: &Root, query: &ListQuery) -> Result<ListPage> {
    check_root(root)?;
    let mut lister = Lister { root, query, page: ListPage::default(), last: String::new() };
    // A full page ends the walk early; that is no news here.
    let _ = lister.walk(folder_of(&query.prefix))?;
    Ok(lister.page)
}

/// Unfinished files whose keys begin with `prefix`, in no order.
///
/// # Errors
/// `Invalid` where the root is no directory, `Local`.
pub(super) fn pending(root: &Root, prefix: &str) -> Result<Vec<PendingUpload>> {
    check_root(root)?;
    let mut found = Vec::new();
    let mut folders = vec![folder_of(prefix).to_owned()];
    while let Some(folder) = folders.pop() {
        each_name(root, &folder, |name, entry| {
            if let Some((id, name)) = parse_unfinished(name) {
                let key = format!("{folder}{name}");
                if let (true, Some(metadata)) = (key.starts_with(prefix), present(entry.metadata(), &entry.path())?) {
                    let id = id.to_owned();
                    found.push(PendingUpload { started: meta_of(String::new(), &metadata).modified, key, id });
                }
            } else if name.ends_with('/') && format!("{folder}{name}").starts_with(prefix) {
                folders.push(format!("{folder}{name}"));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(found)
}

struct Lister<'a> {
    root: &'a Root,
    query: &'a ListQuery,
    page: ListPage,
    /// The last entry of the page, where there is one.
    last: String,
}

enum Entry {
    Object(Metadata),
    Folder,
}

impl Lister<'_> {
    /// Adds what lies in `folder` (empty, or ended by a slash) to the page; breaks off once the page is full.
    fn walk(&mut self, folder: &str) -> Result<ControlFlow<()>> {
        let mut after = String::new();
        loop {
            let names = self.next_names(folder, &after)?;
            for name in &names {
                if self.visit(format!("{folder}{name}"))?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            match names.last() {
                Some(last) if names.len() == NAMES_HELD => after.clone_from(last),
                _ => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    fn visit(&mut self, path: String) -> Result<ControlFlow<()>> {
        if !path.ends_with('/') {
            let file = self.root.file_of(&path);
            return Ok(match present(fs::metadata(&file), &file)? {
                Some(metadata) => self.push(path, Entry::Object(metadata)),
                None => ControlFlow::Continue(()),
            });
        }
        match self.query.depth {
            ListDepth::All => self.walk(&path),
            ListDepth::Folder if holds_object(self.root, &path)? => Ok(self.push(path, Entry::Folder)),
            ListDepth::Folder => Ok(ControlFlow::Continue(())),
        }
    }

    fn push(&mut self, path: String, entry: Entry) -> ControlFlow<()> {
        if self.page.objects.len() + self.page.folders.len() == ListPage::MAX_ENTRIES {
            self.page.next = Some(std::mem::take(&mut self.last));
            return ControlFlow::Break(());
        }
        self.last.clone_from(&path);
        match entry {
            Entry::Object(metadata) => self.page.objects.push(meta_of(path, &metadata)),
            Entry::Folder => self.page.folders.push(path),
        }
        ControlFlow::Continue(())
    }

    /// The smallest names of `folder` after `after` that the query asks for, at most [`NAMES_HELD`].
    fn next_names(&self, folder: &str, after: &str) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        each_name(self.root, folder, |name, _| {
            if name > after && !is_hidden(name) && self.is_asked_for(&format!("{folder}{name}")) {
                names.insert(name.to_owned());
                if names.len() > NAMES_HELD {
                    names.pop_last();
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(names)
    }

    fn is_asked_for(&self, path: &str) -> bool {
        let start_after = self.query.start_after.as_deref().unwrap_or_default();
        let holds_later = self.query.depth == ListDepth::All && path.ends_with('/') && start_after.starts_with(path);
        path.starts_with(&self.query.prefix) && (path > start_after || holds_later)
    }
}

fn check_root(root: &Root) -> Result<()> {
    match fs::metadata(root.path()) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::new(ErrorKind::Invalid, format!("{} is not a directory", root.path().display()))
            .hint("check --store-container")),
        // The first write makes it; until then it holds nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("open", root.path(), error)),
    }
}

/// The part of a prefix up to its last slash.
fn folder_of(prefix: &str) -> &str {
    prefix.rfind('/').map_or("", |slash| &prefix[..=slash])
}

/// Shows every name in `folder`, a directory's with a slash. A folder that has gone has none; names that are not
/// UTF-8 are no keys.
fn each_name(
    root: &Root,
    folder: &str,
    mut show: impl FnMut(&str, &DirEntry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let path = root.file_of(folder);
    let entries = match fs::read_dir(&path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        other => other.map_err(|error| Error::file("list", &path, error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| Error::file("list", &path, error))?;
        let Ok(mut name) = entry.file_name().into_string() else { continue };
        if is_directory(&entry)? {
            name.push('/');
        }
        if show(&name, &entry)?.is_break() {
            break;
        }
    }
    Ok(())
}

fn is_directory(entry: &DirEntry) -> Result<bool> {
    let kind = entry.file_type().map_err(|error| Error::file("stat", &entry.path(), error))?;
    Ok(if kind.is_symlink() { entry.path().is_dir() } else { kind.is_dir() })
}

/// Whether any object lies under `folder`: a folder without one exists in no store.
fn holds_object(root: &Root, folder: &str) -> Result<bool> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut found = false;
        each_name(root, &folder, |name, _| {
            if name.ends_with('/') {
                folders.push(format!("{folder}{name}"));
            } else if !is_hidden(name) {
                found = true;
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `None` for what has gone since its directory was read.
fn present(metadata: io::Result<Metadata>, path: &Path) -> Result<Option<Metadata>> {
    match metadata {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("stat", path, error)),
    }
}
