//! Deltas that were merged hold what their parts held, and what does not follow is not merged.

use super::*;
use crate::format::{LeaseGrant, LeaseList, LeaseTtl, RecordsDecoder, TimeMark};

fn lease(id: i64, ttl_s: i64) -> LeaseGrant {
    LeaseGrant { id, ttl_s, known: LeaseTtl::Granted }
}

fn records(first: i64, last: i64) -> Vec<Record> {
    let record = |main: i64| Record {
        main: Revision(main),
        sub: 0,
        change: Change::Put,
        value: sample(30 + main as usize % 9).into(),
    };
    (first..=last).map(record).collect()
}

/// Deltas that follow each other; without records where the range is empty.
fn parts(archive: &Archive, ranges: &[(i64, i64)], level: CompressionLevel) -> Vec<SealedDelta> {
    let lineage = name(1).lineage;
    let mut history = HistoryDigest::at_seam(&lineage, Revision(ranges[0].0 - 1));
    let mut parts = Vec::new();
    for (n, (first, last)) in ranges.iter().enumerate() {
        let created = UnixMillis(1_700_000_000_000 + n as i64);
        let kind = NameKind::Delta { first: Revision(*first), last: Revision(*last) };
        let name = BackupName { kind, created, nonce: ObjectNonce::random().unwrap(), ..name(1) };
        let facts = FooterFacts {
            seam: None,
            history: (history, history),
            capture: CaptureFacts {
                time_marks: vec![TimeMark { time: created, revision: Revision(*last) }],
                leases: vec![lease(n as i64, 10), lease(100, n as i64)],
                compact_revision: Some(Revision(7)),
                ..CaptureFacts::default()
            },
            ..facts(&name, &[])
        };
        parts.push(archive.seal_delta(name, &records(*first, *last), facts, level).unwrap());
        history = parts[n].facts().history.1;
    }
    parts
}

#[tokio::test]
async fn a_merged_delta_holds_what_its_parts_held() {
    for (keyring, level) in [
        (Keyring::default(), CompressionLevel::Zstd(3)),
        (keyring(KEY), CompressionLevel::None),
        (keyring(KEY), CompressionLevel::default()),
    ] {
        let archive = TestArchive::new(keyring);
        let parts = parts(&archive.archive, &[(44, 43), (44, 50), (51, 51), (52, 51), (52, 60)], level);
        let merged = archive.archive.merge_deltas(&parts).unwrap();
        archive.archive.put_delta(&merged).await.unwrap();
        let entry = archive.archive.catalogue().await.unwrap().newest_first()[0].clone();
        assert_eq!(entry.name.kind, NameKind::Delta { first: Revision(44), last: Revision(60) });
        assert_eq!(entry.name.created, parts[4].name().created);
        let reader = archive.archive.open_listed(&entry).await.unwrap();
        let footer = reader.footer();
        assert_eq!(footer.facts, *merged.facts());
        assert_eq!(footer.facts.history, (parts[0].facts().history.0, parts[4].facts().history.1));
        let capture = &footer.facts.capture;
        let ends: Vec<i64> = capture.chunk_history.iter().map(|chunk| chunk.revision.0).collect();
        assert_eq!(ends, [50, 51, 60]);
        let times: Vec<i64> = capture.time_marks.iter().map(|mark| mark.time.0 % 1000).collect();
        assert_eq!(times, [0, 1, 2, 3, 4]);
        let leases: Vec<(i64, i64)> = capture.leases.iter().map(|lease| (lease.id, lease.ttl_s)).collect();
        assert_eq!(leases, [(0, 10), (1, 10), (2, 10), (3, 10), (4, 10), (100, 4)]);
        assert_eq!(capture.compact_revision, Some(Revision(7)));
        let chunks: Vec<Vec<u8>> = reader
            .chunks(ReadLimits::default())
            .map(|chunk| chunk.map(|(bytes, _)| bytes.to_vec()))
            .try_collect()
            .await
            .unwrap();
        let read: Vec<Record> = chunks
            .iter()
            .flat_map(|chunk| RecordsDecoder::new(chunk))
            .map(|record| {
                let record = record.unwrap();
                let value = record.value.to_vec().into();
                Record { main: record.main, sub: record.sub, change: record.change, value }
            })
            .collect();
        assert_eq!(read, records(44, 60));
        let plain: Vec<u8> = chunks.concat();
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&plain)), footer.facts.plain_sha256);
        // Again, behind another one.
        assert!(archive.archive.merge_deltas(std::slice::from_ref(&merged)).is_ok());
    }
}

#[test]
fn what_does_not_follow_is_not_merged() {
    let archive = TestArchive::new(keyring(KEY));
    let level = CompressionLevel::default();
    let own = parts(&archive.archive, &[(44, 50), (51, 55), (56, 60)], level);
    let other = parts(&archive.archive, &[(43, 50), (51, 55)], level);
    assert!(own[0].joins(&own[1]));
    // A gap, an overlap, another history.
    for [one, next] in [[&own[0], &own[2]], [&own[1], &own[0]], [&own[0], &other[1]]] {
        assert!(!one.joins(next));
        assert!(archive.archive.merge_deltas(&[one.clone(), next.clone()]).is_err());
    }
    let again = |change: fn(&mut FooterFacts)| {
        let mut facts = own[1].facts().clone();
        change(&mut facts);
        let name = BackupName { nonce: ObjectNonce::random().unwrap(), ..*own[1].name() };
        archive.archive.seal_delta(name, &records(51, 55), facts, level).unwrap()
    };
    assert!(own[0].joins(&again(|_| ())));
    assert!(!own[0].joins(&again(|facts| facts.capture.lease_list = LeaseList::Complete)));
    assert!(!own[0].joins(&again(|facts| facts.capture.compact_revision = Some(Revision(44)))));
}
