//! Leases: those of the image, those that came later, those that are gone, and those that nobody knows.

use super::*;
use crate::format::{LeaseGrant, LeaseList, LeaseTtl};

/// A history in which leases 1 to 9 are each named by the key of that number, from revision 22 on.
fn leased() -> History {
    let mut history = History { last: 1, ..History::default() };
    while history.last < 20 {
        history.begin();
        history.put(0, "/filler", b"x", 0);
    }
    for id in [1, 2, 3, 4, 5, 6, 7, 8, 9_i64] {
        history.begin();
        history.put(0, &format!("/leased/{id}"), b"x", id);
    }
    while history.last < 60 {
        history.begin();
        history.put(0, "/filler", b"x", 0);
    }
    history.begin();
    history.delete(0, "/leased/9");
    history
}

fn told(revision: i64, list: LeaseList, leases: &[(i64, i64)]) -> CaptureFacts {
    CaptureFacts { leases: grants(leases), lease_list: list, ..capture(revision, 0) }
}

/// A full at 20 with leases 1 (which has no key by then) and 50; the deltas of `told`.
async fn with_deltas(deltas: &[(i64, i64, CaptureFacts)]) -> Site {
    let (site, history, lineage) = (Site::new(), leased(), lineage(20));
    let digests = history.digests(&lineage, 20);
    let full = Full {
        lineage,
        seam: 20,
        revision: 20,
        floor: 0,
        history: digests[&20],
        leases: vec![(1, 60), (50, 60)],
        db_bytes: 1 << 30,
        answers: Vec::new(),
    };
    site.full(&history, full).await;
    for (first, last, capture) in deltas {
        site.delta((lineage, &history), (*first, *last), digests[&(first - 1)], capture.clone()).await;
    }
    site
}

async fn restored(site: &Site, revision: i64) -> (Vec<(i64, i64)>, u64) {
    let mut found = None;
    for way in [WayWanted::BySize, WayWanted::Rewritten] {
        let outcome = site.restore_revision(revision, way).await.unwrap();
        let leases = (outcome.leases(), outcome.summary.facts.assumed_leases);
        assert!(found.is_none_or(|found| found == leases), "{way:?}");
        found = Some(leases);
    }
    found.unwrap()
}

#[tokio::test]
async fn leases_of_deltas_join_those_of_the_image() {
    let site = with_deltas(&[
        (21, 25, told(25, LeaseList::New, &[(2, 20), (3, 30), (4, 40)])),
        (26, 61, told(61, LeaseList::New, &[(5, 50), (-6, 7)])),
    ])
    .await;
    // 21 put /leased/1, 22 /leased/2 and so on; 5 to 8 are alive at 61, and of 6 to 8 nothing is known.
    let (leases, assumed) = restored(&site, 61).await;
    let hour = MISSING_LEASE_TTL_S;
    let known = [(1, 60), (2, 20), (3, 30), (4, 40), (5, 50), (6, hour), (7, hour), (8, hour), (50, 60), (-6, 7)];
    assert_eq!((leases.as_slice(), assumed), (&known[..], 3));
}

#[tokio::test]
async fn a_whole_list_replaces_what_was_known() {
    let site = with_deltas(&[
        (21, 29, told(29, LeaseList::New, &[(2, 20), (3, 30), (4, 40), (5, 50), (77, 1)])),
        (
            30,
            45,
            told(45, LeaseList::Complete, &[(1, 60), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60), (7, 70), (8, 80)]),
        ),
        (46, 61, told(61, LeaseList::New, &[(100, 10)])),
    ])
    .await;
    // 50 of the image and 77 are gone.
    let eight = [(1, 60), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60), (7, 70), (8, 80)];
    let expected = [&eight[..], &[(100, 10)]].concat();
    assert_eq!(restored(&site, 61).await, (expected, 0));
    // Before the list was made they were there; the seconds of what is missing are known all the same.
    let (leases, assumed) = restored(&site, 40).await;
    assert_eq!(assumed, 1, "{leases:?}");
    assert!(leases.contains(&(50, 60)) && leases.contains(&(77, 1)) && leases.contains(&(8, 80)), "{leases:?}");
    assert!(leases.contains(&(9, MISSING_LEASE_TTL_S)) && !leases.contains(&(100, 10)), "{leases:?}");
}

