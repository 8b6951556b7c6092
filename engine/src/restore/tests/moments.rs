//! Whatever way and moment: exactly the records that etcd held then.

use super::*;
use crate::store::faulty::Call;

/// A random archive: fulls at several seams, compacted here and there, and deltas that overlap, repeat each other, and
/// begin inside a full.
struct Archived {
    site: Site,
    history: History,
    /// Seam, revision and floor of each full.
    fulls: Vec<(i64, i64, i64)>,
    /// Compact revisions and where they were first seen.
    compactions: Vec<(i64, i64)>,
    seam: i64,
    last: i64,
}

async fn archived(seed: u64) -> Archived {
    let mut dice = Dice::new(seed);
    let revisions = 80 + dice.roll(80) as i64;
    let history = History::random(&mut dice, revisions);
    let (site, lineage) = (Site::new(), lineage(1));
    let seam = 2 + dice.roll(30) as i64;
    let digests = history.digests(&lineage, seam);
    let last = history.last;
    let mut compactions: Vec<(i64, i64)> = Vec::new();
    let mut compact = dice.roll(seam as u64) as i64;
    let (mut fulls, mut at) = (Vec::new(), seam);
    while at <= last {
        let revision = (at + dice.roll(8) as i64).min(last);
        let floor = compactions.iter().filter(|(_, seen)| *seen <= at).map(|(compact, _)| *compact).max();
        let floor = floor.unwrap_or(compact);
        let answered = at;
        let full = Full {
            lineage,
            seam: at,
            revision,
            floor,
            history: digests[&at],
            leases: (1..=4).map(|id| (id, 60)).collect(),
            db_bytes: 1 << 30,
            answers: vec![answer(&history.records, answered, floor)],
        };
        site.full(&history, full).await;
        fulls.push((at, revision, floor));
        at += 20 + dice.roll(40) as i64;
        compact = at - 1 - dice.roll(15) as i64;
        compactions.push((compact, at));
    }
    // A run without a gap, and objects that cover some of it again.
    let mut ranges = Vec::new();
    let mut first = seam + 1;
    while first <= last {
        let end = (first + dice.roll(9) as i64).min(last);
        ranges.push((first, end));
        first = end + 1;
    }
    for _ in 0..dice.roll(8) {
        let first = seam + 1 + dice.roll((last - seam).max(1) as u64) as i64;
        ranges.push((first.min(last), (first + dice.roll(30) as i64).min(last)));
    }
    for (first, end) in ranges.into_iter().filter(|(first, end)| first <= end) {
        let known = compactions.iter().filter(|(_, seen)| *seen <= end).map(|(compact, _)| *compact).max();
        let capture = capture(end, known.unwrap_or(0));
        site.delta((lineage, &history), (first, end), digests[&(first - 1)], capture).await;
    }
    Archived { site, history, fulls, compactions, seam, last }
}

impl Archived {
    /// The compact revisions that a restore of `revision` may choose: one that was seen by then.
    fn allowed(&self, revision: i64) -> Vec<i64> {
        let seen = self.compactions.iter().filter(|(_, seen)| *seen <= revision).map(|(compact, _)| *compact);
        seen.chain(self.fulls.iter().map(|(_, _, floor)| *floor)).filter(|compact| *compact <= revision).collect()
    }
}

