//! Files written from nothing: trees of every shape, read back and checked.

use super::*;
use crate::error::Error;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_buckets_are_written_and_read_back(
        buckets in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..12), entries(), 0..12)
    ) {
        let bytes = written(PAGE, &buckets);
        prop_assert_eq!(read(&bytes), buckets.clone());
        let facts = facts(&bytes);
        prop_assert_eq!(facts.free_pages, 0, "every page is written once, and needed");
        let counted: Vec<_> = facts.buckets.into_iter().map(|bucket| (bucket.name, bucket.entries)).collect();
        let expected: Vec<_> = buckets.into_iter().map(|(name, entries)| (name, entries.len() as u64)).collect();
        prop_assert_eq!(counted, expected);
    }

    #[test]
    fn seek_finds_what_a_map_finds(
        entries in entries(), keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..6), 20)
    ) {
        let bytes = written(PAGE, &one_bucket(entries.clone()));
        let file = BoltFile::open(&bytes).unwrap();
        let mut cursor = file.cursor(&file.bucket(b"key").unwrap().unwrap());
        for key in keys.iter().chain(entries.keys()) {
            let found = cursor.seek(key).unwrap().map(|entry| entry.key.to_vec());
            prop_assert_eq!(found, entries.range(key.clone()..).next().map(|entry| entry.0.clone()));
        }
    }
}

#[test]
fn every_count_around_a_full_page_and_a_full_level_is_sound() {
    // 33 bytes an element: 30 children fill a branch of 1 KiB, and 30 x 30 two levels.
    for count in (0..130).chain(895..965).chain([27_000, 27_001, 27_030, 27_031]) {
        let entries = records(0, count, 600);
        let bytes = written(PAGE, &one_bucket(entries.clone()));
        let facts = facts(&bytes);
        assert_eq!(facts.buckets[0].entries, count, "{count} leaves");
        assert_eq!(read(&bytes)[&b"key"[..]].len() as u64, count);
    }
}

#[test]
fn a_leaf_is_filled_to_its_last_byte() {
    // Ten entries of 16 + 17 + value bytes behind a header of 16.
    let fits = PAGE - 16 - 10 * 33;
    for (spare, pages) in [(0, 1), (1, 3)] {
        let mut entries = records(0, 9, fits / 10);
        entries.insert(record_key(9), vec![9; fits - fits / 10 * 9 + spare]);
        let bytes = written(PAGE, &one_bucket(entries.clone()));
        assert_eq!(facts(&bytes).buckets[0].pages, pages, "{spare} bytes too many");
        assert_eq!(read(&bytes), one_bucket(entries));
    }
}

#[test]
fn two_and_three_children_share_one_branch() {
    for (count, pages) in [(1, 1), (2, 3), (3, 4)] {
        let bytes = written(PAGE, &one_bucket(records(0, count, 600)));
        assert_eq!(facts(&bytes).buckets[0].pages, pages);
    }
    // Keys of which two fill a branch: a third child alone would be single.
    for count in 2..40_u8 {
        let entries: Entries = (0..count).map(|n| (vec![n; 450], vec![n; 300])).collect();
        assert_eq!(read(&written(PAGE, &one_bucket(entries.clone()))), one_bucket(entries.clone()));
        facts(&written(PAGE, &one_bucket(entries)));
    }
}

#[test]
fn a_child_too_many_for_a_branch_takes_another_one_with_it() {
    // 30 children fill a branch; of 31 the last would be alone, or the branch two pages long.
    for (leaves, branches) in [(30, 1), (31, 3), (32, 3), (61, 4), (901, 34)] {
        let bytes = written(PAGE, &one_bucket(records(0, leaves, 600)));
        assert_eq!(facts(&bytes).buckets[0].pages, leaves + branches, "{leaves} leaves");
    }
}

#[test]
fn a_record_of_many_pages_has_a_leaf_of_its_own() {
    // One that is written past the buffer, too.
    for len in [PAGE, 5 * PAGE, 3 << 20] {
        let mut entries = records(0, 5, 10);
        entries.insert(record_key(2), vec![2; len]);
        let bytes = written(PAGE, &one_bucket(entries.clone()));
        facts(&bytes);
        assert_eq!(read(&bytes), one_bucket(entries));
    }
}

#[test]
fn a_small_bucket_is_inline_up_to_a_quarter_of_a_page() {
    for (value_len, pages) in [(PAGE / 4 - 16 - 16 - 17, 0), (PAGE / 4 - 16 - 16 - 17 + 1, 1)] {
        let bytes = written(PAGE, &one_bucket(records(0, 1, value_len)));
        assert_eq!(facts(&bytes).buckets[0].pages, pages, "{value_len}");
    }
}

