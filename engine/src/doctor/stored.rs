//! Questions to the store, in the words of the engine's own reads and writes, and to the archive's newest backup.
//!
//! # Why this takes nothing away
//! All objects lie under a prefix that ends with 16 random hexadecimal digits, beside the archive and never in it; only
//! keys that were written here are removed. What a store does not let us remove is named.

use bytes::Bytes;

use super::finding::{Finding, Subject};
use crate::archive::Archive;
use crate::clock::random_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::run::RunContext;
use crate::store::{ByteRange, ETag, ListQuery, ObjectLock, ObjectStore, PartNumber, Removal};

const SUBJECT: Subject = Subject::Store;
/// Names whose order as text differs from their order as paths.
const ORDERED: [&str; 3] = ["a-b", "a/b", "a0"];
/// No store takes smaller parts but for the last.
const PART_BYTES: u64 = 5 << 20;
const BODY_BYTES: usize = 4_096;
/// A store tells times to the second, and an answer takes a moment.
const SKEW_ALLOWED_MS: i64 = 5_000;
/// From here on marks of time would be misleading.
const SKEW_BAD_MS: i64 = 30_000;

/// A place of one's own in the store.
struct Probe<'a> {
    store: &'a dyn ObjectStore,
    prefix: String,
    body: Bytes,
}

/// Writes, reads, lists and removes a few objects, and opens the newest backup.
pub(super) async fn examine(archive: &Archive, context: &RunContext) -> Vec<Finding> {
    let catalogue = context.unless_stopped(archive.catalogue()).await;
    let mut findings = vec![Finding::of(Subject::Archive, "backups may be listed", &catalogue, |catalogue| {
        format!("{} lineages in {}", catalogue.lineages.len(), archive.describe())
    })];
    if let Ok(catalogue) = &catalogue {
        let newest = catalogue.newest_first().first().map(|entry| entry.name);
        let policy = context.unless_stopped(archive.check_encryption_policy(catalogue)).await;
        let asked = if archive.keyring().is_empty() { "no key is given" } else { "a key is given" };
        findings.push(Finding::of(Subject::Archive, "keys are those of the archive", &policy, |()| asked.to_owned()));
        if let Some(name) = newest {
            let opened = context.unless_stopped(archive.open(&name)).await;
            findings.push(Finding::of(Subject::Archive, "newest backup opens", &opened, |_| name.to_string()));
        }
    }
    match Probe::new(archive) {
        Ok(probe) => findings.extend(probe.examine(context).await),
        Err(error) => findings.push(Finding::bad(SUBJECT, "objects may be written", &error)),
    }
    findings
}

