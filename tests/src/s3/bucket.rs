//! What a bucket holds: objects and uploads on their way, in memory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// When everything was made: the server has no clock.
pub(super) const MODIFIED_XML: &str = "2026-01-02T03:04:05.000Z";
/// The same for headers.
pub(super) const MODIFIED_HTTP: &str = "Fri, 02 Jan 2026 03:04:05 GMT";
/// S3's page.
const PAGE_ENTRIES: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) uploads: BTreeMap<String, Pending>,
    next_upload: u64,
    /// All that listings show, where they lag.
    shown: Option<BTreeSet<String>>,
}

#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) body: Bytes,
    pub(super) etag: String,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) key: String,
    parts: BTreeMap<u32, Object>,
}

/// An S3 error: status, code.
pub(super) type Refusal = (u16, &'static str);

impl Object {
    pub(super) fn new(body: Bytes) -> Self {
        Self { etag: format!("\"{}\"", &hex(&body)[..32]), body }
    }
}

impl Bucket {
    pub(super) fn begin(&mut self, key: &str) -> String {
        self.next_upload += 1;
        let id = format!("upload-{}", self.next_upload);
        self.uploads.insert(id.clone(), Pending { key: key.to_owned(), parts: BTreeMap::new() });
        id
    }

    pub(super) fn put_part(&mut self, key: &str, id: &str, number: u32, body: Bytes) -> Result<String, Refusal> {
        let part = Object::new(body);
        let etag = part.etag.clone();
        self.upload(key, id)?.parts.insert(number, part);
        Ok(etag)
    }

    /// Makes an object of the parts that are named, as S3 does: all must be there, with these etags.
    pub(super) fn complete(&mut self, key: &str, id: &str, parts: &[(u32, String)]) -> Result<String, Refusal> {
        let upload = self.upload(key, id)?;
        let mut body = Vec::new();
        for (number, etag) in parts {
            match upload.parts.get(number) {
                Some(part) if part.etag == *etag => body.extend_from_slice(&part.body),
                _ => return Err((400, "InvalidPart")),
            }
        }
        if parts.is_empty() || parts.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err((400, "InvalidPartOrder"));
        }
        self.uploads.remove(id);
        let object = Object::new(body.into());
        let etag = object.etag.clone();
        self.objects.insert(key.to_owned(), object);
        Ok(etag)
    }

    pub(super) fn abort(&mut self, key: &str, id: &str) -> Result<(), Refusal> {
        self.upload(key, id)?;
        self.uploads.remove(id);
        Ok(())
    }

    fn upload(&mut self, key: &str, id: &str) -> Result<&mut Pending, Refusal> {
        self.uploads.get_mut(id).filter(|upload| upload.key == key).ok_or((404, "NoSuchUpload"))
    }

    /// Listings stand still, or show everything again.
    pub(super) fn lag(&mut self, lagging: bool) {
        self.shown = lagging.then(|| self.objects.keys().cloned().collect());
    }

    /// ListObjectsV2. Like Amazon, and unlike MinIO, a folder comes again after `start-after` names it, as long as
    /// keys in it sort later.
    pub(super) fn list(&self, prefix: &str, delimiter: &str, after: &str) -> String {
        let mut entries: Vec<(String, Option<&Object>)> = Vec::new();
        let mut truncated = false;
        for (key, object) in &self.objects {
            let hidden = self.shown.as_ref().is_some_and(|shown| !shown.contains(key));
            if hidden || key.as_str() <= after || !key.starts_with(prefix) {
                continue;
            }
            let cut = if delimiter.is_empty() { None } else { key[prefix.len()..].find(delimiter) };
            let entry = match cut {
                Some(at) => (key[..prefix.len() + at + delimiter.len()].to_owned(), None),
                None => (key.clone(), Some(object)),
            };
            if entries.last().is_some_and(|last| last.0 == entry.0 && last.1.is_none()) {
                continue;
            }
            if entries.len() == PAGE_ENTRIES {
                truncated = true;
                break;
            }
            entries.push(entry);
        }
        let mut xml = format!("<ListBucketResult><IsTruncated>{truncated}</IsTruncated>");
        for (name, object) in entries {
            let name = escape(&name);
            match object {
                Some(object) => xml.push_str(&format!(
                    "<Contents><Key>{name}</Key><Size>{}</Size><ETag>{}</ETag><LastModified>{MODIFIED_XML}\
                     </LastModified></Contents>",
                    object.body.len(),
                    escape(&object.etag)
                )),
                None => xml.push_str(&format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")),
            }
        }
        xml + "</ListBucketResult>"
    }

    /// ListMultipartUploads, a few on each page, behind the upload `after`.
    pub(super) fn list_uploads(&self, prefix: &str, after: &str) -> String {
        const PAGE: usize = 2;
        let mut found: Vec<_> = self.uploads.iter().filter(|(_, upload)| upload.key.starts_with(prefix)).collect();
        found.retain(|(id, _)| id.as_str() > after);
        let truncated = found.len() > PAGE;
        found.truncate(PAGE);
        let mut xml = format!("<ListMultipartUploadsResult><IsTruncated>{truncated}</IsTruncated>");
        if let (true, Some((id, upload))) = (truncated, found.last()) {
            let key = escape(&upload.key);
            let marker = format!("<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>");
            xml.push_str(&marker);
        }
        for (id, upload) in found {
            let key = escape(&upload.key);
            xml.push_str(&format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{MODIFIED_XML}</Initiated></Upload>"
            ));
        }
        xml + "</ListMultipartUploadsResult>"
    }
}

pub(super) fn hex(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&apos;")
}
