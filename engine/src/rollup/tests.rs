//! Plans over names: they cover the same, and they come to rest.

use proptest::prelude::*;

use super::*;
use crate::archive::{BackupEntry, Catalogue, ChainTarget, OnGap, chain_to};
use crate::clock::UnixMillis;
use crate::format::{BackupName, LineageId, NameKind, ObjectNonce};
use crate::revision::{ClusterId, Revision};

const BIRTH: i64 = 1_763_722_800_000;
const MINUTE: i64 = 60_000;

fn lineage() -> LineageId {
    LineageId { birth: UnixMillis(BIRTH), cluster: ClusterId(1), random: 1 }
}

fn entry(kind: NameKind, created: i64, nonce: u64) -> BackupEntry {
    let name =
        BackupName { lineage: lineage(), kind, created: UnixMillis(created), nonce: ObjectNonce(nonce.to_be_bytes()) };
    BackupEntry { name, stored_bytes: 1_000, modified: UnixMillis(created) }
}

fn delta(first: i64, last: i64, created: i64, nonce: u64) -> BackupEntry {
    entry(NameKind::Delta { first: Revision(first), last: Revision(last) }, created, nonce)
}

fn full(seam: i64) -> BackupEntry {
    entry(NameKind::Full { seam: Revision(seam) }, BIRTH, 1)
}

/// The object that a span becomes.
fn written(span: &Span, nonce: u64) -> BackupEntry {
    let created = span.parts().map(|part| part.name.created.0).max().unwrap();
    delta(span.revisions.0.0, span.revisions.1.0, created, nonce)
}

fn plan_at(objects: &[BackupEntry], now: i64) -> Vec<Span> {
    plan(&Catalogue::of(objects.to_vec()), &RollupPolicy::default(), UnixMillis(now)).spans
}

/// A delta of one revision every second of `seconds`.
fn seconds(seconds: std::ops::Range<i64>) -> Vec<BackupEntry> {
    seconds.map(|n| delta(11 + n, 11 + n, BIRTH + n * 1_000, 100 + n as u64)).collect()
}

#[test]
fn a_window_is_rolled_up_once_it_is_past() {
    assert_eq!(BIRTH % (60 * MINUTE), 0);
    let objects: Vec<_> =
        [full(10)].into_iter().chain((0..10).map(|n| delta(11 + n, 11 + n, BIRTH + n * MINUTE, n as u64))).collect();
    assert!(plan_at(&objects, BIRTH + 5 * MINUTE + 14_999).is_empty());
    let spans = plan_at(&objects, BIRTH + 5 * MINUTE + 15_000);
    let ranges: Vec<_> = spans.iter().map(|span| (span.revisions.0.0, span.revisions.1.0, span.chain.len())).collect();
    assert_eq!(ranges, [(11, 15, 5)]);
    let ranges: Vec<_> = plan_at(&objects, BIRTH + 20 * MINUTE).iter().map(|span| span.revisions.0.0).collect();
    assert_eq!(ranges, [11, 16]);
    // An hour that is past is read once.
    let ranges: Vec<_> = plan_at(&objects, BIRTH + 90 * MINUTE).iter().map(|span| span.chain.len()).collect();
    assert_eq!(ranges, [10]);
}

#[test]
fn many_objects_do_not_wait_for_the_end_of_their_window() {
    let mut objects = vec![full(10)];
    objects.extend(seconds(0..200));
    let spans = plan_at(&objects, BIRTH + 200_000);
    let ranges: Vec<_> = spans.iter().map(|span| (span.revisions.0.0, span.revisions.1.0)).collect();
    assert_eq!(ranges, [(11, 70), (71, 130), (131, 190)]);
    objects.truncate(60);
    assert!(plan_at(&objects, BIRTH + 100_000).is_empty());
}

#[test]
fn revisions_that_are_missing_part_two_rollups() {
    let gap: Vec<_> = seconds(0..60).into_iter().filter(|entry| entry.name.created.0 != BIRTH + 30_000).collect();
    let ranges: Vec<_> =
        plan_at(&gap, BIRTH + 30 * MINUTE).iter().map(|span| (span.revisions.0.0, span.revisions.1.0)).collect();
    assert_eq!(ranges, [(11, 40), (42, 70)]);
}

