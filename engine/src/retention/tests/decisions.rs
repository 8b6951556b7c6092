//! One archive and one policy at a time.

use super::*;

fn lineage(birth: i64, cluster: u64) -> LineageId {
    LineageId { birth: UnixMillis(birth), cluster: ClusterId(cluster), random: 1 }
}

fn full(seam: i64) -> NameKind {
    NameKind::Full { seam: Revision(seam) }
}

fn delta(first: i64, last: i64) -> NameKind {
    NameKind::Delta { first: Revision(first), last: Revision(last) }
}

/// What goes of `shelf`, by kind; nothing is covered.
fn goes(shelf: &Shelf, policy: &RetentionPolicy) -> Vec<NameKind> {
    let catalogue = shelf.catalogue();
    let now = store_now(&catalogue, UnixMillis(i64::MAX));
    plan(&catalogue, policy, &Covered::default(), now).deletions().map(|decided| decided.entry.name.kind).collect()
}

fn within(duration: i64) -> RetentionPolicy {
    RetentionPolicy { keep_within: Some(ms(duration)), ..RetentionPolicy::default() }
}

fn limit(max_backups: usize) -> RetentionPolicy {
    let fulls = Some(FullsPolicy::LimitBased);
    RetentionPolicy { keep_within: None, fulls, max_backups, ..RetentionPolicy::default() }
}

/// A full each hour, two deltas behind each; `hours` of them.
fn hourly(hours: i64) -> Shelf {
    let (mut shelf, id) = (Shelf::default(), lineage(BIRTH, 1));
    for hour in 0..hours {
        let (seam, time) = (10 + hour * 10, BIRTH + hour * HOUR);
        shelf.put(id, full(seam), time, time);
        shelf.put(id, delta(seam + 1, seam + 5), time + MINUTE, time + MINUTE);
        shelf.put(id, delta(seam + 6, seam + 10), time + 2 * MINUTE, time + 2 * MINUTE);
    }
    shelf
}

#[test]
fn a_window_keeps_the_full_that_it_begins_with() {
    let shelf = hourly(5);
    // The last object is of 15:02. A window of an hour begins at 14:02: the full of 14:00 leads there.
    let gone = goes(&shelf, &within(HOUR));
    assert_eq!(
        gone,
        [
            delta(36, 40),
            delta(31, 35),
            delta(26, 30),
            delta(21, 25),
            delta(16, 20),
            delta(11, 15),
            full(30),
            full(20),
            full(10)
        ]
    );
    assert_eq!(goes(&shelf, &within(HOUR + 3 * MINUTE)).len(), 6);
    assert_eq!(goes(&shelf, &within(100 * HOUR)), []);
}

#[test]
fn a_delta_that_a_full_lies_in_the_middle_of_stays() {
    let (mut shelf, id) = (hourly(3), lineage(BIRTH, 1));
    let wide = delta(16, 35);
    shelf.put(id, wide, BIRTH + 2 * HOUR + 3 * MINUTE, BIRTH + 2 * HOUR + 3 * MINUTE);
    assert!(!goes(&shelf, &within(MINUTE)).contains(&wide));
    assert!(!goes(&shelf, &limit(1)).contains(&wide));
}

#[test]
fn limits_keep_so_many_fulls_and_the_newest_deltas() {
    let shelf = hourly(4);
    let gone = goes(&shelf, &limit(2));
    assert!(gone.contains(&full(10)) && gone.contains(&full(20)) && !gone.contains(&full(30)));
    assert!(gone.contains(&delta(36, 40)) && !gone.contains(&delta(46, 50)));
    let with_deltas = RetentionPolicy { delta_retention: ms(2 * HOUR), ..limit(1) };
    let gone = goes(&shelf, &with_deltas);
    assert!(!gone.contains(&delta(21, 25)) && !gone.contains(&full(20)), "what deltas need stays with them: {gone:?}");
    // Several policies keep what any of them does.
    let both = RetentionPolicy { keep_within: Some(ms(100 * HOUR)), ..limit(1) };
    assert_eq!(goes(&shelf, &both), []);
}

#[test]
fn an_archive_that_nobody_writes_to_does_not_age() {
    assert_eq!(goes(&hourly(3), &within(3 * HOUR)), []);
    let catalogue = hourly(3).catalogue();
    let newest = BIRTH + 2 * HOUR + 2 * MINUTE;
    assert_eq!(store_now(&catalogue, UnixMillis(BIRTH + 400 * DAY)), UnixMillis(newest));
    // A clock that is behind the store's makes nothing old either.
    assert_eq!(store_now(&catalogue, UnixMillis(BIRTH)), UnixMillis(BIRTH));
}

#[test]
fn an_object_is_as_young_as_the_younger_of_its_times() {
    let mut shelf = hourly(5);
    // Copied today: the store's dates are new, whatever the names say.
    shelf.objects.values_mut().for_each(|entry| entry.modified = UnixMillis(BIRTH + 5 * HOUR));
    assert_eq!(goes(&shelf, &within(HOUR)), []);
    // No date at all.
    let mut shelf = hourly(5);
    let dateless: Vec<_> = shelf.objects.keys().filter(|name| name.created.0 < BIRTH + HOUR).copied().collect();
    for name in &dateless {
        shelf.objects.get_mut(name).unwrap().modified = UnixMillis(0);
    }
    let gone = goes(&shelf, &limit(1));
    assert!(dateless.iter().all(|name| !gone.contains(&name.kind)), "{gone:?}");
}

