//! What must not be restored, and what takes the place of objects that vanish.

use super::*;
use crate::error::{Error, ErrorKind};
use crate::store::faulty::Call;

fn refusal(outcome: Result<Outcome>, kind: ErrorKind, words: &[&str]) -> Error {
    let error = outcome.err().expect("it should be refused");
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{error} should say: {word}");
    }
    error
}

#[tokio::test]
async fn a_gap_is_refused_with_its_range_and_a_part_may_be_had() {
    let simple = Simple::new().await;
    simple.site.remove(&simple.deltas[3]).await;
    let error = refusal(simple.site.restore(&newest()).await, ErrorKind::Refused, &["revisions 36 to 40 are missing"]);
    assert!(error.next_step().unwrap().contains("--allow-partial"));
    for target in [Target::Newest, Target::Revision(Revision(38)), Target::Revision(Revision(50))] {
        let partial = PointRequest { on_gap: OnGap::StopBefore, target, ..newest() };
        let outcome = simple.site.restore(&partial).await.unwrap();
        outcome.assert_records(&simple.history.compacted(35, 10), "up to the gap");
        let gap = outcome.point().chain.gap.unwrap();
        assert_eq!((gap.first, gap.last), (Revision(36), Revision(40)));
    }
    // What lies before it is not touched by it.
    simple.site.restore_revision(35, WayWanted::BySize).await.unwrap();
}

/// Another history that is the same up to `revision`.
fn parted(history: &History, revision: i64) -> History {
    let mut other = History { records: history.between(0, revision), last: revision, ..History::default() };
    while other.last < history.last {
        other.begin();
        other.put(0, "/other", b"elsewhere", 0);
    }
    other
}

#[tokio::test]
async fn a_fork_is_refused_by_name() {
    for way in [WayWanted::BySize, WayWanted::Rewritten] {
        let simple = Simple::new().await;
        for name in &simple.deltas[2..] {
            simple.site.remove(name).await;
        }
        // The same lineage, written on by somebody whose history parted at 28: 21 to 30 are there, 31 to 40 are his.
        let other = parted(&simple.history, 28);
        let digests = other.digests(&simple.lineage, 20);
        let fork =
            simple.site.delta((simple.lineage, &other), (31, 40), digests[&30], capture(40, 0)).await.to_string();
        let error =
            refusal(simple.site.restore_revision(40, way).await, ErrorKind::Refused, &[&fork, "at revision 30"]);
        assert!(error.to_string().contains(&simple.deltas[1].to_string()), "{error}");
        // Before it all is well.
        simple.site.restore_revision(30, way).await.unwrap();
    }
}

#[tokio::test]
async fn a_fork_behind_an_overlap_is_refused_where_the_two_meet() {
    let simple = Simple::new().await;
    for name in &simple.deltas[2..] {
        simple.site.remove(name).await;
    }
    let other = parted(&simple.history, 28);
    let digests = other.digests(&simple.lineage, 20);
    let fork = simple.site.delta((simple.lineage, &other), (24, 40), digests[&23], capture(40, 0)).await.to_string();
    // 21 to 25 and then his: it begins at 24, and is the same until 28.
    let chosen = simple.site.restore_revision(28, WayWanted::BySize).await.unwrap();
    chosen.assert_records(&simple.history.compacted(28, 10), "the same until then");
    simple.site.remove(&simple.deltas[0]).await;
    simple.delta(21, 30, capture(30, 0)).await;
    refusal(simple.site.restore_revision(40, WayWanted::BySize).await, ErrorKind::Refused, &[&fork, "at revision 30"]);
}

#[tokio::test]
async fn a_delta_of_another_history_than_its_full_is_refused() {
    // The digests say that it follows; the image holds something else.
    for way in [WayWanted::BySize, WayWanted::Rewritten] {
        let simple = Simple::new().await;
        let other = parted(&simple.history, 20);
        for name in &simple.deltas {
            simple.site.remove(name).await;
        }
        let before = simple.digests[&20];
        let fork = simple.site.delta((simple.lineage, &other), (21, 40), before, capture(40, 0)).await.to_string();
        refusal(simple.site.restore_revision(40, way).await, ErrorKind::Refused, &[&fork, "image of the full"]);
    }
}

#[tokio::test]
async fn records_that_the_image_lacks_or_has_besides_are_noticed() {
    // One change less, or one more, in a revision that both have.
    let simple = Simple::new().await;
    let mut fewer = simple.history.clone();
    let two = (21..=25).find(|main| simple.history.between(*main, *main).len() > 1).expect("a transaction of several");
    let last = fewer.records.iter().rposition(|record| record.main.0 == two).unwrap();
    fewer.records.remove(last);
    let mut more = simple.history.clone();
    let extra = Record { sub: 9, ..more.records[last].clone() };
    more.records.insert(last + 1, extra);
    // The same changes, one of another value.
    let mut changed = simple.history.clone();
    let mut value = changed.records[last].value.to_vec();
    let end = value.len() - 1;
    value[end] ^= 1;
    changed.records[last].value = value.into();
    for other in [fewer, more, changed] {
        for name in simple.site.archive.catalogue().await.unwrap().newest_first() {
            if matches!(name.name.kind, NameKind::Delta { .. }) {
                simple.site.remove(&name.name).await;
            }
        }
        simple.site.delta((simple.lineage, &other), (21, 40), simple.digests[&20], capture(40, 0)).await;
        let outcome = simple.site.restore_revision(40, WayWanted::BySize).await;
        refusal(outcome, ErrorKind::Refused, &[&format!("revision {two}"), "image of the full"]);
    }
}

