//! Every byte of an object flipped, every length cut, frames moved: always an error, and it names the object.

use super::*;

/// Changes the object and expects that no way of reading it gives its contents.
async fn expect_damage(test: &TestArchive, name: &BackupName, bytes: &[u8], what: &str) {
    std::fs::write(test.path(name), bytes).unwrap();
    let error = read(&test.archive, name).await.expect_err(what);
    assert!(error.to_string().contains(&name.to_string()), "{what}: {error}");
    let kinds = [ErrorKind::Damaged, ErrorKind::Invalid, ErrorKind::Key, ErrorKind::Refused];
    assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
}

async fn object(keyring: Keyring) -> (TestArchive, BackupName, Vec<u8>) {
    let test = TestArchive::new(keyring);
    write(&test.archive, name(0), &sample(700), SMALL).await.unwrap();
    let bytes = std::fs::read(test.path(&name(0))).unwrap();
    (test, name(0), bytes)
}

#[tokio::test]
async fn every_flipped_byte_is_an_error() {
    for keyring in [Keyring::default(), keyring(KEY)] {
        let (test, name, bytes) = object(keyring).await;
        for place in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[place] ^= 1 << (place % 8);
            expect_damage(&test, &name, &bad, &format!("byte {place} of {}", bytes.len())).await;
        }
    }
}

#[tokio::test]
async fn every_truncation_is_an_error() {
    for keyring in [Keyring::default(), keyring(KEY)] {
        let (test, name, bytes) = object(keyring).await;
        for length in 1..bytes.len() {
            expect_damage(&test, &name, &bytes[..length], &format!("cut to {length}")).await;
        }
        expect_damage(&test, &name, &[&bytes[..], b"x"].concat(), "one byte more").await;
    }
}

/// Where the frames of the object lie.
async fn frames(test: &TestArchive, name: &BackupName) -> Vec<std::ops::Range<usize>> {
    let reader = test.archive.open(name).await.unwrap();
    let chunks = &reader.footer().chunks;
    chunks
        .iter()
        .map(|chunk| chunk.stored_start as usize..chunk.stored_start as usize + chunk.stored_bytes as usize)
        .collect()
}

#[tokio::test]
async fn reordered_duplicated_and_missing_frames_are_errors() {
    for keyring in [Keyring::default(), keyring(KEY)] {
        let (test, name, bytes) = object(keyring).await;
        let frames = frames(&test, &name).await;
        let [first, second] = [&frames[0], &frames[1]];
        let around = |middle: &[&[u8]]| [&bytes[..first.start], &middle.concat(), &bytes[second.end..]].concat();
        let (one, two) = (&bytes[first.clone()], &bytes[second.clone()]);
        expect_damage(&test, &name, &around(&[two, one]), "reordered").await;
        expect_damage(&test, &name, &around(&[one, one]), "duplicated").await;
        expect_damage(&test, &name, &around(&[one, one, two]), "inserted").await;
        expect_damage(&test, &name, &around(&[one]), "missing").await;
    }
}

#[tokio::test]
async fn a_frame_spliced_from_another_backup_is_an_error() {
    for keyring in [Keyring::default(), keyring(KEY)] {
        let (test, name, mut bytes) = object(keyring).await;
        let other = super::name(1);
        write(&test.archive, other, &sample(700), SMALL).await.unwrap();
        let donor = std::fs::read(test.path(&other)).unwrap();
        let place = frames(&test, &name).await[0].clone();
        let donor_place = frames(&test, &other).await[0].clone();
        bytes.splice(place, donor[donor_place].iter().copied());
        expect_damage(&test, &name, &bytes, "spliced").await;
    }
}

#[tokio::test]
async fn an_object_under_another_name_is_an_error() {
    for keyring in [Keyring::default(), keyring(KEY)] {
        let (test, original, bytes) = object(keyring).await;
        let lineage = LineageId { random: 8, ..original.lineage };
        for copy in [
            BackupName { lineage, ..original },
            BackupName { kind: NameKind::Full { seam: Revision(43) }, ..original },
            BackupName { created: UnixMillis(original.created.0 + 1), ..original },
            BackupName { nonce: ObjectNonce([6; 8]), ..original },
        ] {
            std::fs::create_dir_all(test.path(&copy).parent().unwrap()).unwrap();
            expect_damage(&test, &copy, &bytes, &copy.to_string()).await;
        }
    }
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_read_is_an_error() {
    // Larger than what opening it fetches: that much stays in memory, as it was.
    let test = TestArchive::new(keyring(KEY));
    let plain = sample(200_000);
    let uncompressed = WriteLimits { level: CompressionLevel::None, ..SMALL };
    let name = super::name(0);
    write(&test.archive, name, &plain, uncompressed).await.unwrap();
    let reader = test.archive.open(&name).await.unwrap();
    write(&test.archive, super::name(1), &plain[1..], uncompressed).await.unwrap();
    std::fs::rename(test.path(&super::name(1)), test.path(&name)).unwrap();
    let read: Result<Vec<_>> = reader.chunks(ReadLimits::default()).try_collect().await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Damaged);
}
