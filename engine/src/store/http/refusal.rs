//! What an answer means that is not the file: expired, forbidden, gone, changed, or busy for now.

use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind};
use crate::store::http::answer::printable;
use crate::store::http::url::{SourceUrl, time};
use crate::store::retry::Failure;

/// Codes of errors that pass, whatever their status.
const PASSING_CODES: [&str; 5] = ["SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "ServerBusy"];
/// How S3, Google and Azure say that the URL has had its time; all of them with status 400 or 403.
const EXPIRED_WORDS: [&str; 3] = ["expired", "not in the range of the specified", "not valid at this time"];

/// An error answer.
#[derive(Debug)]
pub(super) struct Refusal<'a> {
    pub(super) url: &'a SourceUrl,
    pub(super) status: u16,
    /// The beginning of its body.
    pub(super) body: &'a str,
    /// Our own time.
    pub(super) now: UnixMillis,
}

impl Refusal<'_> {
    /// What it means for the next attempt, for the caller and for the operator.
    pub(super) fn failure(&self) -> Failure {
        let code = element(self.body, "Code").map(|code| printable(code).trim().to_owned()).unwrap_or_default();
        let passing = matches!(self.status, 408 | 425 | 429 | 500 | 502 | 503 | 504);
        if passing || PASSING_CODES.contains(&code.as_str()) {
            let error = self.error(ErrorKind::Unavailable, "the server cannot answer now", &code);
            return Failure::Passing(error.hint("try again later"));
        }
        Failure::Final(self.meaning(&code))
    }

    fn meaning(&self, code: &str) -> Error {
        let renew = "make a new URL (`etcdbr presign`), with a longer --expires";
        match (self.status, code) {
            (_, "ExpiredToken" | "TokenRefreshRequired") => self
                .error(ErrorKind::Denied, "the session whose credentials signed the URL has ended", code)
                .hint("a URL lives no longer than the credentials that signed it: sign a new one with lasting ones"),
            (400 | 401 | 403, _) if self.says_expired() => {
                let at = self.end().map(|end| format!(" at {end}")).unwrap_or_default();
                self.error(ErrorKind::Denied, &format!("the URL expired{at}"), code).hint(renew)
            }
            (_, "SignatureDoesNotMatch" | "AuthorizationQueryParametersError") => self
                .error(ErrorKind::Denied, "the URL is not the one that was signed", code)
                .hint("give it whole and unchanged: in a shell it must be quoted, for it holds &"),
            // Nothing was said of its time, but its time is over: a proxy may have swallowed the reason.
            (401 | 403, _) if self.url.expires().is_some_and(|end| end <= self.now) => {
                let at = self.url.expires().map(|end| end.to_string()).unwrap_or_default();
                self.error(ErrorKind::Denied, &format!("the URL expired at {at}"), code).hint(renew)
            }
            (401 | 403, _) if !self.url.is_signed() => {
                self.error(ErrorKind::Denied, "the server refuses the URL, which holds no signature", code).hint(
                    "no credentials are sent: give a presigned URL, and give it whole; in a shell it must be quoted, for it \
                     holds &",
                )
            }
            (401 | 403, _) => self
                .error(ErrorKind::Denied, "the server refuses the URL", code)
                .hint("its signature is good; whoever signed it must be allowed to read the object"),
            (404 | 410, "NoSuchBucket") => self
                .error(ErrorKind::NotFound, "there is no such bucket", code)
                .hint("check the URL; a presigned object may have been deleted since"),
            (404 | 410, _) => self
                .error(ErrorKind::NotFound, "there is no such file", code)
                .hint("check the URL; a presigned object may have been deleted since"),
            (412, _) => changed(self.url),
            (416, _) => self.error(ErrorKind::Damaged, "the file is empty", code).hint("use another snapshot"),
            _ => self.error(ErrorKind::Invalid, "the server does not give the file", code).hint("check the URL"),
        }
    }

    fn says_expired(&self) -> bool {
        let message = element(self.body, "Message").unwrap_or_default().to_ascii_lowercase();
        EXPIRED_WORDS.iter().any(|words| message.contains(words))
    }

    /// The end of the signature, by the server or by the URL.
    fn end(&self) -> Option<UnixMillis> {
        element(self.body, "Expires").and_then(|text| time(text.trim())).or_else(|| self.url.expires())
    }

    /// What the server said itself goes along, but for what repeats the URL.
    fn error(&self, kind: ErrorKind, what: &str, code: &str) -> Error {
        let mut said = format!("the server answered {}", self.status);
        let message = element(self.body, "Message").map(printable).unwrap_or_default();
        for text in [code, &self.url.censor(&message)] {
            if !text.is_empty() {
                said = format!("{said} {text}");
            }
        }
        Error::new(kind, what).caused_by(said)
    }
}

