//! Cutting the right edge off: what is left is sound, whatever shape that makes the tree.

use super::*;

/// `base`, of one bucket, cut at `from` and carried on with `new`, against what a map would hold.
fn assert_cut(base: &[u8], old: &Entries, from: &[u8], new: &Entries) -> TreeFacts {
    let bytes = extend(base, |extension| {
        extension.cut(b"key", from)?;
        extension.append(b"key", ok(new))
    });
    let expected: Entries =
        old.range(..from.to_vec()).map(|(k, v)| (k.clone(), v.clone())).chain(new.clone()).collect();
    assert_eq!(read(&bytes), one_bucket(expected), "cut at {from:02x?}");
    assert_eq!(bytes[2 * PAGE..base.len()], base[2 * PAGE..], "old pages are not touched");
    facts(&bytes)
}

/// At every entry and between any two, without anything behind and with.
fn assert_cut_everywhere(old: &Entries) {
    let base = written(PAGE, &one_bucket(old.clone()));
    let behind = old.keys().map(|key| [&key[..], &[0]].concat());
    let places: Vec<Vec<u8>> = old.keys().cloned().chain(behind).chain([Vec::new()]).collect();
    for from in &places {
        assert_cut(&base, old, from, &Entries::new());
        for count in [1, 9] {
            let last = old.range(..from.clone()).next_back().map(|last| last.0.clone()).unwrap_or_default();
            let new = (0..count).map(|n| ([&last[..], &[0, n]].concat(), vec![n; 400])).collect();
            assert_cut(&base, old, from, &new);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bucket_is_cut_anywhere_and_carried_on(
        old in entries(), at in any::<prop::sample::Index>(), lens in prop::collection::vec(0_usize..3000, 0..100)
    ) {
        let base = written(PAGE, &one_bucket(old.clone()));
        let from = old.keys().nth(at.index(old.len() + 1)).cloned().unwrap_or(vec![0xff; 1000]);
        let kept: Entries = old.range(..from.clone()).map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_cut(&base, &old, &from, &following(&kept, lens));
    }
}

#[test]
fn trees_of_narrow_branches_are_cut_everywhere() {
    // Two, three and four children a branch: up to seven levels.
    for (key_len, count) in [(450, 70), (300, 50), (220, 60)] {
        assert_cut_everywhere(&(0..count).map(|n: u8| (vec![n + 1; key_len], vec![n; 400])).collect());
    }
}

#[test]
fn a_tree_of_full_branches_is_cut_around_its_seams() {
    let old = records(0, 931, 600);
    let base = written(PAGE, &one_bucket(old.clone()));
    assert_eq!(facts(&base).buckets[0].depth, 4);
    for at in (0..4).chain(28..33).chain(58..63).chain(868..873).chain(898..903).chain(928..932) {
        assert_cut(&base, &old, &record_key(at), &Entries::new());
        assert_cut(&base, &old, &record_key(at), &records(2000, 31, 600));
    }
}

#[test]
fn with_all_leaves_beyond_the_cut_the_bucket_is_empty() {
    let old = records(10, 931, 600);
    let base = written(PAGE, &one_bucket(old.clone()));
    for from in [&record_key(10)[..], &record_key(3), b"", b"\0"] {
        let facts = assert_cut(&base, &old, from, &Entries::new());
        assert_eq!((facts.buckets[0].entries, facts.buckets[0].pages), (0, 0), "and inline");
    }
}

#[test]
fn a_cut_that_leaves_one_child_collapses_upwards() {
    // One record a leaf: four levels.
    let old = records(0, 931, 600);
    let base = written(PAGE, &one_bucket(old.clone()));
    for (left, depth) in [(931, 4), (901, 4), (900, 3), (31, 3), (30, 2), (2, 2), (1, 1)] {
        let facts = assert_cut(&base, &old, &record_key(left), &Entries::new());
        assert_eq!((facts.buckets[0].entries, facts.buckets[0].depth), (left, depth));
    }
}

#[test]
fn a_cut_that_leaves_one_child_beside_others_takes_over_its_neighbours() {
    // 61 leaves under branches of 30, 29 and 2: what is left of the third is one leaf.
    let old = records(0, 61, 600);
    let base = written(PAGE, &one_bucket(old.clone()));
    for left in [30, 31, 59, 60] {
        let facts = assert_cut(&base, &old, &record_key(left), &Entries::new());
        assert_eq!(facts.buckets[0].entries, left);
    }
}

#[test]
fn an_inline_bucket_is_cut() {
    let old = records(0, 4, 20);
    let base = written(PAGE, &one_bucket(old.clone()));
    for left in 0..=4 {
        let facts = assert_cut(&base, &old, &record_key(left), &Entries::new());
        assert_eq!((facts.buckets[0].entries, facts.buckets[0].pages), (left, 0));
    }
}

#[test]
fn a_leaf_that_becomes_small_becomes_inline() {
    let old = records(0, 20, 40);
    let facts = assert_cut(&written(PAGE, &one_bucket(old.clone())), &old, &record_key(2), &Entries::new());
    assert_eq!(facts.buckets[0].pages, 0);
}

#[test]
fn where_nothing_is_to_be_cut_nothing_of_the_bucket_is_written() {
    let base = written(PAGE, &one_bucket(records(0, 500, 50)));
    let bytes = extend(&base, |extension| {
        extension.cut(b"key", &record_key(500))?;
        extension.cut(b"none", b"")
    });
    assert_eq!(read(&bytes), read(&base));
    assert_eq!(bytes.len(), base.len() + PAGE, "the root alone");
}

#[test]
fn a_cut_writes_the_right_edge_only() {
    let base = written(PAGE, &one_bucket(records(0, 27_030, 600)));
    let depth = facts(&base).buckets[0].depth;
    for at in [1, 30, 900, 901, 20_000] {
        let bytes = extend(&base, |extension| extension.cut(b"key", &record_key(at)));
        // Per level its last page and the neighbour that it may have been merged with; a root for the buckets.
        let pages = (bytes.len() - base.len()) / PAGE;
        assert!(pages <= 2 * depth + 1, "{pages} pages for a cut at {at}");
    }
}

#[test]
fn a_bucket_that_was_changed_is_not_cut() {
    let base = written(PAGE, &one_bucket(records(0, 500, 50)));
    let mut extension = Extension::begin(BoltFile::open(&base).unwrap(), Vec::new()).unwrap();
    extension.append(b"key", ok(&records(500, 1, 50))).unwrap();
    assert_eq!(extension.cut(b"key", &record_key(5)).unwrap_err().kind(), ErrorKind::Internal);
}

#[test]
fn what_is_appended_behind_a_cut_must_follow_what_is_left() {
    let base = written(PAGE, &one_bucket(records(0, 500, 50)));
    let mut extension = Extension::begin(BoltFile::open(&base).unwrap(), Vec::new()).unwrap();
    extension.cut(b"key", &record_key(100)).unwrap();
    assert!(extension.append(b"key", ok(&records(99, 1, 50))).is_err());
}

#[test]
fn a_neighbour_that_is_damaged_is_named() {
    // Cut so that the last branch would keep one leaf, and the branch beside it is none.
    let mut base = written(PAGE, &one_bucket(records(0, 61, 600)));
    let file = BoltFile::open(&base).unwrap();
    let (mut cursor, bucket) = (file.cursor(&file.bucket(b"key").unwrap().unwrap()), record_key(60));
    cursor.seek(&bucket).unwrap();
    let root = cursor.path().next().unwrap().0;
    let (neighbour, third) = (root.child(1).unwrap().1, root.child(2).unwrap().0.to_vec());
    put(&mut base, neighbour.0 as usize * PAGE + 8, &[0x02]);
    let mut extension = Extension::begin(BoltFile::open(&base).unwrap(), Vec::new()).unwrap();
    let error = extension.cut(b"key", &[&third[..], &[0]].concat()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
}