#[tokio::test]
async fn a_moment_below_the_floor_takes_an_older_full_or_is_refused() {
    let simple = Simple::new().await;
    let (digests, last) = (&simple.digests, simple.history.last);
    // A second full that is compacted behind its own seam: its image was taken a little later.
    let full = Full {
        lineage: simple.lineage,
        seam: 40,
        revision: 44,
        floor: 43,
        history: digests[&40],
        leases: Vec::new(),
        db_bytes: 1 << 30,
        answers: Vec::new(),
    };
    let second = simple.site.full(&simple.history, full).await;
    for way in [WayWanted::BySize, WayWanted::Rewritten] {
        let outcome = simple.site.restore_revision(42, way).await.unwrap();
        assert_eq!(outcome.point().chain.full.name, simple.full);
        outcome.assert_records(&simple.history.compacted(42, 10), "from the older full");
        let outcome = simple.site.restore_revision(last, way).await.unwrap();
        assert_eq!(outcome.point().chain.full.name, second);
    }
    // Below the floor of the oldest one there is nothing.
    let words = ["revision 9", "compacted at 10", "nothing else leads to it"];
    refusal(simple.site.restore_revision(9, WayWanted::BySize).await, ErrorKind::Refused, &words);
    refusal(simple.site.restore_revision(9, WayWanted::Rewritten).await, ErrorKind::Refused, &words);
    refusal(simple.site.restore_revision(last + 1, WayWanted::BySize).await, ErrorKind::NotFound, &["does not reach"]);
}

#[tokio::test]
async fn objects_that_vanish_make_it_plan_again() {
    for (wider, from) in [(true, "a wider delta"), (false, "nothing")] {
        let simple = Simple::new().await;
        let (data_dir, last) = (simple.site.target_dir(), simple.history.last);
        let plan = simple.site.plan(&newest(), data_dir.clone()).await.unwrap();
        for name in &simple.deltas[1..5] {
            simple.site.remove(name).await;
        }
        if wider {
            simple.delta(23, 47, capture(47, 0)).await;
        }
        let lists = simple.site.store.count(Call::List);
        let outcome = run(plan, data_dir, &simple.site.context).await;
        assert!(simple.site.store.count(Call::List) > lists, "{from}");
        if wider {
            outcome.unwrap().assert_records(&simple.history.compacted(last, 10), from);
        } else {
            refusal(outcome, ErrorKind::Refused, &["revisions 26 to 45 are missing"]);
        }
    }
}

#[tokio::test]
async fn an_object_that_stays_away_is_not_waited_for() {
    let simple = Simple::new().await;
    simple.site.store.fail_from(3, Some(Call::Read), crate::store::faulty::Strike::Before, ErrorKind::NotFound);
    let outcome = simple.site.restore(&newest()).await;
    refusal(outcome, ErrorKind::NotFound, &[]);
}

#[tokio::test]
async fn damage_of_any_delta_is_noticed() {
    let simple = Simple::new().await;
    for name in [&simple.deltas[0], &simple.deltas[4]] {
        let path = simple.site.path(name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        refusal(simple.site.restore(&newest()).await, ErrorKind::Damaged, &[&name.to_string()]);
        std::fs::write(&path, &good).unwrap();
    }
    simple.site.restore(&newest()).await.unwrap();
}

#[tokio::test]
async fn records_that_the_source_did_not_have_are_noticed() {
    // The source's own answer, about records that came after the image.
    for way in [WayWanted::BySize, WayWanted::Rewritten] {
        let simple = Simple::new().await;
        let mut right = answer(&simple.history.records, 55, 10);
        // The newest objects are looked at first; a wide one says it.
        let mut facts = facts(58, 1 << 30);
        facts.revisions = (Revision(31), Revision(58));
        facts.history = (simple.digests[&30], simple.digests[&30]);
        facts.capture = capture(58, 0);
        for wrong in [0, 1] {
            right.hash ^= wrong;
            facts.hash_kv = vec![right];
            let kind = NameKind::Delta { first: Revision(31), last: Revision(58) };
            let name = simple.site.name(simple.lineage, kind, time_of(58));
            let records = simple.history.between(31, 58);
            let level = CompressionLevel::Zstd(1);
            let sealed = simple.site.archive.seal_delta(name, &records, facts.clone(), level).unwrap();
            simple.site.archive.put_delta(&sealed).await.unwrap();
            let outcome = simple.site.restore_revision(57, way).await;
            if wrong == 0 {
                let proof = outcome.unwrap().summary.proof.hash_kv;
                assert_eq!(proof, HashKvProof::Equal(right), "{way:?}");
            } else {
                refusal(outcome, ErrorKind::Damaged, &["HashKV"]);
            }
            simple.site.remove(&name).await;
        }
    }
}
