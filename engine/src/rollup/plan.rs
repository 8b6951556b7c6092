//! Which deltas become one: a pure decision over a catalogue, some periods and the time.
//!
//! Windows are aligned in time, and a delta belongs to the window of the time in its name; a rollup has the time of the newest
//! object in it, so that it belongs to the same window, and its lineage is not seen to be written later than it was. A window is
//! rolled up once it is past; with the smallest period, also parts of one that is not, where it has many objects.
//!
//! # Why it comes to rest
//! Of each unbroken run of revisions in a window there is at most one rollup more, and only while the run needs more
//! than one object to be covered, or while something in it was begun later than whatever covers it whole. A rollup covers its run
//! whole, and is as late as its latest part; so the same window is not planned again before something new is in it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::archive::{BackupEntry, Catalogue, Lineage, cover};
use crate::clock::UnixMillis;
use crate::format::{LineageId, NameKind};
use crate::revision::Revision;

/// Objects of one rollup, at most.
const MAX_PARTS: usize = 2_000;
/// Stored bytes of one rollup's parts, at most: objects of this size are few, whatever they hold.
const MAX_BYTES: u64 = 256 << 20;
/// A window that is not past is rolled up in fifths once it has more objects than this.
const MANY: usize = 60;
const FIFTHS: i64 = 5;
/// Deltas that were cut in a window may be on their way for so long after it.
const SETTLE_MS: i64 = 15_000;

/// When what is rolled up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollupPolicy {
    periods_ms: Vec<i64>,
}

impl RollupPolicy {
    /// Windows of `periods`; none: nothing is rolled up. Periods of less than a second are of one.
    pub fn new(periods: &[Duration]) -> Self {
        let ms =
            |period: &Duration| i64::try_from(period.as_millis()).unwrap_or(i64::MAX / 4).clamp(1_000, i64::MAX / 4);
        let mut periods_ms: Vec<i64> = periods.iter().map(ms).collect();
        periods_ms.sort_unstable();
        periods_ms.dedup();
        Self { periods_ms }
    }

    /// The periods, the shortest first.
    pub fn periods(&self) -> Vec<Duration> {
        self.periods_ms.iter().map(|ms| Duration::from_millis(ms.unsigned_abs())).collect()
    }

    /// Whether a plan at `now` may have what one at `looked` had not, where the newest object was stored at `stored` and the
    /// window of the shortest period has so many objects by now.
    pub(super) fn is_due(&self, looked: UnixMillis, stored: UnixMillis, in_window: u64, now: UnixMillis) -> bool {
        // Of windows so long that are ripe so long after their end, the first one that was not at the last look.
        let ripe = |period_ms: i64, after_ms: i64| {
            let begin = looked.0.saturating_sub(after_ms).div_euclid(period_ms).saturating_mul(period_ms);
            begin.saturating_add(period_ms).saturating_add(after_ms) <= now.0 && begin <= stored.0
        };
        let mut below = 0;
        let windows = self.periods_ms.iter().any(|period_ms| {
            let after_ms = std::mem::replace(&mut below, *period_ms).saturating_add(SETTLE_MS);
            ripe(*period_ms, after_ms)
        });
        let many = in_window > MANY as u64;
        windows || (many && self.periods_ms.first().is_some_and(|period_ms| ripe(fifth(*period_ms), SETTLE_MS)))
    }

    /// The number of the window of the shortest period that `time` lies in.
    pub(super) fn window(&self, time: UnixMillis) -> i64 {
        self.periods_ms.first().map_or(0, |period_ms| time.0.div_euclid(*period_ms))
    }

    /// So late may a look come, so that nothing waits for much longer.
    pub(super) fn latest_ms(&self) -> i64 {
        self.periods_ms.first().map_or(1, |period_ms| fifth(*period_ms))
    }
}

fn fifth(period_ms: i64) -> i64 {
    (period_ms / FIFTHS).max(1)
}

impl Default for RollupPolicy {
    /// Five minutes, and an hour.
    fn default() -> Self {
        Self::new(&[Duration::from_secs(300), Duration::from_secs(3_600)])
    }
}

