//! Listings of objects and of uploads that are not ended.

use aws_sdk_s3::operation::list_multipart_uploads::ListMultipartUploadsOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::DateTime;

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::store::key::check_prefix;
use crate::store::listing::{ListDepth, ListPage, ListQuery, PendingUpload};
use crate::store::object::{ETag, ObjectMeta};
use crate::store::options::PendingListing;
use crate::store::s3::Shared;
use crate::store::s3::failure::S3Failure;

/// As the SDK wants it; equals `ListPage::MAX_ENTRIES`.
const PAGE_ENTRIES: i32 = 1_000;
/// A store with more unended uploads than this many pages hold, a million, is in another kind of trouble.
const MAX_PENDING_PAGES: usize = 1_000;

/// One page of keys.
///
/// # Errors
/// `NotFound` (no such bucket), `Denied`, `Unavailable`; `Invalid` where the store's answers make no sense.
pub(super) async fn page(shared: &Shared, query: &ListQuery) -> Result<ListPage> {
    check_prefix(&query.prefix)?;
    let delimiter = (query.depth == ListDepth::Folder).then(|| "/".to_owned());
    let start_after = query.start_after.clone().filter(|key| !key.is_empty());
    let mut attempts = shared.retry.begin();
    loop {
        let call = shared.client.list_objects_v2().bucket(&shared.bucket).max_keys(PAGE_ENTRIES);
        let call = call.set_prefix(Some(query.prefix.clone()).filter(|prefix| !prefix.is_empty()));
        match call.set_delimiter(delimiter.clone()).set_start_after(start_after.clone()).send().await {
            Ok(answer) => return page_of(shared, query, &answer),
            Err(error) => {
                attempts.again(S3Failure::new(error).failure(shared.subject("list", &query.prefix))).await?;
            }
        }
    }
}

fn page_of(shared: &Shared, query: &ListQuery, answer: &ListObjectsV2Output) -> Result<ListPage> {
    let after = query.start_after.as_deref().unwrap_or_default();
    let mut page = ListPage::default();
    let mut last = "";
    for object in answer.contents() {
        let (Some(key), Some(bytes), Some(etag)) = (object.key(), object.size(), object.e_tag()) else {
            return Err(shared.unusable("LIST", &query.prefix, "key, size or etag of an object"));
        };
        last = last.max(key);
        // Markers that consoles make for folders are no objects of ours and could not be read.
        if key > after && !key.ends_with('/') {
            let bytes = u64::try_from(bytes).unwrap_or_default();
            let (modified, etag) = (millis(object.last_modified()), ETag(etag.to_owned()));
            page.objects.push(ObjectMeta { key: key.to_owned(), bytes, modified, etag });
        }
    }
    for folder in answer.common_prefixes().iter().filter_map(|folder| folder.prefix()) {
        last = last.max(folder);
        // After `a/`, stores differ on whether the folder `a/` itself comes again.
        if folder > after {
            page.folders.push(folder.to_owned());
        }
    }
    if answer.is_truncated() == Some(true) {
        if last <= after {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{} lists the same keys again and again", shared.described),
            )
            .hint("the store ignores start-after"));
        }
        page.next = Some(last.to_owned());
    }
    Ok(page)
}

/// Uploads under `prefix` that are not ended: all of them, or an error.
///
/// # Errors
/// As [`page`]; `Invalid` where they are more than a million, or where the store does not say where its next page begins.
pub(super) async fn pending(shared: &Shared, prefix: &str) -> Result<Vec<PendingUpload>> {
    check_prefix(prefix)?;
    let found = pending_with(shared, prefix, prefix).await?;
    if found.is_empty() && !prefix.is_empty() && shared.dialect.pending == PendingListing::Sieved {
        return pending_with(shared, "", prefix).await;
    }
    Ok(found)
}

/// Asks for uploads under `asked`, and keeps those under `prefix`.
async fn pending_with(shared: &Shared, asked: &str, prefix: &str) -> Result<Vec<PendingUpload>> {
    let mut found = Vec::new();
    let mut markers = (None, None);
    for _ in 0..MAX_PENDING_PAGES {
        let answer = pending_page(shared, asked, &markers).await?;
        for upload in answer.uploads() {
            if let (Some(key), Some(id)) = (upload.key().filter(|key| key.starts_with(prefix)), upload.upload_id()) {
                let started = millis(upload.initiated());
                found.push(PendingUpload { key: key.to_owned(), id: id.to_owned(), started });
            }
        }
        if answer.is_truncated != Some(true) {
            return Ok(found);
        }
        let next = (answer.next_key_marker, answer.next_upload_id_marker);
        if next.0.is_none() || next == markers {
            return Err(shared.unusable("LIST of uploads", asked, "the beginning of its next page"));
        }
        markers = next;
    }
    let what = format!("{} has more than a million uploads that were never ended", shared.described);
    Err(Error::new(ErrorKind::Invalid, what).hint("have a lifecycle rule of the bucket abort incomplete uploads"))
}

async fn pending_page(
    shared: &Shared,
    prefix: &str,
    (key, id): &(Option<String>, Option<String>),
) -> Result<ListMultipartUploadsOutput> {
    let mut attempts = shared.retry.begin();
    loop {
        let call = shared.client.list_multipart_uploads().bucket(&shared.bucket);
        let call = call.set_prefix(Some(prefix.to_owned()).filter(|prefix| !prefix.is_empty()));
        match call.set_key_marker(key.clone()).set_upload_id_marker(id.clone()).send().await {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                let subject = shared.subject("list uploads under", prefix);
                attempts.again(S3Failure::new(error).failure(subject)).await?;
            }
        }
    }
}

fn millis(time: Option<&DateTime>) -> UnixMillis {
    UnixMillis(time.and_then(|time| time.to_millis().ok()).unwrap_or_default())
}