impl<'a> Probe<'a> {
    fn new(archive: &'a Archive) -> Result<Self> {
        let (store, prefix) = archive.probe_place(u64::from_be_bytes(random_bytes()?));
        let body = random_bytes::<BODY_BYTES>()?;
        Ok(Self { store, prefix, body: Bytes::copy_from_slice(&body) })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn examine(&self, context: &RunContext) -> Vec<Finding> {
        let before = context.clock.now().0;
        let written = context.unless_stopped(self.write()).await;
        let mut findings = vec![Finding::of(SUBJECT, "objects may be written", &written, |()| self.store.describe())];
        if written.is_ok() {
            findings.push(self.clock(before, context).await);
            let ranges = context.unless_stopped(self.ranges()).await;
            findings
                .push(Finding::of(SUBJECT, "ranges are answered exactly", &ranges, |()| "middle and end".to_owned()));
            findings.push(self.pins(context).await);
            let order = context.unless_stopped(self.order()).await;
            findings.push(Finding::of(SUBJECT, "listings come in byte order", &order, |()| {
                "and go on behind a key".to_owned()
            }));
            findings.extend(self.uploads(context).await);
            findings.push(self.lock(context).await);
        }
        findings.push(self.remove().await);
        findings
    }

    async fn write(&self) -> Result<()> {
        for name in ORDERED {
            self.store.put(&self.key(name), self.body.clone()).await?;
        }
        Ok(())
    }

    /// How far the store's clock is from ours, by the time that it gave an object between `before` and now.
    async fn clock(&self, before: i64, context: &RunContext) -> Finding {
        const QUESTION: &str = "clocks agree";
        let head = context.unless_stopped(self.store.head(&self.key(ORDERED[0]))).await;
        let after = context.clock.now().0;
        match head {
            Err(error) => Finding::bad(SUBJECT, QUESTION, &error),
            Ok(head) => {
                let skew = skew_ms(head.modified.0, (before, after));
                let seen = format!("the store's clock is {} s from ours", skew / 1_000);
                let next_step =
                    "set this machine's clock by NTP; requests are refused at 15 minutes, and --at means our time";
                if skew.abs() <= SKEW_ALLOWED_MS {
                    Finding::good(SUBJECT, QUESTION, "within 5 s")
                } else if skew.abs() <= SKEW_BAD_MS {
                    Finding::warning(SUBJECT, QUESTION, seen, next_step)
                } else {
                    Finding::bad(SUBJECT, QUESTION, &Error::new(ErrorKind::Refused, seen).hint(next_step))
                }
            }
        }
    }

    async fn ranges(&self) -> Result<()> {
        let key = self.key(ORDERED[0]);
        for (range, expected) in [
            (ByteRange::Exact { start: 1_000, len: 100 }, 1_000..1_100),
            (ByteRange::Suffix(10), BODY_BYTES - 10..BODY_BYTES),
        ] {
            let answer = self.store.read(&key, range, None).await?;
            if answer.bytes != self.body.slice(expected) || answer.object_bytes != BODY_BYTES as u64 {
                return Err(Error::new(ErrorKind::Damaged, format!("{key}: {range:?} was answered with other bytes"))
                    .hint("a proxy before the store may ignore ranges: name the store itself"));
            }
        }
        Ok(())
    }

    /// Whether a read of a version that is not there is refused: a large object is read in ranges, all of one version.
    async fn pins(&self, context: &RunContext) -> Finding {
        const QUESTION: &str = "versions are told apart";
        let other = ETag("\"00000000000000000000000000000000\"".to_owned());
        let range = ByteRange::Suffix(10);
        match context.unless_stopped(self.store.read(&self.key(ORDERED[0]), range, Some(&other))).await {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                Finding::good(SUBJECT, QUESTION, "If-Match is honoured")
            }
            Err(error) => Finding::bad(SUBJECT, QUESTION, &error),
            Ok(_) => Finding::warning(
                SUBJECT,
                QUESTION,
                "the store ignores If-Match",
                "nothing to do: frames of two objects do not open together; never overwrite objects of the archive",
            ),
        }
    }

    async fn order(&self) -> Result<()> {
        let expected = ORDERED.map(|name| self.key(name));
        for skipped in 0..ORDERED.len() {
            let start_after = skipped.checked_sub(1).map(|last| expected[last].clone());
            let query = ListQuery { prefix: self.prefix.clone(), start_after, ..ListQuery::default() };
            let keys: Vec<String> = self.store.list(&query).await?.objects.into_iter().map(|found| found.key).collect();
            if keys != expected[skipped..] {
                return Err(Error::new(
                    ErrorKind::Damaged,
                    format!("{}: listed {keys:?} where {:?} was due", self.prefix, &expected[skipped..]),
                )
                .hint("backups would be overlooked in this store: use another one"));
            }
        }
        Ok(())
    }

    async fn uploads(&self, context: &RunContext) -> Vec<Finding> {
        let completed = context.unless_stopped(self.completed_upload()).await;
        let aborted = context.unless_stopped(self.aborted_upload()).await;
        vec![
            Finding::of(SUBJECT, "uploads in parts become objects", &completed, |()| {
                "completed and read back".to_owned()
            }),
            match aborted {
                Ok(true) => Finding::good(SUBJECT, "uploads may be aborted", "and are listed while they are under way"),
                Ok(false) => Finding::warning(
                    SUBJECT,
                    "uploads may be aborted",
                    "an upload that is under way is not listed",
                    "set a rule in the store that ends incomplete uploads after a few days",
                ),
                Err(error) => Finding::bad(SUBJECT, "uploads may be aborted", &error),
            },
        ]
    }

