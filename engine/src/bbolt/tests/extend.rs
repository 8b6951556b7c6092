//! Copy on write: buckets replaced, and carried on behind their last entry.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bucket_is_extended_and_old_pages_are_not_touched(
        old in entries(), other in entries(), replaced in entries(), lens in prop::collection::vec(0_usize..3000, 0..200)
    ) {
        let base = written(PAGE, &[(b"key".to_vec(), old.clone()), (b"other".to_vec(), other)].into());
        let appended = following(&old, lens);
        let mut expected = old;
        expected.extend(appended.clone());
        let bytes = extend(&base, |extension| {
            extension.append(b"key", ok(&appended))?;
            extension.replace(b"other", ok(&replaced))
        });
        facts(&bytes);
        prop_assert_eq!(read(&bytes), [(b"key".to_vec(), expected), (b"other".to_vec(), replaced)].into());
        prop_assert_eq!(&bytes[2 * PAGE..base.len()], &base[2 * PAGE..]);
    }
}

#[test]
fn appending_one_record_at_a_time_grows_all_levels() {
    let mut bytes = written(PAGE, &one_bucket(Entries::new()));
    let mut depths = Vec::new();
    for n in 0..1000 {
        bytes = extend(&bytes, |extension| extension.append(b"key", ok(&records(n, 1, 600))));
        // What is no longer referred to stays as free pages: this file would grow without an end.
        if n % 50 == 0 {
            let facts = facts(&bytes);
            depths.push(facts.buckets[0].depth);
            assert_eq!(facts.buckets[0].entries, n + 1);
        }
    }
    assert_eq!(read(&bytes), one_bucket(records(0, 1000, 600)));
    assert!(depths.is_sorted() && depths.last() == Some(&4), "{depths:?}");
}

#[test]
fn a_bucket_may_be_carried_on_several_times_in_one_extension() {
    let base = written(PAGE, &one_bucket(records(0, 40, 200)));
    let bytes = extend(&base, |extension| {
        extension.append(b"key", ok(&records(40, 3, 200)))?;
        extension.append(b"key", ok(&records(43, 100, 200)))?;
        extension.replace(b"new", ok(&records(0, 10, 200)))?;
        extension.append(b"new", ok(&records(10, 50, 200)))
    });
    facts(&bytes);
    let expected = [(b"key".to_vec(), records(0, 143, 200)), (b"new".to_vec(), records(0, 60, 200))].into();
    assert_eq!(read(&bytes), expected);
    // What comes later counts.
    let bytes = extend(&base, |extension| {
        extension.append(b"key", ok(&records(40, 3, 200)))?;
        extension.replace(b"key", ok(&records(0, 1, 200)))
    });
    assert_eq!(read(&bytes), one_bucket(records(0, 1, 200)));
}

#[test]
fn appending_nothing_writes_nothing_of_the_bucket() {
    let base = written(PAGE, &one_bucket(records(0, 500, 50)));
    let bytes = extend(&base, |extension| extension.append(b"key", ok(&Entries::new())));
    assert_eq!(bytes.len(), base.len() + PAGE);
}

#[test]
fn both_new_metas_name_the_new_root() {
    let base = written(PAGE, &one_bucket(records(0, 3, 50)));
    let bytes = extend(&base, |extension| extension.replace(b"key", ok(&records(5, 2, 50))));
    for broken in [0, 1] {
        let mut bytes = bytes.clone();
        bytes[broken * PAGE + 40] ^= 1;
        assert_eq!(read(&bytes), one_bucket(records(5, 2, 50)), "meta {broken} broken");
    }
    let txids: Vec<_> = [0, PAGE].iter().map(|&at| Meta::read(&bytes, at).unwrap().txid % 2).collect();
    assert_eq!(txids, [0, 1], "a commit writes meta txid % 2");
}