#[test]
fn what_only_marks_time_folds_in_where_a_restore_would_still_read_it() {
    let mark = |at: i64, created: i64| delta(at + 1, at, created, created as u64);
    let objects = [
        full(10),
        // Nothing happened for two minutes, then revisions 11 and 12, then nothing.
        mark(10, BIRTH + MINUTE),
        mark(10, BIRTH + 2 * MINUTE),
        delta(11, 12, BIRTH + 3 * MINUTE, 7),
        mark(12, BIRTH + 4 * MINUTE),
    ];
    let shape = |now: i64| -> Vec<_> {
        let spans = plan_at(&objects, BIRTH + now);
        let shape = |span: &Span| (span.revisions.0.0, span.revisions.1.0, span.chain.len(), span.beside.len());
        spans.iter().map(shape).collect()
    };
    // What no records take in waits for the hour: on a quiet cluster there would be as many rollups as marks, almost.
    assert_eq!(shape(6 * MINUTE), [(11, 12, 1, 1)]);
    assert_eq!(shape(66 * MINUTE), [(11, 12, 1, 1), (11, 10, 0, 2)]);
}

#[test]
fn large_objects_are_left_alone() {
    let mut objects = seconds(0..60);
    objects.iter_mut().for_each(|entry| entry.stored_bytes = 100 << 20);
    let spans = plan_at(&objects, BIRTH + 30 * MINUTE);
    assert!(spans.iter().all(|span| span.chain.len() == 2) && spans.len() == 30);
    objects.iter_mut().for_each(|entry| entry.stored_bytes = 200 << 20);
    assert!(plan_at(&objects, BIRTH + 30 * MINUTE).is_empty());
}

proptest! {
    /// Whatever two writers stored: rolling up comes to rest, nothing that could be planned cannot any more, also when all
    /// parts have gone, and what is left is little.
    #[test]
    fn rollups_cover_what_they_are_made_of_and_come_to_rest(
        cuts in proptest::collection::vec((1..5_i64, 0..3_i64, 0..40_i64, any::<bool>()), 1..60),
        gone in proptest::collection::vec(0..60_usize, 0..3),
    ) {
        let mut objects = vec![full(10)];
        for writer in 0..2_i64 {
            let (mut first, mut time) = (11, BIRTH + writer * 700);
            for (width, idle, pause, flip) in &cuts {
                let width = if *flip && writer == 1 { width + 1 } else { *width };
                time += pause * 1_000 + 1;
                objects.push(delta(first, first + width - 1, time, objects.len() as u64));
                first += width;
                for _ in 0..*idle {
                    time += 20_000;
                    objects.push(delta(first, first - 1, time, objects.len() as u64));
                }
            }
        }
        for n in gone {
            if n > 0 && n < objects.len() {
                objects.remove(n);
            }
        }
        let restorable = |objects: &[BackupEntry]| -> Vec<i64> {
            let catalogue = Catalogue::of(objects.to_vec());
            let lineage = &catalogue.lineages[&lineage()];
            let plans = |revision: &i64| chain_to(lineage, ChainTarget::Revision(Revision(*revision)), OnGap::Refuse).is_ok();
            (10..400).filter(plans).collect()
        };
        let expected = restorable(&objects);
        let now = BIRTH + 24 * 60 * MINUTE;
        let mut parts = Vec::new();
        for round in 0..5 {
            let spans = plan_at(&objects, now);
            if spans.is_empty() {
                break;
            }
            prop_assert!(round < 4, "not at rest: {spans:?}");
            for span in spans {
                prop_assert!(span.parts().count() > 1);
                parts.extend(span.parts().map(|part| part.name));
                objects.push(written(&span, 1_000_000 + objects.len() as u64));
            }
        }
        prop_assert_eq!(&restorable(&objects), &expected);
        objects.retain(|entry| !parts.contains(&entry.name));
        prop_assert_eq!(&restorable(&objects), &expected);
    }
}
