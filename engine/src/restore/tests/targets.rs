//! Ways to say which moment: by time, by a key that was deleted, by a full; and on several members.

use super::*;
use crate::error::ErrorKind;

fn at(time: UnixMillis) -> PointRequest {
    PointRequest { target: Target::At(time), ..newest() }
}

fn before_delete(key: &str) -> PointRequest {
    PointRequest { target: Target::BeforeDelete(key.as_bytes().to_vec()), ..newest() }
}

#[tokio::test]
async fn a_time_is_the_last_mark_at_or_before_it() {
    let simple = Simple::new().await;
    // Marks are at 20 (the full), and at the end of each delta: 25, 30, 35 ...
    for (asked, expected) in [(20, 20), (24, 20), (25, 25), (33, 30), (1000, simple.history.last)] {
        let outcome = simple.site.restore(&at(time_of(asked))).await.unwrap();
        outcome.assert_records(&simple.history.compacted(expected, 10), &format!("at {asked}"));
        let Resolved::Marked { mark, .. } = outcome.point().resolved else { panic!("found by something else") };
        assert_eq!((mark.revision, mark.time), (Revision(expected), time_of(expected)));
    }
    let error = simple.site.restore(&at(time_of(19))).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&time_of(19).to_string()), "{error}");
}

#[tokio::test]
async fn marks_inside_a_wide_delta_that_was_written_later_are_found() {
    let simple = Simple::new().await;
    for name in &simple.deltas {
        simple.site.remove(name).await;
    }
    let marks = (21..=50).map(|revision| TimeMark { time: time_of(revision), revision: Revision(revision) }).collect();
    simple.delta(21, 50, CaptureFacts { time_marks: marks, ..CaptureFacts::default() }).await;
    let outcome = simple.site.restore(&at(UnixMillis(time_of(37).0 + 5))).await.unwrap();
    outcome.assert_records(&simple.history.compacted(37, 10), "37");
}

#[tokio::test]
async fn a_time_is_looked_for_in_the_lineage_that_was_alive() {
    let simple = Simple::new().await;
    // A restored cluster writes a lineage of its own from 1000 on; its first full is there a little later.
    let other = History::random(&mut Dice::new(9), 30);
    let born = LineageId { birth: time_of(1000), ..lineage(20) };
    let digests = other.digests(&born, 10);
    let name = simple.site.name(born, NameKind::Full { seam: Revision(10) }, time_of(1000));
    let image = image(&other.compacted(10, 0), 0, &[]);
    let mut writer = simple.site.archive.writer(name, WriteLimits::default()).unwrap();
    writer.push(&image).await.unwrap();
    let mark = TimeMark { time: time_of(1005), revision: Revision(10) };
    let facts = FooterFacts {
        plain_sha256: Sha256::digest(&image).into(),
        revisions: (Revision(10), Revision(10)),
        seam: Some(Seam { revision: Revision(10), records: Vec::new(), proof: SeamProof::Unproven }),
        history: (digests[&10], digests[&10]),
        capture: CaptureFacts { time_marks: vec![mark], ..CaptureFacts::default() },
        ..facts(1000, 1 << 30)
    };
    writer.finish(&facts).await.unwrap();
    for (asked, expected) in [(40, simple.lineage), (1003, simple.lineage), (1005, born), (5000, born)] {
        let outcome = simple.site.restore(&at(time_of(asked))).await.unwrap();
        assert_eq!(outcome.point().chain.full.name.lineage, expected, "at {asked}");
    }
    let latest = simple.site.restore(&newest()).await.unwrap();
    assert_eq!(latest.point().chain.full.name.lineage, born);
}

/// A history in which keys are deleted where the tests want it.
fn deleting() -> History {
    let mut history = History::random(&mut Dice::new(11), 14);
    let mut change = |key: &str, put: bool| {
        history.begin();
        if put {
            history.put(0, key, b"x", 0)
        } else {
            history.delete(0, key)
        }
        history.last
    };
    while change("/filler", true) < 17 {}
    change("/in-image", true);
    change("/in-image", false);
    while change("/filler", true) < 40 {}
    for _ in 0..2 {
        change("/twice", true);
        change("/twice", false);
    }
    change("/twice", true);
    while change("/filler", true) < 60 {}
    history
}

#[tokio::test]
async fn the_moment_before_a_key_was_deleted_last() {
    let simple = Simple::of(deleting()).await;
    let deleted = |key: &str| {
        let is_deletion = |record: &&Record| {
            record.change == Change::Tombstone && crate::datadir::user_key(&record.as_ref()).unwrap() == key.as_bytes()
        };
        simple.history.records.iter().rfind(is_deletion).unwrap().main.0
    };
    // In a delta; in an image, at its last revision but a few, behind what it is compacted at.
    for key in ["/twice", "/in-image"] {
        let outcome = simple.site.restore(&before_delete(key)).await.unwrap();
        outcome.assert_records(&simple.history.compacted(deleted(key) - 1, 10), key);
        assert_eq!(outcome.point().resolved, Resolved::DeletedAt(Revision(deleted(key))));
    }
    for key in ["/filler", "/absent", "/twic"] {
        let error = simple.site.restore(&before_delete(key)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[tokio::test]
async fn a_full_that_is_named_is_restored_alone() {
    let simple = Simple::new().await;
    let alone = PointRequest { selection: Selection::Backup(simple.full), ..newest() };
    let outcome = simple.site.restore(&alone).await.unwrap();
    outcome.assert_records(&simple.history.compacted(25, 10), "the image as it is");
    let with_target = PointRequest { target: Target::Revision(Revision(22)), ..alone };
    assert_eq!(simple.site.restore(&with_target).await.err().unwrap().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn several_members_need_a_moment_that_means_the_same_on_each() {
    let simple = Simple::new().await;
    let plan = async |point: &PointRequest, purpose: Purpose| {
        let three = "a=http://h1:2380,b=http://h2:2380,c=http://h3:2380".to_owned();
        let request = RestoreRequest {
            membership: MembershipRequest {
                name: Some("a".to_owned()),
                initial_cluster: Some(three),
                ..MembershipRequest::default()
            },
            data_dir: simple.site.target_dir(),
            limits: ReadLimits::default(),
            thoroughness: Thoroughness::Full,
            staging: StageOptions::default(),
            bump: None,
            missing_lease_ttl_s: 60,
            purpose,
        };
        plan_restore(&simple.site.archive, point, request, &simple.site.context).await
    };
    let of_lineage = PointRequest { selection: Selection::Lineage(simple.lineage), ..newest() };
    let by_revision = PointRequest { target: Target::Revision(Revision(33)), ..of_lineage.clone() };
    let unclear = PointRequest { target: Target::Revision(Revision(33)), ..newest() };
    for point in [&newest(), &of_lineage, &unclear, &at(time_of(30)), &before_delete("/key/1")] {
        assert_eq!(plan(point, Purpose::Restore).await.unwrap_err().kind(), ErrorKind::Refused, "{point:?}");
    }
    plan(&by_revision, Purpose::Restore).await.unwrap();
    plan(&PointRequest { selection: Selection::Backup(simple.full), ..newest() }, Purpose::Restore).await.unwrap();
    // Shown, it says what to ask for instead.
    let shown = plan(&at(time_of(33)), Purpose::DryRun).await.unwrap();
    let RestoreSource::Point(shown) = &shown.source else { panic!("no moment") };
    let lineage = Selection::Lineage(simple.lineage);
    assert_eq!(shown.explicit(), (lineage, Target::Revision(Revision(30))));
}