/// Deltas that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Their lineage.
    pub lineage: LineageId,
    /// Their first and last revision; first = last + 1 where none of them has records.
    pub revisions: (Revision, Revision),
    /// Those whose records are written, in order: they cover the span.
    pub chain: Vec<BackupEntry>,
    /// Those inside it that may tell something else: doubles of another writer, and objects that only mark time.
    pub beside: Vec<BackupEntry>,
}

impl Span {
    /// Its objects.
    pub fn parts(&self) -> impl Iterator<Item = &BackupEntry> {
        self.chain.iter().chain(&self.beside)
    }
}

/// What is to be written, newest lineage first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RollupPlan {
    /// Each becomes one delta.
    pub spans: Vec<Span>,
}

/// Plans rollups of everything that was captured.
pub fn plan(catalogue: &Catalogue, policy: &RollupPolicy, now: UnixMillis) -> RollupPlan {
    let mut lineages: Vec<_> = catalogue.lineages.values().collect();
    lineages.sort_by_key(|lineage| std::cmp::Reverse((lineage.last_written(), lineage.id)));
    RollupPlan { spans: lineages.into_iter().flat_map(|lineage| plan_lineage(lineage, policy, now)).collect() }
}

fn plan_lineage(lineage: &Lineage, policy: &RollupPolicy, now: UnixMillis) -> Vec<Span> {
    let deltas: Vec<&BackupEntry> =
        lineage.backups.iter().filter(|entry| matches!(entry.name.kind, NameKind::Delta { .. })).collect();
    let mut spans: Vec<Span> = Vec::new();
    let mut done: Vec<(i64, i64)> = Vec::new();
    // The longest first: what has waited for long is read once, and not looked at again in shorter windows.
    for (level, period_ms) in policy.periods_ms.iter().enumerate().rev() {
        let below = level.checked_sub(1).map_or(0, |below| policy.periods_ms[below]);
        let marks = if level + 1 == policy.periods_ms.len() { Marks::RolledUp } else { Marks::Left };
        for (index, window) in windows(&deltas, *period_ms) {
            let (begin, end) = (index.saturating_mul(*period_ms), (index + 1).saturating_mul(*period_ms));
            if done.iter().any(|(from, to)| *from <= begin && end <= *to) {
                continue;
            }
            if now.0 >= end.saturating_add(below).saturating_add(SETTLE_MS) {
                spans.extend(roll_window(lineage.id, &window, marks));
                done.push((begin, end));
            } else if level == 0 && window.len() > MANY {
                for (index, part) in windows(&window, fifth(*period_ms)) {
                    if now.0 >= (index + 1).saturating_mul(fifth(*period_ms)).saturating_add(SETTLE_MS) {
                        spans.extend(roll_window(lineage.id, &part, marks));
                    }
                }
            }
        }
    }
    spans
}

/// The objects of each window, by its number.
fn windows<'e>(deltas: &[&'e BackupEntry], period_ms: i64) -> BTreeMap<i64, Vec<&'e BackupEntry>> {
    let mut windows: BTreeMap<i64, Vec<&BackupEntry>> = BTreeMap::new();
    for entry in deltas {
        windows.entry(entry.name.created.0.div_euclid(period_ms)).or_default().push(entry);
    }
    windows
}

fn range(entry: &BackupEntry) -> (Revision, Revision) {
    match entry.name.kind {
        NameKind::Delta { first, last } => (first, last),
        NameKind::Full { seam } => (seam.next(), seam),
    }
}

/// What becomes of objects that only mark time, of which there is one a minute, where no run of records takes them in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// They become one.
    RolledUp,
    /// A longer window takes them: a quiet cluster costs one object an hour more, and not one each five minutes.
    Left,
}

