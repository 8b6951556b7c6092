//! The URL of an object whose query is a secret, and what it says about its own end.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};

/// An http or https URL. Its query (a signature) and whatever follows are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceUrl(Url);

/// What a text that begins with a scheme leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A server.
    Url(SourceUrl),
    /// A file of this machine.
    File(PathBuf),
}

impl Location {
    /// A path, a `file://` URL, or an `http(s)://` URL.
    ///
    /// # Errors
    /// `Invalid` for another scheme, a URL without a host or with a user in it, and what is no URL.
    pub fn parse(text: &str) -> Result<Self> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            _ if text.is_empty() => Err(Error::new(ErrorKind::Invalid, "the snapshot's place is empty")),
            Some("http" | "https") => Ok(Self::Url(SourceUrl::parse(text)?)),
            Some("file") => {
                let path = Url::parse(text).ok().and_then(|url| url.to_file_path().ok());
                path.map(Self::File).ok_or_else(|| {
                    Error::new(ErrorKind::Invalid, "the file:// URL leads to no file of this machine")
                        .hint("write it as file:///path")
                })
            }
            Some(scheme) if scheme.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c)) => {
                Err(Error::new(ErrorKind::Invalid, format!("a snapshot cannot be read by {scheme}://"))
                    .hint("give a file, or an http(s):// URL; `aws s3 presign` or `etcdbr presign` make one"))
            }
            // A slip of the pen must not show a signature as if it were part of a file's name.
            _ if looks_signed(text) => {
                Err(Error::new(ErrorKind::Invalid, "it looks like a URL, but does not begin with http:// or https://")
                    .hint("give the URL whole"))
            }
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl SourceUrl {
    /// Reads a URL; its fragment is dropped.
    ///
    /// # Errors
    /// `Invalid` for what is no http(s) URL, has no host or holds a user; none of it is shown.
    pub fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text.trim())
            .map_err(|error| Error::new(ErrorKind::Invalid, "the URL cannot be read").caused_by(error))?;
        Self::checked(url)
    }

    /// Where a redirect from here leads.
    ///
    /// # Errors
    /// `Invalid` for what is no such URL; `Refused` where TLS would be given up.
    pub(super) fn redirected(&self, location: &str) -> Result<Self> {
        let joined = self.0.join(location);
        let next = joined.map_err(|error| Error::new(ErrorKind::Invalid, "it redirects to no URL").caused_by(error))?;
        let next = Self::checked(next).map_err(|error| error.about("it redirects to what cannot be followed"))?;
        if self.0.scheme() == "https" && next.0.scheme() != "https" {
            return Err(Error::new(ErrorKind::Refused, format!("it redirects from https to {next}"))
                .hint("without TLS anybody on the way could put another database in its place"));
        }
        Ok(next)
    }

    fn checked(mut url: Url) -> Result<Self> {
        let invalid = |what| Err(Error::new(ErrorKind::Invalid, what));
        if !matches!(url.scheme(), "http" | "https") {
            return invalid("the URL is neither http nor https");
        }
        if url.host().is_none() {
            return invalid("the URL names no host");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::new(ErrorKind::Invalid, "the URL holds a user or a password")
                .hint("give a presigned URL: nothing but the URL is sent"));
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// The whole URL, as the server wants it.
    pub(super) fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// When its signature ends, where it says so: those of Amazon (V4 and V2), Google and Azure.
    pub fn expires(&self) -> Option<UnixMillis> {
        let value = |name: &str| {
            let found = self.0.query_pairs().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.into_owned())
        };
        let from_start = |date: &str, seconds: &str| {
            let start = compact_time(&value(date)?)?;
            let seconds: i64 = value(seconds)?.parse().ok()?;
            Some(UnixMillis(start.checked_add(seconds.checked_mul(1_000)?)?))
        };
        let at_second = || {
            value("Signature")?;
            Some(UnixMillis(value("Expires")?.parse::<i64>().ok()?.checked_mul(1_000)?))
        };
        let of_azure = || {
            value("sig")?;
            time(&value("se")?)
        };
        from_start("X-Amz-Date", "X-Amz-Expires")
            .or_else(|| from_start("X-Goog-Date", "X-Goog-Expires"))
            .or_else(at_second)
            .or_else(of_azure)
    }

    /// Whether a signature of a kind that is known is in it.
    pub(super) fn is_signed(&self) -> bool {
        let signatures = ["X-Amz-Signature", "X-Goog-Signature", "Signature", "sig"];
        self.0.query_pairs().any(|(key, _)| signatures.iter().any(|known| key.eq_ignore_ascii_case(known)))
    }

    /// `text` without anything that the query of this URL holds, for texts that a server sent.
    pub(super) fn censor(&self, text: &str) -> String {
        let secret = |value: &str| value.len() >= 8 && text.contains(value);
        let query = self.0.query().unwrap_or_default();
        let repeats = self.0.query_pairs().any(|(_, value)| secret(&value)) || secret(query);
        if repeats { "(it repeats parts of the URL)".to_owned() } else { text.to_owned() }
    }
}

