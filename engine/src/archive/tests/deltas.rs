//! Deltas: sealed in memory, put at once, read back record for record; damaged in every way.

use super::*;
use crate::format::{CaptureFacts, HistoryDigest, RecordsDecoder, TimeMark};

fn records(first: i64, last: i64) -> Vec<Record> {
    let record = |main, sub| Record {
        main: Revision(main),
        sub,
        change: if sub == 1 { Change::Tombstone } else { Change::Put },
        value: sample(40 + main as usize % 9).into(),
    };
    (first..=last).flat_map(|main| [record(main, 0), record(main, 1)]).collect()
}

fn delta_name(first: i64, last: i64) -> BackupName {
    BackupName { kind: NameKind::Delta { first: Revision(first), last: Revision(last) }, ..name(1) }
}

fn seal(archive: &Archive, first: i64, last: i64) -> Result<SealedDelta> {
    let name = delta_name(first, last);
    let before = HistoryDigest::at_seam(&name.lineage, Revision(first - 1));
    let facts = FooterFacts {
        seam: None,
        history: (before, before),
        capture: CaptureFacts {
            time_marks: vec![TimeMark { time: UnixMillis(5), revision: Revision(last) }],
            ..CaptureFacts::default()
        },
        ..facts(&name, &[])
    };
    archive.seal_delta(name, &records(first, last), facts, CompressionLevel::Zstd(1))
}

async fn read_records(archive: &Archive, entry: &BackupEntry) -> Result<Vec<Record>> {
    let reader = archive.open_listed(entry).await?;
    let chunks: Vec<Vec<u8>> =
        reader.chunks(ReadLimits::default()).map(|chunk| chunk.map(|(bytes, _)| bytes.to_vec())).try_collect().await?;
    let mut records = Vec::new();
    for chunk in &chunks {
        for record in RecordsDecoder::new(chunk) {
            let crate::record::RecordRef { main, sub, change, value } = record?;
            records.push(Record { main, sub, change, value: value.to_vec().into() });
        }
    }
    Ok(records)
}

async fn only_entry(archive: &Archive) -> BackupEntry {
    archive.catalogue().await.unwrap().newest_first()[0].clone()
}

#[tokio::test]
async fn a_delta_is_one_put_and_one_get() {
    for keyring in [Keyring::default(), keyring(KEY)] {
        let archive = TestArchive::new(keyring);
        let sealed = seal(&archive.archive, 43, 60).unwrap();
        archive.archive.put_delta(&sealed).await.unwrap();
        assert_eq!(archive.store.total(), 1);
        let entry = only_entry(&archive.archive).await;
        assert_eq!((entry.name, entry.stored_bytes), (delta_name(43, 60), sealed.stored_bytes()));
        let before = archive.store.total();
        assert_eq!(read_records(&archive.archive, &entry).await.unwrap(), records(43, 60));
        assert_eq!(archive.store.total(), before + 1);
        let reader = archive.archive.open(&entry.name).await.unwrap();
        assert_eq!(reader.footer().facts, *sealed.facts());
    }
}

#[tokio::test]
async fn an_object_that_only_marks_time_has_no_chunks() {
    let archive = TestArchive::new(keyring(KEY));
    let name = delta_name(44, 43);
    let history = HistoryDigest([9; 32]);
    let facts = FooterFacts { seam: None, history: (history, history), ..facts(&name, &[]) };
    let sealed = archive.archive.seal_delta(name, &[], facts, CompressionLevel::default()).unwrap();
    archive.archive.put_delta(&sealed).await.unwrap();
    let reader = archive.archive.open(&name).await.unwrap();
    assert_eq!((reader.footer().chunks.len(), reader.footer().facts.history.1), (0, history));
}

#[test]
fn records_that_are_not_those_of_the_name_are_refused() {
    let archive = TestArchive::new(Keyring::default());
    let facts = |name| FooterFacts { seam: None, ..facts(&name, &[]) };
    for (first, last) in [(43, 61), (42, 60), (43, 59)] {
        let name = delta_name(first, last);
        let sealed = archive.archive.seal_delta(name, &records(43, 60), facts(name), CompressionLevel::None);
        assert!(sealed.is_err(), "{first} to {last}");
    }
}

#[tokio::test]
async fn a_record_larger_than_a_chunk_has_one_of_its_own() {
    let archive = TestArchive::new(keyring(KEY));
    let name = delta_name(43, 45);
    let mut all = records(43, 45);
    all[2].value = sample(5 << 20).into();
    let facts = FooterFacts { seam: None, ..facts(&name, &[]) };
    let sealed = archive.archive.seal_delta(name, &all, facts, CompressionLevel::default()).unwrap();
    archive.archive.put_delta(&sealed).await.unwrap();
    let entry = only_entry(&archive.archive).await;
    assert_eq!(read_records(&archive.archive, &entry).await.unwrap(), all);
    let history = &sealed.facts().capture.chunk_history;
    assert!(history.len() > 1 && history[0].revision >= Revision(43), "{history:?}");
}

#[tokio::test]
async fn every_flipped_byte_and_every_shorter_delta_is_refused() {
    for keyring in [Keyring::default(), keyring(KEY)] {
        let archive = TestArchive::new(keyring);
        let sealed = seal(&archive.archive, 43, 44).unwrap();
        archive.archive.put_delta(&sealed).await.unwrap();
        let entry = only_entry(&archive.archive).await;
        let path = archive.path(&entry.name);
        let good = std::fs::read(&path).unwrap();
        let cut = (0..good.len()).map(|len| good[..len].to_vec());
        let flipped = (0..good.len()).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x40;
            bytes
        });
        for (n, bad) in cut.chain(flipped).enumerate() {
            std::fs::write(&path, &bad).unwrap();
            let error = read_records(&archive.archive, &entry).await.expect_err(&format!("{n} was read"));
            assert!(error.to_string().contains(&entry.name.to_string()), "{n}: {error}");
        }
    }
}