/// What becomes of the deltas of one window.
fn roll_window(lineage: LineageId, window: &[&BackupEntry], marks: Marks) -> Vec<Span> {
    let (mut idle, mut with_records): (Vec<&BackupEntry>, Vec<&BackupEntry>) =
        window.iter().partition(|entry| range(entry).0 > range(entry).1);
    with_records.sort_by_key(|entry| (range(entry), entry.name));
    let mut spans = Vec::new();
    let mut rest = with_records.as_slice();
    while let Some(first) = rest.first() {
        let (from, mut to) = range(first);
        let length = rest.iter().take_while(|entry| {
            let follows = range(entry).0 <= to.next();
            if follows {
                to = to.max(range(entry).1);
            }
            follows
        });
        let (run, behind) = rest.split_at(length.count());
        rest = behind;
        // What marks time before the first record of a run belongs to no restore to that record's predecessor that
        // would read the run, so that it stays by itself.
        let (inside, outside): (Vec<_>, Vec<_>) = idle.iter().partition(|entry| (from..=to).contains(&range(entry).1));
        idle = outside;
        spans.extend(roll_run(lineage, run, &inside, (from, to)));
    }
    if marks == Marks::Left {
        return spans;
    }
    let mut by_place: BTreeMap<Revision, Vec<&BackupEntry>> = BTreeMap::new();
    for entry in idle {
        by_place.entry(range(entry).1).or_default().push(entry);
    }
    spans.extend(by_place.into_iter().filter_map(|(at, marks)| roll_marks(lineage, at, &marks)));
    spans
}

/// An unbroken run of revisions, and what marks time inside.
fn roll_run(
    lineage: LineageId,
    run: &[&BackupEntry],
    marks: &[&BackupEntry],
    (from, to): (Revision, Revision),
) -> Vec<Span> {
    let whole = run.iter().filter(|entry| range(entry) == (from, to)).map(|entry| entry.name.created).max();
    let newest = run.iter().chain(marks).map(|entry| entry.name.created).max();
    if whole.is_some() && newest <= whole {
        return Vec::new();
    }
    let of_run = Lineage { id: lineage, backups: run.iter().map(|entry| (*entry).clone()).collect() };
    let (chain, _) = cover(&of_run, Revision(from.0 - 1), to);
    let mut spans: Vec<Span> = Vec::new();
    let mut bytes = 0;
    for entry in chain {
        bytes += entry.stored_bytes;
        let (first, last) = range(&entry);
        match spans.last_mut().filter(|span| bytes <= MAX_BYTES && span.chain.len() < MAX_PARTS) {
            Some(span) => {
                span.revisions.1 = last;
                span.chain.push(entry);
            }
            None => {
                bytes = entry.stored_bytes;
                spans.push(Span { lineage, revisions: (first, last), chain: vec![entry], beside: Vec::new() });
            }
        }
    }
    for span in &mut spans {
        let (first, last) = span.revisions;
        let newest = span.chain.iter().map(|entry| entry.name.created).max();
        let inside = |entry: &&&BackupEntry| {
            let (begin, end) = range(entry);
            first <= begin.min(end) && end <= last && !span.chain.contains(entry)
        };
        let room = MAX_PARTS.saturating_sub(span.chain.len());
        span.beside = run.iter().chain(marks).filter(inside).take(room).map(|entry| (*entry).clone()).collect();
        span.beside.retain(|entry| span.chain.len() > 1 || Some(entry.name.created) > newest);
    }
    spans.retain(|span| span.chain.len() + span.beside.len() > 1);
    spans
}

/// Objects that only mark time, at one revision.
fn roll_marks(lineage: LineageId, at: Revision, marks: &[&BackupEntry]) -> Option<Span> {
    let newest = marks.iter().map(|entry| entry.name.created).max();
    // A rollup is as late as its latest part: where two are the latest, one of them holds the other.
    if marks.iter().filter(|entry| Some(entry.name.created) == newest).count() > 1 || marks.len() < 2 {
        return None;
    }
    let beside = marks.iter().take(MAX_PARTS).map(|entry| (*entry).clone()).collect();
    Some(Span { lineage, revisions: (at.next(), at), chain: Vec::new(), beside })
}