/// The file is not the one any more that the first answer was about.
pub(super) fn changed(url: &SourceUrl) -> Error {
    let changed = Error::new(ErrorKind::Damaged, "the file was changed while it was downloaded");
    changed.hint("start over once it stays as it is").about(url)
}

/// The text of the first element `name` of an XML error. Not a parser: S3's errors are flat.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let rest = &xml[xml.find(&format!("<{name}>"))? + name.len() + 2..];
    Some(&rest[..rest.find(&format!("</{name}>"))?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://host/k.db?X-Amz-Date=20260102T030405Z&X-Amz-Expires=60&X-Amz-Signature=0123456789";

    fn error(status: u16, body: &str, now: &str) -> Error {
        let (url, now) = (SourceUrl::parse(URL).unwrap(), time(now).unwrap());
        match (Refusal { url: &url, status, body, now }).failure() {
            Failure::Final(error) => error,
            Failure::Passing(error) => panic!("{error}"),
        }
    }

    fn xml(code: &str, message: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>")
    }

    const BEFORE: &str = "2026-01-02T03:05:00Z";
    const AFTER: &str = "2026-01-02T03:05:05Z";

    #[test]
    fn an_expired_url_is_told_from_other_refusals() {
        let expired = error(403, &xml("AccessDenied", "Request has expired"), BEFORE);
        assert!(expired.to_string().contains("the URL expired at 2026-01-02T03:05:05.000Z"), "{expired}");
        let told = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message>\
                    <Expires>2026-02-03T04:05:06Z</Expires></Error>";
        assert!(error(403, told, BEFORE).to_string().contains("expired at 2026-02-03T04:05:06.000Z"));
        // A proxy ate the reason.
        assert!(error(403, "<html>no</html>", AFTER).to_string().contains("expired at 2026-01-02T03:05:05.000Z"));
        let denied = error(403, &xml("AccessDenied", "Access Denied"), BEFORE);
        assert!(!denied.to_string().contains("expired") && denied.to_string().contains("Access Denied"), "{denied}");
        let session = error(400, &xml("ExpiredToken", "The provided token has expired."), BEFORE);
        assert!(session.to_string().contains("session"), "{session}");
        for error in [expired, denied, session] {
            assert_eq!(error.kind(), ErrorKind::Denied);
        }
    }

    #[test]
    fn a_url_that_lost_its_tail_says_so() {
        // As a shell leaves it that was given it without quotes.
        let url = SourceUrl::parse(URL.split('&').next().unwrap()).unwrap();
        let refusal = Refusal { url: &url, status: 403, body: "", now: UnixMillis(0) };
        let Failure::Final(unsigned) = refusal.failure() else { panic!("it does not pass") };
        assert!(
            unsigned.kind() == ErrorKind::Denied && unsigned.next_step().unwrap().contains("quoted"),
            "{unsigned:?}"
        );
        let cut = error(403, &xml("SignatureDoesNotMatch", "no"), BEFORE);
        assert!(cut.kind() == ErrorKind::Denied && cut.next_step().unwrap().contains("quoted"), "{cut:?}");
    }

    #[test]
    fn what_is_gone_changed_or_empty_says_so() {
        for (status, kind, word) in [
            (404, ErrorKind::NotFound, "no such file"),
            (410, ErrorKind::NotFound, "no such file"),
            (412, ErrorKind::Damaged, "changed"),
            (416, ErrorKind::Damaged, "empty"),
            (405, ErrorKind::Invalid, "405"),
        ] {
            let error = error(status, "", BEFORE);
            assert!(error.kind() == kind && error.to_string().contains(word), "{status}: {error:?}");
            assert!(error.next_step().is_some());
        }
    }

    #[test]
    fn what_passes_is_asked_again() {
        let url = SourceUrl::parse(URL).unwrap();
        for (status, body) in [(503, String::new()), (429, String::new()), (400, xml("RequestTimeout", ""))] {
            let refusal = Refusal { url: &url, status, body: &body, now: UnixMillis(0) };
            assert!(matches!(refusal.failure(), Failure::Passing(error) if error.kind() == ErrorKind::Unavailable));
        }
    }

    #[test]
    fn nothing_that_a_server_repeats_of_the_url_is_shown() {
        let message = "wrong signature 0123456789 in X";
        let error = error(403, &xml("SignatureDoesNotMatch", message), BEFORE);
        assert!(!format!("{error:?}").contains("0123456789"), "{error:?}");
    }
}