#[test]
fn an_empty_bucket_is_an_inline_leaf_of_32_bytes() {
    let bytes = written(PAGE, &one_bucket(Entries::new()));
    let file = BoltFile::open(&bytes).unwrap();
    let expected = [bucket_header(PageId(0), 0), page_header(PageId(0), FLAG_LEAF, 0, 0)].concat();
    assert_eq!(file.raw_buckets().unwrap(), [(&b"key"[..], &expected[..])]);
}

#[test]
fn a_file_without_buckets_is_one() {
    let bytes = written(PAGE, &Buckets::new());
    assert_eq!(bytes.len(), 3 * PAGE);
    assert!(facts(&bytes).buckets.is_empty());
}

#[test]
fn both_metas_of_a_new_file_say_the_same() {
    let bytes = written(PAGE, &one_bucket(records(0, 100, 100)));
    let [first, second] = [0, PAGE].map(|at| Meta::read(&bytes, at).unwrap());
    assert_eq!((first.txid, second.txid), (2, 1));
    assert_eq!(Meta { txid: 1, ..first }, second);
}

#[test]
fn a_file_is_no_database_before_its_metas_are_written() {
    let mut writer = BulkWriter::create(Vec::new(), PAGE as u32).unwrap();
    writer.bucket(b"key", ok(&records(0, 100, 100))).unwrap();
    let written = writer.finish().unwrap();
    assert_eq!(BoltFile::open(&written.out).unwrap_err().kind(), ErrorKind::Damaged);
}

#[test]
fn what_is_not_in_order_is_not_written() {
    let begun = || {
        let mut writer = BulkWriter::create(Vec::new(), PAGE as u32).unwrap();
        writer.start(b"key").unwrap();
        writer.push(Entry { key: b"b", value: b"" }).unwrap();
        writer
    };
    for key in [&b"a"[..], b"b", b""] {
        assert_eq!(begun().push(Entry { key, value: b"" }).unwrap_err().kind(), ErrorKind::Internal);
    }
    for name in [&b"aaa"[..], b"key", b""] {
        assert_eq!(begun().start(name).unwrap_err().kind(), ErrorKind::Internal);
    }
    let mut writer = BulkWriter::create(Vec::new(), PAGE as u32).unwrap();
    assert!(writer.push(Entry { key: b"a", value: b"" }).is_err(), "no bucket");
    let broken = [Ok((b"a", b"")), Err(Error::new(ErrorKind::Damaged, "the source breaks"))];
    assert_eq!(writer.bucket(b"key", broken).unwrap_err().kind(), ErrorKind::Damaged);
    assert!(BulkWriter::create(Vec::new(), 1000).is_err(), "a page size that no database has");
}

#[test]
fn every_page_size_is_found_even_without_meta_0() {
    for page_size in [1024, 4096, 16_384, 65_536, 1 << 20] {
        let expected = one_bucket(records(0, 200, 100));
        let mut bytes = written(page_size, &expected);
        assert_eq!(read(&bytes), expected);
        bytes[..64].fill(0);
        assert_eq!(read(&bytes), expected, "page size {page_size}");
    }
}

#[test]
fn a_large_tree_is_written_in_few_large_pieces() {
    // The writer keeps one leaf, two branches a level and a buffer; this only shows that it streams.
    #[derive(Default)]
    struct Counter {
        bytes: u64,
        writes: u64,
    }
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.bytes += bytes.len() as u64;
            self.writes += 1;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut pages = PageWriter::new(Counter::default(), PAGE, PageId(2));
    let mut tree = Tree::new(Holds::Values);
    for n in 0..200_000_u64 {
        tree.push(&mut pages, Entry { key: &n.to_be_bytes(), value: &[0; 100] }).unwrap();
    }
    let root = tree.finish(&mut pages).unwrap();
    let meta = Meta { page_size: PAGE as u32, root, sequence: 0, high_water: PageId(0), txid: 0 };
    let written = pages.finish(meta, [2, 1]).unwrap();
    assert_eq!(root.0 + 1, written.high_water.0, "the root is written last");
    assert_eq!(written.out.bytes, (root.0 - 1) * PAGE as u64);
    assert!(written.out.writes <= written.out.bytes / 1_000_000 + 1, "{} writes", written.out.writes);
}