impl fmt::Display for SourceUrl {
    /// Without its query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.as_str();
        match text.split_once('?') {
            Some((start, _)) => write!(f, "{start}?…"),
            None => f.write_str(text),
        }
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a query with a signature is in `text`.
fn looks_signed(text: &str) -> bool {
    text.split_once('?').is_some_and(|(_, query)| query.contains("Signature=") || query.contains("sig="))
}

/// `20260102T030405Z`, in milliseconds.
fn compact_time(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", text).ok()?.to_datetime().ok()?;
    Some(parsed.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// RFC 3339.
pub(super) fn time(text: &str) -> Option<UnixMillis> {
    text.parse::<jiff::Timestamp>().ok().map(|time| UnixMillis(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "https://host/b/k.db?X-Amz-Date=20260102T030405Z&X-Amz-Expires=60&X-Amz-Signature=0123456789";

    #[test]
    fn places_are_told_apart() {
        assert_eq!(Location::parse("/a/b.db").unwrap(), Location::File("/a/b.db".into()));
        assert_eq!(Location::parse("b.db").unwrap(), Location::File("b.db".into()));
        assert_eq!(Location::parse("file:///a/b%20c.db").unwrap(), Location::File("/a/b c.db".into()));
        assert_eq!(Location::parse("file://localhost/a").unwrap(), Location::File("/a".into()));
        assert!(matches!(Location::parse("HTTPS://host/k").unwrap(), Location::Url(_)));
        for bad in [
            "",
            "s3://bucket/key",
            "file://host/a",
            "http://",
            "https://u:hunter22@host/k",
            "http://a b/",
            "https:/host/k?X-Amz-Signature=hunter22",
            "host/k?sig=hunter22",
        ] {
            let error = Location::parse(bad).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && !format!("{error:?}").contains("hunter22"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_signature_is_never_shown() {
        let url = SourceUrl::parse(&format!("{SIGNED}#part")).unwrap();
        assert_eq!(url.to_string(), "https://host/b/k.db?…");
        assert!(!format!("{url:?} {:?}", Location::Url(url.clone())).contains("0123456789"));
        assert!(url.expose().ends_with("=0123456789"));
        assert!(!url.censor("you sent 0123456789").contains("0123456789"));
        assert_eq!(url.censor("Request has expired"), "Request has expired");
    }

    #[test]
    fn urls_tell_when_they_end() {
        let end = |text: &str| SourceUrl::parse(text).unwrap().expires().map(|time| time.to_string());
        let of = |time: &str| Some(time.to_owned());
        assert_eq!(end(SIGNED), of("2026-01-02T03:05:05.000Z"));
        assert_eq!(end(&SIGNED.replace("Amz", "Goog")), of("2026-01-02T03:05:05.000Z"));
        assert_eq!(end("http://h/k?Expires=1767323105&Signature=abc"), of("2026-01-02T03:05:05.000Z"));
        assert_eq!(end("http://h/k?se=2026-01-02T03%3A05%3A05Z&sig=abc"), of("2026-01-02T03:05:05.000Z"));
        for none in ["http://h/k", "http://h/k?Expires=1767323105", "http://h/k?X-Amz-Date=then&X-Amz-Expires=60"] {
            assert_eq!(end(none), None, "{none}");
        }
        assert_eq!(end(&SIGNED.replace("=60&", "=9223372036854775807&")), None);
    }

    #[test]
    fn redirects_never_give_up_tls() {
        let (tls, plain) = (SourceUrl::parse(SIGNED).unwrap(), SourceUrl::parse("http://host/a/b?q").unwrap());
        assert_eq!(plain.redirected("c").unwrap().expose(), "http://host/a/c");
        assert_eq!(plain.redirected("https://other/c?secret").unwrap().to_string(), "https://other/c?…");
        assert_eq!(tls.redirected("/c").unwrap().expose(), "https://host/c");
        let error = tls.redirected("http://host/c?hunter22").unwrap_err();
        assert!(error.kind() == ErrorKind::Refused && !error.to_string().contains("hunter22"), "{error}");
        for bad in ["ftp://host/c", "file:///etc/passwd", "http://", "https://u:p@host/"] {
            tls.redirected(bad).unwrap_err();
        }
    }
}