#[test]
fn the_newest_chain_stays_whatever_its_age_and_of_every_cluster() {
    let mut shelf = hourly(3);
    let other = lineage(BIRTH - 100 * DAY, 2);
    shelf.put(other, full(500), BIRTH - 100 * DAY, BIRTH - 100 * DAY);
    shelf.put(other, delta(501, 510), BIRTH - 99 * DAY, BIRTH - 99 * DAY);
    for policy in [within(MINUTE), limit(1)] {
        let gone = goes(&shelf, &policy);
        assert!(!gone.contains(&full(500)) && !gone.contains(&delta(501, 510)), "{gone:?}");
        assert!(!gone.contains(&full(30)) && !gone.contains(&delta(36, 40)), "{gone:?}");
    }
}

#[test]
fn a_lineage_that_ended_before_the_window_stays_only_where_it_was_the_last() {
    let (mut shelf, old) = (hourly(2), lineage(BIRTH - 10 * HOUR, 1));
    shelf.put(old, full(7), BIRTH - 10 * HOUR, BIRTH - 10 * HOUR);
    shelf.put(old, delta(8, 9), BIRTH - 9 * HOUR, BIRTH - 9 * HOUR);
    // The window begins before the new lineage does: then the old one was what could be restored.
    assert_eq!(goes(&shelf, &within(3 * HOUR)), []);
    let gone = goes(&shelf, &within(HOUR));
    assert_eq!(gone[..2], [delta(8, 9), full(7)]);
}

#[test]
fn deltas_without_a_full_are_left_alone_for_a_day() {
    let (mut shelf, orphan) = (hourly(30), lineage(BIRTH - HOUR, 1));
    shelf.put(orphan, delta(901, 905), BIRTH + 10 * HOUR, BIRTH + 10 * HOUR);
    shelf.put(orphan, delta(801, 805), BIRTH, BIRTH);
    let gone = goes(&shelf, &within(MINUTE));
    assert!(gone.contains(&delta(801, 805)) && !gone.contains(&delta(901, 905)));
}

/// A rollup of three deltas.
fn rolled() -> (Shelf, BackupName) {
    let (mut shelf, id) = (Shelf::default(), lineage(BIRTH, 1));
    shelf.put(id, full(10), BIRTH, BIRTH);
    for n in 0..3 {
        shelf.put(id, delta(11 + n, 11 + n), BIRTH + n * MINUTE, BIRTH + n * MINUTE);
    }
    shelf.roll_all(&RollupPolicy::default(), BIRTH + 6 * MINUTE);
    let rollup = *shelf.parts.keys().next().unwrap();
    (shelf, rollup)
}

fn newer(shelf: &mut Shelf, time: i64) {
    shelf.put(lineage(BIRTH, 1), delta(14, 14), time, time);
}

#[test]
fn covered_deltas_go_after_the_grace_and_two_looks() {
    let (mut shelf, rollup) = rolled();
    let (mut looks, policy) = (Looks::default(), RetentionPolicy::default());
    newer(&mut shelf, BIRTH + 20 * MINUTE);
    let clock = BIRTH + 60 * MINUTE;
    for _ in 0..2 {
        assert_eq!(looks.plan(&shelf, &policy, clock).deletions().count(), 0, "the rollup is 14 minutes old");
    }
    newer(&mut shelf, BIRTH + 22 * MINUTE);
    let first = looks.plan(&shelf, &policy, clock);
    assert_eq!(first.deletions().count(), 0);
    let once = Decision::Keep(KeepReason::CoveredOnce(rollup));
    assert_eq!(first.objects.iter().filter(|decided| decided.decision == once).count(), 3);
    let second = looks.plan(&shelf, &policy, clock);
    let why: Vec<_> = second.deletions().map(|decided| decided.decision).collect();
    assert_eq!(why, [Decision::Delete(DeleteReason::Covered(rollup)); 3]);
    // Another process has its own memory.
    assert_eq!(Looks::default().plan(&shelf, &policy, clock).deletions().count(), 0);
}

#[test]
fn what_covers_must_stay_itself() {
    let (mut shelf, rollup) = rolled();
    newer(&mut shelf, BIRTH + 30 * MINUTE);
    let catalogue = shelf.catalogue();
    let narrow: Vec<BackupName> = shelf.parts[&rollup].iter().copied().collect();
    // Two that would hold each other.
    let by = BTreeMap::from([(narrow[0], narrow[1]), (narrow[1], narrow[0]), (narrow[2], rollup)]);
    let before = by.keys().copied().collect();
    let plan = plan(&catalogue, &RetentionPolicy::default(), &Covered { by, before }, UnixMillis(BIRTH + HOUR));
    let gone: Vec<_> = plan.deletions().map(|decided| decided.entry.name).collect();
    assert_eq!(gone, [narrow[2]]);
}