#[tokio::test]
async fn objects_that_only_mark_time_tell_of_leases_too() {
    let all = [(1, 60), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60), (7, 70), (8, 80)];
    let site = with_deltas(&[(21, 61, told(61, LeaseList::New, &[(2, 20), (3, 30)]))]).await;
    let (history, lineage) = (leased(), lineage(20));
    let after = history.digests(&lineage, 20)[&61];
    let mark = async |seconds: i64, list: LeaseList, leases: &[(i64, i64)]| {
        let mut told = told(61, list, leases);
        told.time_marks[0].time = UnixMillis(time_of(61).0 + seconds * 1000);
        let created = told.time_marks[0].time;
        let name = site.name(lineage, NameKind::Delta { first: Revision(62), last: Revision(61) }, created);
        let facts = FooterFacts {
            revisions: (Revision(62), Revision(61)),
            history: (after, after),
            capture: CaptureFacts { compact_revision: Some(Revision(30 + seconds)), ..told },
            ..facts(61, 1 << 30)
        };
        let sealed = site.archive.seal_delta(name, &[], facts, CompressionLevel::Zstd(1)).unwrap();
        site.archive.put_delta(&sealed).await.unwrap();
    };
    mark(1, LeaseList::New, &[(70, 7)]).await;
    mark(2, LeaseList::Complete, &[all.as_slice(), &[(60, 6)]].concat()).await;
    mark(3, LeaseList::New, &[(80, 8)]).await;
    let (leases, assumed) = restored(&site, 61).await;
    let expected = [all.as_slice(), &[(60, 6), (80, 8)]].concat();
    assert_eq!((leases, assumed), (expected, 0));
    // They know of compactions as well.
    assert_eq!(site.restore(&newest()).await.unwrap().compactions().0, 33);
    // A moment before them does not know of them.
    let (leases, _) = restored(&site, 60).await;
    assert!(!leases.contains(&(60, 6)) && !leases.contains(&(80, 8)), "{leases:?}");
}

#[tokio::test]
async fn a_cut_image_has_a_lease_for_each_live_key() {
    let (site, history, lineage) = (Site::new(), leased(), lineage(20));
    let digests = history.digests(&lineage, 40);
    // Lease 9 was revoked between 60 and 61, with its key.
    let full = Full {
        lineage,
        seam: 40,
        revision: 61,
        floor: 0,
        history: digests[&40],
        leases: (1..=8).map(|id| (id, 60)).collect(),
        db_bytes: 1 << 30,
        answers: Vec::new(),
    };
    site.full(&history, full).await;
    let (leases, assumed) = restored(&site, 40).await;
    assert_eq!((leases.len(), assumed, leases.last()), (9, 1, Some(&(9, MISSING_LEASE_TTL_S))));
}

/// The sidecar was killed before it was told of leases 6 to 8, or had to wait for the answer.
#[tokio::test]
async fn a_lease_that_is_told_of_only_behind_the_moment_is_known() {
    let all = [(1, 60), (2, 20), (3, 30), (4, 40), (5, 50), (7, 70), (8, 80)];
    let site = with_deltas(&[
        (21, 29, told(29, LeaseList::New, &[(2, 20), (3, 30), (4, 40), (5, 50)])),
        (30, 45, told(45, LeaseList::New, &[])),
        (46, 50, told(50, LeaseList::New, &[(6, 60)])),
        (51, 61, told(61, LeaseList::Complete, &all)),
    ])
    .await;
    let (leases, assumed) = restored(&site, 40).await;
    let known =
        [(1, 60), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60), (7, 70), (8, 80), (9, MISSING_LEASE_TTL_S), (50, 60)];
    assert_eq!((leases.as_slice(), assumed), (&known[..], 1));

    // What lies behind the moment helps where it can, and is not needed.
    let catalogue = site.archive.catalogue().await.unwrap();
    let last = catalogue.lineages.values().next().unwrap().backups.last().unwrap().name;
    let mut bytes = std::fs::read(site.path(&last)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(site.path(&last), bytes).unwrap();
    let (leases, assumed) = restored(&site, 40).await;
    assert!(leases.contains(&(6, 60)) && leases.contains(&(8, MISSING_LEASE_TTL_S)), "{leases:?}");
    assert_eq!(assumed, 3);
}

/// Lease 5 was gone before it could be asked about, while its key is alive at the moment.
#[tokio::test]
async fn what_capture_assumed_is_counted_and_the_operators_to_choose() {
    let mut first = told(29, LeaseList::New, &[(2, 20), (3, 30), (4, 40)]);
    first.leases.push(LeaseGrant { id: 5, ttl_s: 3_600, known: LeaseTtl::Assumed });
    let site = with_deltas(&[(21, 29, first)]).await;
    let data_dir = site.target_dir();
    let mut plan = site.plan(&newest(), data_dir.clone()).await.unwrap();
    plan.missing_lease_ttl_s = 77;
    let outcome = run(plan, data_dir, &site.context).await.unwrap();
    let leases = outcome.leases();
    assert!([5, 6, 7, 8, 9].iter().all(|id| leases.contains(&(*id, 77))), "{leases:?}");
    assert_eq!(outcome.summary.facts.assumed_leases, 5);
}