    async fn completed_upload(&self) -> Result<()> {
        let key = self.key("parts");
        let upload = self.store.start_upload(&key, PART_BYTES).await?;
        let stored = match upload.put_part(PartNumber(1), self.body.clone()).await {
            Ok(()) => upload.complete().await,
            failed => failed,
        };
        if let Err(error) = stored {
            let _ = upload.abort().await;
            return Err(error);
        }
        let answer = self.store.read(&key, ByteRange::Suffix(BODY_BYTES as u64), None).await?;
        if answer.bytes == self.body {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Damaged, format!("{key}: other bytes came back")))
        }
    }

    /// Whether it was listed before it was aborted.
    async fn aborted_upload(&self) -> Result<bool> {
        let key = self.key("aborted");
        let upload = self.store.start_upload(&key, PART_BYTES).await?;
        let listed = match upload.put_part(PartNumber(1), self.body.clone()).await {
            Ok(()) => self.store.pending_uploads(&self.prefix).await,
            Err(error) => Err(error),
        };
        upload.abort().await?;
        Ok(listed?.iter().any(|pending| pending.key == key))
    }

    /// Whether the store locks what is written: retention cannot remove it before its time then, and needs not try.
    async fn lock(&self, context: &RunContext) -> Finding {
        const QUESTION: &str = "object lock";
        match context.unless_stopped(self.store.object_lock()).await {
            Ok(ObjectLock::Off) => Finding::good(SUBJECT, QUESTION, "off: what is removed is gone"),
            Ok(ObjectLock::On) => Finding::good(SUBJECT, QUESTION, "on, and no time is set for new objects"),
            Ok(ObjectLock::EveryObject { mode, time }) => {
                Finding::good(SUBJECT, QUESTION, format!("on: each new object is kept for {time} ({mode})"))
            }
            // Writers need no such permission.
            Err(error) if error.kind() == ErrorKind::Denied => {
                Finding::good(SUBJECT, QUESTION, "not known: these credentials may not ask")
            }
            Err(error) => Finding::bad(SUBJECT, QUESTION, &error),
        }
    }

    /// Removes what was written, whatever else has failed, and looks whether it is gone.
    async fn remove(&self) -> Finding {
        const QUESTION: &str = "objects may be removed";
        let keys: Vec<String> = ORDERED.iter().copied().chain(["parts"]).map(|name| self.key(name)).collect();
        let left = || format!("objects may be left under {}", self.prefix);
        match self.store.delete(&keys).await {
            Ok(Removal::Hidden) => Finding::warning(
                SUBJECT,
                QUESTION,
                "the bucket keeps versions: what is removed is hidden, locks are kept, and it takes room",
                "have a rule of the bucket remove versions that are no longer current",
            ),
            Ok(Removal::Gone) => match self.store.head(&keys[0]).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Finding::good(SUBJECT, QUESTION, "and are gone"),
                _ => {
                    Finding::warning(SUBJECT, QUESTION, left(), "see whether object lock keeps them, and for how long")
                }
            },
            Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Refused) => {
                let next_step =
                    "that is right for a writer; then `etcdbr gc` needs other credentials, and these objects too";
                Finding::warning(SUBJECT, QUESTION, format!("{error}; {}", left()), next_step)
            }
            Err(error) => Finding::bad(SUBJECT, QUESTION, &error.hint(left())),
        }
    }
}

/// How far `told` lies outside of the span in which it happened.
fn skew_ms(told: i64, (before, after): (i64, i64)) -> i64 {
    if told < before { told - before } else { (told - after).max(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_within_the_span_is_no_skew() {
        assert_eq!(skew_ms(15, (10, 20)), 0);
        assert_eq!(skew_ms(7, (10, 20)), -3);
        assert_eq!(skew_ms(26, (10, 20)), 6);
    }
}