#[test]
fn entries_out_of_order_are_not_written() {
    let base = written(PAGE, &one_bucket(records(0, 500, 50)));
    let extension = || Extension::begin(BoltFile::open(&base).unwrap(), Vec::new()).unwrap();
    for keys in [[b"b", b"a"], [b"a", b"a"]] {
        let error = extension().replace(b"key", keys.map(|key| Ok((key, b"v")))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
    assert!(extension().append(b"key", ok(&records(499, 1, 1))).is_err(), "a key that is there already");
}

// The shapes that a `key` bucket can have.

/// Appended to, and cut and appended to, `base` holds what a map would.
fn assert_extends(base: &[u8], old: &Entries) {
    assert_eq!(read(base)[&b"key"[..]], *old);
    for count in [1, 2, 3, 40] {
        let new = records(1000, count, 300);
        let expected: Entries = old.clone().into_iter().chain(new.clone()).collect();
        let bytes = extend(base, |extension| extension.append(b"key", ok(&new)));
        facts(&bytes);
        assert_eq!(read(&bytes)[&b"key"[..]], expected);
        let bytes = extend(base, |extension| {
            extension.cut(b"key", &[])?;
            extension.append(b"key", ok(&new))
        });
        facts(&bytes);
        assert_eq!(read(&bytes)[&b"key"[..]], new);
    }
}

#[test]
fn a_key_bucket_that_is_inline() {
    let old = records(0, 2, 20);
    let base = written(PAGE, &one_bucket(old.clone()));
    assert_eq!(facts(&base).buckets[0].pages, 0);
    assert_extends(&base, &old);
}

#[test]
fn a_key_bucket_that_is_empty_and_inline() {
    let base = written(PAGE, &one_bucket(Entries::new()));
    assert_eq!(facts(&base).buckets[0].pages, 0);
    assert_extends(&base, &Entries::new());
}

#[test]
fn a_key_bucket_that_is_an_empty_page_of_its_own() {
    let mut root = page_header(PageId(2), FLAG_LEAF, 1, 0).to_vec();
    for word in [1_u32, 16, 3, 16] {
        root.extend_from_slice(&word.to_le_bytes());
    }
    root.extend_from_slice(b"key");
    root.extend_from_slice(&bucket_header(PageId(3), 0));
    let base = file_of(PAGE, &[&root, &page_header(PageId(3), FLAG_LEAF, 0, 0)], PageId(2));
    assert_eq!((facts(&base).buckets[0].pages, facts(&base).buckets[0].entries), (1, 0));
    assert_extends(&base, &Entries::new());
}

#[test]
fn a_key_bucket_that_is_a_single_leaf() {
    let old = records(0, 3, 200);
    let base = written(PAGE, &one_bucket(old.clone()));
    assert_eq!((facts(&base).buckets[0].pages, facts(&base).buckets[0].depth), (1, 1));
    assert_extends(&base, &old);
}

#[test]
fn a_key_bucket_that_is_not_there() {
    let base = written(PAGE, &Buckets::new());
    for count in [0, 1, 100] {
        let new = records(0, count, 300);
        let bytes = extend(&base, |extension| extension.append(b"key", ok(&new)));
        facts(&bytes);
        assert_eq!(read(&bytes), if count == 0 { Buckets::new() } else { one_bucket(new) });
    }
}

#[test]
fn a_sequence_number_stays() {
    let mut base = written(PAGE, &one_bucket(records(0, 100, 50)));
    let file = BoltFile::open(&base).unwrap();
    // The only element of the root's leaf: a key of three bytes, then root page and sequence.
    let at = file.meta().root.0 as usize * PAGE + 32 + 3 + 8;
    put(&mut base, at, &7_u64.to_le_bytes());
    let sequence = |bytes: &[u8]| BoltFile::open(bytes).unwrap().bucket(b"key").unwrap().unwrap().sequence();
    assert_eq!(sequence(&base), 7);
    assert_eq!(sequence(&extend(&base, |e| e.append(b"key", ok(&records(100, 1, 50))))), 7);
    assert_eq!(sequence(&extend(&base, |e| e.cut(b"key", &record_key(50)))), 7);
    assert_eq!(sequence(&extend(&base, |e| e.replace(b"key", ok(&records(0, 1, 50))))), 7);
}