#[tokio::test]
async fn every_moment_comes_back_record_for_record() {
    for seed in 1..=12 {
        let archived = archived(seed).await;
        let Archived { site, history, fulls, seam, last, .. } = &archived;
        let mut dice = Dice::new(seed + 100);
        let mut revisions: Vec<i64> = (0..5).map(|_| seam + dice.roll((last - seam + 1) as u64) as i64).collect();
        revisions.extend([*seam, *last]);
        for revision in revisions {
            for way in [WayWanted::BySize, WayWanted::Rewritten] {
                let what = format!("seed {seed}, revision {revision}, {way:?}");
                let outcome = match site.restore_revision(revision, way).await {
                    Ok(outcome) => outcome,
                    Err(error) => panic!("{what}: {error}"),
                };
                let facts = &outcome.summary.facts;
                assert_eq!(facts.image.revision, Revision(revision), "{what}");
                let base = outcome.point().chain.seam().0;
                let (_, _, floor) = *fulls.iter().find(|full| full.0 == base).unwrap();
                let (scheduled, finished) = outcome.compactions();
                assert!(scheduled <= revision && scheduled >= floor, "{what}: {scheduled}");
                assert!(scheduled == 0 || archived.allowed(revision).contains(&scheduled), "{what}: {scheduled}");
                assert_eq!(facts.compact_revision.map_or(0, |revision| revision.0), scheduled, "{what}");
                let kept = if way == WayWanted::Rewritten { finished } else { floor };
                outcome.assert_records(&history.compacted(revision, kept), &what);
                assert!(matches!(outcome.summary.proof.hash_kv, HashKvProof::Equal(_)), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_rewrite_is_pruned_where_the_source_was_compacted() {
    let simple = Simple::new().await;
    simple.delta(31, 50, capture(50, 45)).await;
    let outcome = simple.site.restore_revision(55, WayWanted::Rewritten).await.unwrap();
    assert_eq!(outcome.compactions(), (45, 45));
    outcome.assert_records(&simple.history.compacted(55, 45), "rewritten");
    // One that was seen later than the moment does not count.
    let outcome = simple.site.restore_revision(49, WayWanted::Rewritten).await.unwrap();
    assert_eq!(outcome.compactions(), (10, 10));
    outcome.assert_records(&simple.history.compacted(49, 10), "rewritten");
}

#[tokio::test]
async fn an_appended_database_leaves_the_compaction_to_etcd() {
    let simple = Simple::new().await;
    simple.delta(31, 50, capture(50, 45)).await;
    let outcome = simple.site.restore_revision(55, WayWanted::BySize).await.unwrap();
    assert_eq!((outcome.point().way, outcome.compactions()), (Way::Append, (45, 10)));
    outcome.assert_records(&simple.history.compacted(55, 10), "appended");
}

#[tokio::test]
async fn a_moment_inside_the_image_is_cut_out_of_it() {
    let simple = Simple::new().await;
    for revision in [10, 11, 17, 20, 23] {
        let outcome = simple.site.restore_revision(revision, WayWanted::BySize).await.unwrap();
        outcome.assert_records(&simple.history.compacted(revision, 10), &format!("cut at {revision}"));
        assert_eq!(outcome.summary.facts.image.revision, Revision(revision));
        assert!(matches!(outcome.summary.proof.hash_kv, HashKvProof::Equal(_)));
    }
}

#[tokio::test]
async fn the_newest_moment_is_the_images_where_it_reaches_farther() {
    let simple = Simple::new().await;
    for delta in &simple.deltas[1..] {
        simple.site.remove(delta).await;
    }
    simple.site.remove(&simple.deltas[0]).await;
    simple.delta(21, 23, capture(23, 0)).await;
    let outcome = simple.site.restore(&newest()).await.unwrap();
    outcome.assert_records(&simple.history.compacted(25, 10), "the image as it is");
    let outcome = simple.site.restore_revision(23, WayWanted::BySize).await.unwrap();
    outcome.assert_records(&simple.history.compacted(23, 10), "cut");
}

#[tokio::test]
async fn many_small_deltas_are_one_get_each() {
    let history = History::random(&mut Dice::new(3), 420);
    let (site, lineage) = (Site::new(), lineage(2));
    let digests = history.digests(&lineage, 2);
    let full = Full {
        lineage,
        seam: 2,
        revision: 2,
        floor: 0,
        history: digests[&2],
        leases: Vec::new(),
        db_bytes: 1 << 30,
        answers: Vec::new(),
    };
    site.full(&history, full).await;
    for revision in 3..=history.last {
        let (range, before) = ((revision, revision), digests[&(revision - 1)]);
        site.delta((lineage, &history), range, before, capture(revision, 0)).await;
    }
    let plan = site.plan(&newest(), site.target_dir()).await.unwrap();
    let before = site.store.count(Call::Read);
    let RestoreSource::Point(point) = &plan.source else { panic!("no moment") };
    let deltas = point.chain.deltas.len() as u64;
    let data_dir = plan.data_dir.clone();
    let outcome = run(plan, data_dir, &site.context).await.unwrap();
    outcome.assert_records(&history.records, "all of it");
    assert_eq!((deltas, outcome.point().records), (history.last as u64 - 2, history.between(3, i64::MAX).len() as u64));
    assert!(deltas > 300, "{deltas}");
    assert_eq!(site.store.count(Call::Read) - before, deltas);
    // They are fetched side by side, and never more of them than the reading ahead allows.
    let most = site.store.most_at_once(Call::Read);
    assert!((2..=16).contains(&most), "{most} at once");
}

#[tokio::test]
async fn sizes_choose_the_way() {
    let mut history = History::random(&mut Dice::new(5), 20);
    for n in 0..400 {
        history.begin();
        history.put(0, "/churned", &vec![n as u8; 2000], 0);
    }
    let simple = Simple::of(history).await;
    let last = simple.history.last;
    // The source is told to be a gigabyte large: there is room to append.
    assert_eq!(simple.site.restore(&newest()).await.unwrap().point().way, Way::Append);
    let site = Site::new();
    let digests = simple.history.digests(&simple.lineage, 20);
    let full = Full {
        lineage: simple.lineage,
        seam: 20,
        revision: 20,
        floor: 0,
        history: digests[&20],
        leases: Vec::new(),
        db_bytes: 40_960,
        answers: Vec::new(),
    };
    site.full(&simple.history, full).await;
    let name = site.name(simple.lineage, NameKind::Delta { first: Revision(21), last: Revision(last) }, time_of(last));
    let facts = FooterFacts {
        revisions: (Revision(21), Revision(last)),
        history: (digests[&20], digests[&20]),
        capture: capture(last, last - 1),
        ..facts(last, 40_960)
    };
    let records = simple.history.between(21, last);
    let sealed = site.archive.seal_delta(name, &records, facts, CompressionLevel::Zstd(1)).unwrap();
    site.archive.put_delta(&sealed).await.unwrap();
    let outcome = site.restore(&newest()).await.unwrap();
    assert_eq!(outcome.point().way, Way::RewriteChurned);
    outcome.assert_records(&simple.history.compacted(last, last - 1), "rewritten");
    assert!(outcome.db.len() < 100_000, "{} bytes", outcome.db.len());
}

#[tokio::test]
async fn a_revision_may_span_chunks() {
    // Chunks hold 4 MiB at most: transactions of five megabytes begin in one and end in another.
    let mut history = History::random(&mut Dice::new(21), 20);
    for n in 0..4_u8 {
        history.begin();
        for sub in 0..3 {
            history.put(sub, &format!("/large/{sub}"), &vec![n; 1_700_000], 0);
        }
        history.begin();
        history.put(0, "/small", &[n], 0);
    }
    let (site, lineage, last) = (Site::new(), lineage(20), history.last);
    let digests = history.digests(&lineage, 20);
    let full = Full {
        lineage,
        seam: 20,
        revision: 20,
        floor: 0,
        history: digests[&20],
        leases: Vec::new(),
        db_bytes: 1 << 30,
        answers: Vec::new(),
    };
    site.full(&history, full).await;
    site.delta((lineage, &history), (21, last), digests[&20], capture(last, 0)).await;
    for revision in 20..=last {
        let before = site.store.count(Call::Read);
        let outcome = site.restore_revision(revision, WayWanted::BySize).await.unwrap();
        outcome.assert_records(&history.compacted(revision, 0), &format!("{revision}"));
        assert!(site.store.count(Call::Read) > before);
    }
    let outcome = site.restore_revision(last - 1, WayWanted::Rewritten).await.unwrap();
    outcome.assert_records(&history.compacted(last - 1, 0), "rewritten");
}
