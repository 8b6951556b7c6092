//! What the head of an answer means to somebody who asked for a range: pure, so that every answer can be tried.

use http::HeaderMap;
use http::header::{self, HeaderName};

use crate::error::{Error, ErrorKind, Result};
use crate::store::extent::Extent;
use crate::store::object::ETag;

/// The bytes that were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The first byte.
    pub start: u64,
    /// The most bytes; at least 1.
    pub len: u64,
}

/// The head of an answer, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnswerHead {
    /// The status.
    pub status: u16,
    /// `Content-Range`
    pub content_range: Option<String>,
    /// `Content-Length`
    pub content_length: Option<String>,
    /// `Content-Encoding`
    pub content_encoding: Option<String>,
    /// `ETag`
    pub etag: Option<String>,
    /// `Last-Modified`
    pub last_modified: Option<String>,
}

/// What the body of a good answer will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// A range that begins where it was asked to begin, and is at most as long.
    Part(Extent),
    /// The whole object, of so many bytes: the server knows no ranges.
    Whole(u64),
}

/// What tells one version of an object from another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Version {
    /// A strong ETag: equal ones mean equal bytes.
    pub etag: Option<ETag>,
    /// `Last-Modified`, of a second.
    pub last_modified: Option<String>,
}

impl AnswerHead {
    /// Picks it out of an answer. A header that is not text counts as absent.
    pub(super) fn of(status: u16, headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            status,
            content_range: text(header::CONTENT_RANGE),
            content_length: text(header::CONTENT_LENGTH),
            content_encoding: text(header::CONTENT_ENCODING),
            etag: text(header::ETAG),
            last_modified: text(header::LAST_MODIFIED),
        }
    }

    /// What the body of this answer, of status 200 or 206, will be to somebody who asked for `asked`.
    ///
    /// # Errors
    /// `Invalid`, saying what the server did that cannot be used.
    pub fn served(&self, asked: Asked) -> Result<Served> {
        if let Some(coding) = self.content_encoding.as_deref().filter(|coding| !coding.eq_ignore_ascii_case("identity"))
        {
            return Err(unusable(format!("it sends the file encoded ({})", printable(coding)))
                .hint("store and serve the snapshot as it is, without compression"));
        }
        let length = self.content_length.as_deref().map(|text| digits(text).ok_or("no length")).transpose();
        let length = length.map_err(|_| unusable("it sends a content-length that is no number"))?;
        if self.status != 206 {
            return length.map(Served::Whole).ok_or_else(|| {
                unusable("it neither serves ranges nor says how long the file is")
                    .hint("download the file by other means, and give its path")
            });
        }
        let told = self.content_range.as_deref().and_then(Extent::parse_content_range);
        let told = told.ok_or_else(|| unusable("it answers a range without saying which one of how many bytes"))?;
        if told.start != asked.start || told.len > asked.len || length.is_some_and(|length| length != told.len) {
            return Err(unusable(format!(
                "{} bytes from {} were asked for, it sends {} from {}",
                asked.len, asked.start, told.len, told.start
            )));
        }
        Ok(Served::Part(told))
    }

    /// Which version it is of.
    pub fn version(&self) -> Version {
        let strong = |etag: &&String| etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"');
        Version {
            etag: self.etag.as_ref().filter(strong).map(|etag| ETag(etag.clone())),
            last_modified: self.last_modified.clone().filter(|time| !time.is_empty()),
        }
    }
}

impl Version {
    /// Whether `other` can be of the same version. ETags decide where the first answer had one.
    pub fn agrees_with(&self, other: &Self) -> bool {
        match &self.etag {
            Some(_) => self.etag == other.etag,
            None => self.last_modified == other.last_modified,
        }
    }

    /// Whether there is anything to tell versions apart by.
    pub fn is_known(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }
}

fn digits(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A short piece of what a server said, fit for a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(160).collect()
}

fn unusable(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ASKED: Asked = Asked { start: 100, len: 50 };

    fn part(content_range: &str) -> AnswerHead {
        AnswerHead { status: 206, content_range: Some(content_range.to_owned()), ..AnswerHead::default() }
    }

    #[test]
    fn ranges_and_whole_files_are_taken() {
        let whole = AnswerHead { status: 200, content_length: Some("20".to_owned()), ..AnswerHead::default() };
        assert_eq!(whole.served(ASKED).unwrap(), Served::Whole(20));
        for (range, len) in [("bytes 100-149/1000", 50), ("bytes 100-120/1000", 21), ("bytes 100-120/121", 21)] {
            let Served::Part(extent) = part(range).served(ASKED).unwrap() else { panic!("{range}") };
            assert_eq!((extent.start, extent.len), (100, len), "{range}");
        }
    }

    #[test]
    fn answers_that_make_no_sense_are_refused() {
        let with = |change: &dyn Fn(&mut AnswerHead)| {
            let mut head = part("bytes 100-149/1000");
            change(&mut head);
            head
        };
        for head in [
            part("bytes 99-149/1000"),
            part("bytes 101-149/1000"),
            part("bytes 100-150/1000"),
            part("bytes 100-149/*"),
            with(&|head| head.content_range = None),
            with(&|head| head.content_length = Some("49".to_owned())),
            with(&|head| head.content_length = Some("fifty".to_owned())),
            with(&|head| head.content_encoding = Some("gzip".to_owned())),
            AnswerHead { status: 200, ..AnswerHead::default() },
        ] {
            assert_eq!(head.served(ASKED).unwrap_err().kind(), ErrorKind::Invalid, "{head:?}");
        }
        with(&|head| head.content_encoding = Some("Identity".to_owned())).served(ASKED).unwrap();
    }

    #[test]
    fn weak_tags_do_not_tell_versions_apart() {
        let of = |etag: &str, time: Option<&str>| {
            let last_modified = time.map(str::to_owned);
            AnswerHead { etag: Some(etag.to_owned()), last_modified, ..AnswerHead::default() }.version()
        };
        assert!(of("\"a\"", None).is_known() && !of("W/\"a\"", None).is_known() && !of("\"\"", None).is_known());
        assert!(of("\"a\"", Some("then")).agrees_with(&of("\"a\"", Some("later"))));
        assert!(!of("\"a\"", Some("then")).agrees_with(&of("\"b\"", Some("then"))));
        assert!(!of("\"a\"", Some("then")).agrees_with(&of("W/\"a\"", Some("then"))));
        assert!(of("W/\"a\"", Some("then")).agrees_with(&of("W/\"b\"", Some("then"))));
        assert!(!of("W/\"a\"", Some("then")).agrees_with(&of("W/\"a\"", Some("later"))));
    }

    proptest! {
        /// Whatever a server says: what is taken lies inside what was asked for and inside its object.
        #[test]
        fn what_is_taken_was_asked_for(
            status in prop_oneof![Just(200_u16), Just(206)],
            range in proptest::option::of("bytes [0-9]{1,4}-[0-9]{1,4}/[0-9*]{1,4}"),
            length in proptest::option::of("[0-9x]{0,4}"),
            start in 0_u64..300,
            len in 1_u64..300,
        ) {
            let head = AnswerHead { status, content_range: range, content_length: length, ..AnswerHead::default() };
            if let Ok(Served::Part(extent)) = head.served(Asked { start, len }) {
                prop_assert!(extent.start == start && (1..=len).contains(&extent.len));
                prop_assert!(extent.start + extent.len <= extent.object_bytes);
            }
        }
    }
}
