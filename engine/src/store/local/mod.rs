//! A directory as a store: each object one file, made visible by one rename that never replaces anything.
//!
//! What is not whole yet lies beside its destination under a name that listings pass over (`place`). Files are
//! synced before the rename and their directory after it, so that what exists is durable. NFS counts.

mod place;
mod read;
mod upload;
mod walk;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::store::contract::{ObjectStore, Upload};
use crate::store::key::{check_key, check_prefix};
use crate::store::listing::{ListPage, ListQuery, PendingUpload};
use crate::store::object::{ByteRange, ETag, ObjectMeta, ReadAnswer, Removal};

use place::Root;
use upload::LocalUpload;

/// A store in a directory. The directory and those in it are created with mode 0700 at the first write, files with
/// 0600. Nothing is retried: a local failure does not pass.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: Arc<Root>,
}

impl LocalStore {
    /// A store in the directory `path`: an absolute path is absolute, a relative one is relative to the working
    /// directory of now.
    ///
    /// # Errors
    /// `Local` where a relative path is given and there is no working directory.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let path = std::path::absolute(path).map_err(|error| Error::file("locate", path, error))?;
        Ok(Self { root: Arc::new(Root::new(path)) })
    }

    /// Runs file work off the async threads.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Root) -> Result<T> + Send + 'static) -> Result<T> {
        let root = Arc::clone(&self.root);
        off_thread(move || work(&root)).await
    }
}

/// Runs file work off the async threads.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Internal, "a file operation panicked").caused_by(error)),
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    fn describe(&self) -> String {
        format!("directory {}", self.root.path().display())
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        if body.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, format!("{key}: an object is never empty")));
        }
        let upload = LocalUpload::start(Arc::clone(&self.root), key, body.len() as u64).await?;
        upload.put_part(crate::store::object::PartNumber(1), body).await?;
        upload.complete().await
    }

    async fn start_upload(&self, key: &str, part_bytes: u64) -> Result<Arc<dyn Upload>> {
        Ok(Arc::new(LocalUpload::start(Arc::clone(&self.root), key, part_bytes).await?))
    }

    async fn read(&self, key: &str, range: ByteRange, pin: Option<&ETag>) -> Result<ReadAnswer> {
        check_key(key)?;
        let (key, pin) = (key.to_owned(), pin.cloned());
        self.blocking(move |root| read::read(root, &key, range, pin.as_ref())).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta> {
        check_key(key)?;
        let key = key.to_owned();
        self.blocking(move |root| read::head(root, &key)).await
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage> {
        check_prefix(&query.prefix)?;
        let query = query.clone();
        self.blocking(move |root| walk::list(root, &query)).await
    }

    async fn delete(&self, keys: &[String]) -> Result<Removal> {
        for key in keys {
            check_key(key)?;
        }
        let keys = keys.to_vec();
        self.blocking(move |root| root.remove(&keys)).await.map(|()| Removal::Gone)
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        check_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.blocking(move |root| walk::pending(root, &prefix)).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        check_key(&upload.key)?;
        let upload = upload.clone();
        self.blocking(move |root| root.discard(&upload.key, &upload.id)).await
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::conformance::{self, Scale};
    use crate::store::object::PartNumber;

    fn store() -> (tempfile::TempDir, LocalStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(dir.path().join("new/archive")).unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn local_conforms() {
        let (_dir, store) = store();
        conformance::run(&store, "some/prefix", &Scale::small()).await.assert_clean();
    }

    #[tokio::test]
    async fn a_missing_directory_is_empty_until_the_first_write_makes_it() {
        let (_dir, store) = store();
        let query = ListQuery::default();
        assert_eq!(store.list(&query).await.unwrap(), ListPage::default());
        assert_eq!(store.pending_uploads("").await.unwrap(), []);
        assert_eq!(store.head("k").await.unwrap_err().kind(), ErrorKind::NotFound);
        store.delete(&["k".into()]).await.unwrap();
        store.put("a/k", Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(store.list(&query).await.unwrap().objects.len(), 1);
        let mode = |path: &str| std::fs::metadata(store.root.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("a"), mode("a/k")), (0o700, 0o700, 0o600));
    }

    #[tokio::test]
    async fn an_existing_key_is_refused_and_kept() {
        let (_dir, store) = store();
        store.put("k", Bytes::from_static(b"first")).await.unwrap();
        let error = store.put("k", Bytes::from_static(b"second")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        let answer = store.read("k", ByteRange::Suffix(100), None).await.unwrap();
        assert_eq!(&answer.bytes[..], b"first");
        assert!(store.pending_uploads("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_upload_that_is_dropped_leaves_nothing() {
        let (_dir, store) = store();
        let upload = store.start_upload("a/b", 4).await.unwrap();
        upload.put_part(PartNumber(1), Bytes::from_static(b"1234")).await.unwrap();
        assert_eq!(store.pending_uploads("a/").await.unwrap().len(), 1);
        drop(upload);
        assert!(store.pending_uploads("").await.unwrap().is_empty());
        assert_eq!(std::fs::read_dir(store.root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_leftover_of_a_killed_process_is_found_and_removed() {
        let (_dir, store) = store();
        store.put("a/whole", Bytes::from_static(b"x")).await.unwrap();
        std::fs::write(store.root.path().join("a/.etcdbr~0123456789abcdef~half"), b"y").unwrap();
        let found = store.pending_uploads("a/").await.unwrap();
        assert_eq!((found.len(), found[0].key.as_str()), (1, "a/half"));
        assert_eq!(store.list(&ListQuery::default()).await.unwrap().objects.len(), 1);
        store.abort_pending(&found[0]).await.unwrap();
        store.abort_pending(&found[0]).await.unwrap();
        assert!(store.pending_uploads("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn keys_cannot_leave_the_directory() {
        let (_dir, store) = store();
        for key in ["../x", "/etc/passwd", "a/../../x", ".etcdbr~0123456789abcdef~k"] {
            let error = store.put(key, Bytes::from_static(b"x")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{key}");
        }
    }
}
