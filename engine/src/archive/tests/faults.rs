//! The n-th store call fails, for every n: a backup is whole or absent, and nothing is left behind.

use super::*;
use crate::store::faulty::Strike;

#[tokio::test]
async fn a_fault_at_any_store_call_of_a_backup_leaves_it_whole_or_absent() {
    // Below one part it is a single PUT, above it is an upload of many parts.
    for (plain, strike) in [(50, Strike::Before), (50, Strike::After), (2500, Strike::Before), (2500, Strike::After)] {
        let plain = sample(plain);
        for nth in 1.. {
            let test = TestArchive::new(keyring(KEY));
            test.store.fail_nth(nth, None, strike, ErrorKind::Unavailable);
            let written = write(&test.archive, name(0), &plain, SMALL).await;
            let what = format!("{} bytes, call {nth} {strike:?}", plain.len());
            if test.store.total() < nth {
                written.expect(&what);
                break;
            }
            assert_eq!(written.expect_err(&what).kind(), ErrorKind::Unavailable, "{what}");
            assert_eq!(test.archive.store.pending_uploads("").await.unwrap(), [], "{what}");
            if test.path(&name(0)).exists() {
                assert_eq!(strike, Strike::After, "{what}");
                assert_eq!(read(&test.archive, &name(0)).await.unwrap(), plain, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_fault_at_any_store_call_of_a_read_is_an_error() {
    let plain = sample(2500);
    let test = TestArchive::new(keyring(KEY));
    write(&test.archive, name(0), &plain, SMALL).await.unwrap();
    for nth in 1.. {
        let before = test.store.total();
        test.store.fail_nth(nth, None, Strike::Before, ErrorKind::Unavailable);
        let answer = read(&test.archive, &name(0)).await;
        if test.store.total() - before < nth {
            assert_eq!(answer.unwrap(), plain);
            break;
        }
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable, "read {nth}");
    }
}

#[tokio::test]
async fn an_aborted_writer_leaves_nothing() {
    let test = TestArchive::new(keyring(KEY));
    let mut writer = test.archive.writer(name(0), SMALL).unwrap();
    writer.push(&sample(5000)).await.unwrap();
    writer.abort().await.unwrap();
    assert!(!test.path(&name(0)).exists());
    assert_eq!(test.archive.store.pending_uploads("").await.unwrap(), []);
}
