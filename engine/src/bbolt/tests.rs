//! The room as a whole: trees of every shape written, extended, checked and read; and files that are damaged.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::layout::{ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, PAGE_HEADER_BYTES, bucket_header, page_header};
use super::page::Holds;
use super::tree::{PageWriter, Tree};
use super::*;
use crate::error::{ErrorKind, Result};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
type Buckets = BTreeMap<Vec<u8>, Entries>;

const PAGE: usize = 1024;

/// A file of the pages given, from page 2 on; each is padded.
fn file_of(page_size: usize, pages: &[&[u8]], root: PageId) -> Vec<u8> {
    let mut bytes = vec![0; 2 * page_size];
    for page in pages {
        bytes.extend_from_slice(page);
        bytes.resize(bytes.len().next_multiple_of(page_size), 0);
    }
    let high_water = PageId((bytes.len() / page_size) as u64);
    for (page, txid) in [(0, 4), (1, 3)] {
        let meta = Meta { page_size: page_size as u32, root, sequence: 0, high_water, txid };
        put(&mut bytes, page * page_size, &meta.encode(PageId(page as u64)));
    }
    bytes
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn extend<'a>(bytes: &'a [u8], change: impl FnOnce(&mut Extension<'a, Vec<u8>>) -> Result<()>) -> Vec<u8> {
    let file = BoltFile::open(bytes).unwrap();
    let mut extension = Extension::begin(file, Vec::new()).unwrap();
    change(&mut extension).unwrap();
    let extended = extension.finish().unwrap();
    assert_eq!(extended.out.len() as u64, extended.written_bytes);
    let mut result = bytes[..file.used_bytes() as usize].to_vec();
    result.extend_from_slice(&extended.out);
    assert_eq!(result.len() as u64, extended.high_water.0 * file.page_size() as u64);
    for (offset, meta) in extended.metas {
        put(&mut result, offset as usize, &meta);
    }
    result
}

fn ok(entries: &Entries) -> impl Iterator<Item = Result<(&Vec<u8>, &Vec<u8>)>> {
    entries.iter().map(Ok)
}

fn written(page_size: usize, buckets: &Buckets) -> Vec<u8> {
    extend(&empty_file(page_size as u32), |extension| {
        buckets.iter().try_for_each(|(name, entries)| extension.replace(name, ok(entries)))
    })
}

/// Everything in a file, through cursors; forwards and backwards must agree.
fn read(bytes: &[u8]) -> Buckets {
    let file = BoltFile::open(bytes).unwrap();
    let mut all = Buckets::new();
    for (name, bucket) in file.buckets().unwrap() {
        let mut cursor = file.cursor(&bucket);
        let (mut forwards, mut backwards) = (Vec::new(), Vec::new());
        let mut entry = cursor.first().unwrap();
        while let Some(found) = entry {
            forwards.push((found.key.to_vec(), found.value.to_vec()));
            entry = cursor.next().unwrap();
        }
        entry = cursor.last().unwrap();
        while let Some(found) = entry {
            backwards.push((found.key.to_vec(), found.value.to_vec()));
            entry = cursor.prev().unwrap();
        }
        backwards.reverse();
        assert_eq!(forwards, backwards);
        all.insert(name.to_vec(), forwards.into_iter().collect());
    }
    all
}

fn facts(bytes: &[u8]) -> TreeFacts {
    check(&BoltFile::open(bytes).unwrap()).unwrap()
}

/// `count` entries with keys of 17 bytes, as etcd's `key` bucket has them.
fn records(from: u64, count: u64, value_len: usize) -> Entries {
    (from..from + count).map(|n| (format!("{n:017}").into_bytes(), vec![n as u8; value_len])).collect()
}

fn one_bucket(entries: Entries) -> Buckets {
    [(b"key".to_vec(), entries)].into()
}

fn entries() -> impl Strategy<Value = Entries> {
    let key =
        prop_oneof![8 => prop::collection::vec(any::<u8>(), 1..20), 1 => prop::collection::vec(any::<u8>(), 300..900)];
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..60),
        1 => prop::collection::vec(any::<u8>(), 900..5000)
    ];
    prop_oneof![
        3 => prop::collection::btree_map(key.clone(), value.clone(), 0..10),
        2 => prop::collection::btree_map(key, value, 0..400)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_buckets_are_written_and_read_back(
        buckets in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..12), entries(), 0..12)
    ) {
        let bytes = written(PAGE, &buckets);
        prop_assert_eq!(read(&bytes), buckets.clone());
        let counted: Vec<_> = facts(&bytes).buckets.into_iter().map(|bucket| (bucket.name, bucket.entries)).collect();
        let expected: Vec<_> = buckets.into_iter().map(|(name, entries)| (name, entries.len() as u64)).collect();
        prop_assert_eq!(counted, expected);
    }

    #[test]
    fn any_bucket_is_extended_and_old_pages_are_not_touched(
        old in entries(), other in entries(), replaced in entries(), values in prop::collection::vec(0_usize..3000, 0..200)
    ) {
        let base = written(PAGE, &[(b"key".to_vec(), old.clone()), (b"other".to_vec(), other)].into());
        let last = old.last_key_value().map(|last| last.0.clone()).unwrap_or_default();
        let mut expected = old;
        let mut appended = Entries::new();
        for (n, len) in values.into_iter().enumerate() {
            let mut key = last.clone();
            key.extend_from_slice(&(n as u32).to_be_bytes());
            appended.insert(key, vec![7; len]);
        }
        expected.extend(appended.clone());
        let bytes = extend(&base, |extension| {
            extension.append(b"key", ok(&appended))?;
            extension.replace(b"other", ok(&replaced))
        });
        facts(&bytes);
        prop_assert_eq!(read(&bytes), [(b"key".to_vec(), expected), (b"other".to_vec(), replaced)].into());
        prop_assert_eq!(&bytes[2 * PAGE..base.len()], &base[2 * PAGE..]);
    }

    #[test]
    fn seek_finds_what_a_map_finds(entries in entries(), keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..6), 20)) {
        let bytes = written(PAGE, &one_bucket(entries.clone()));
        let file = BoltFile::open(&bytes).unwrap();
        let mut cursor = file.cursor(&file.bucket(b"key").unwrap().unwrap());
        for key in keys.iter().chain(entries.keys()) {
            let found = cursor.seek(key).unwrap().map(|entry| entry.key.to_vec());
            prop_assert_eq!(found, entries.range(key.clone()..).next().map(|entry| entry.0.clone()));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_run_for_ever(
        seed in entries(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let mut bytes = written(PAGE, &one_bucket(seed));
        // Behind the metas, whose checksums would end it at once.
        for (at, with) in flips {
            let at = 2 * PAGE + at.index(bytes.len() - 2 * PAGE);
            bytes[at] = with;
        }
        let file = BoltFile::open(&bytes).unwrap();
        let _ = check(&file);
        for (_, bucket) in file.buckets().unwrap_or_default() {
            let mut cursor = file.cursor(&bucket);
            let mut entry = cursor.first();
            while let Ok(Some(_)) = entry {
                entry = cursor.next();
            }
            let mut entry = cursor.last();
            while let Ok(Some(_)) = entry {
                entry = cursor.prev();
            }
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
    for keys in [[b"b", b"a"], [b"a", b"a"]] {
        let bytes = empty_file(PAGE as u32);
        let mut extension = Extension::begin(BoltFile::open(&bytes).unwrap(), Vec::new()).unwrap();
        let error = extension.replace(b"key", keys.map(|key| Ok((key, b"v")))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
    let base = written(PAGE, &one_bucket(records(0, 500, 50)));
    let mut extension = Extension::begin(BoltFile::open(&base).unwrap(), Vec::new()).unwrap();
    assert!(extension.append(b"key", ok(&records(499, 1, 1))).is_err(), "a key that is there already");
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

// Damage: the file is changed in one place, and the answer names it.

fn refused(bytes: &[u8], words: &str) {
    let error = BoltFile::open(bytes).and_then(|file| check(&file)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains(words), "{error} should say: {words}");
}

/// A file with a tree of two levels in bucket `key`, and the offset of its root page.
fn two_levels() -> (Vec<u8>, usize) {
    let bytes = written(PAGE, &one_bucket(records(0, 100, 100)));
    let file = BoltFile::open(&bytes).unwrap();
    let file::Root::Page(root) = file.bucket(b"key").unwrap().unwrap().root() else { panic!("inline") };
    let at = root.0 as usize * PAGE;
    assert_eq!(facts(&bytes).buckets[0].depth, 2);
    (bytes, at)
}

fn child_of(bytes: &[u8], branch_at: usize, index: usize) -> usize {
    let at = branch_at + PAGE_HEADER_BYTES + index * ELEMENT_BYTES + 8;
    layout::u64_at(bytes, at).unwrap() as usize * PAGE
}

#[test]
fn two_bad_metas_are_no_database() {
    let (mut bytes, _) = two_levels();
    bytes[20] ^= 1;
    bytes[PAGE + 20] ^= 1;
    refused(&bytes, "neither of its meta pages");
    refused(&[], "neither of its meta pages");
    refused(&[0; 100_000], "neither of its meta pages");
}

#[test]
fn a_file_cut_short_is_named() {
    let (bytes, _) = two_levels();
    for len in [bytes.len() - 1, bytes.len() - PAGE, 2 * PAGE] {
        refused(&bytes[..len], "cut short");
    }
}

#[test]
fn a_meta_that_reaches_beyond_the_file_gives_way_to_the_other() {
    let (bytes, _) = two_levels();
    let mut bytes = extend(&bytes, |extension| extension.replace(b"new", ok(&records(0, 100, 100))));
    let old = Meta::read(&two_levels().0, 0).unwrap();
    put(&mut bytes, PAGE, &old.encode(PageId(1)));
    bytes.truncate(old.high_water.0 as usize * PAGE);
    assert_eq!(read(&bytes), one_bucket(records(0, 100, 100)));
}

#[test]
fn another_page_id_is_named() {
    let (mut bytes, root) = two_levels();
    bytes[root] ^= 1;
    refused(&bytes, "says that it is page");
}

#[test]
fn another_kind_of_page_is_named() {
    let (mut bytes, root) = two_levels();
    bytes[root + 8] = 0x10;
    refused(&bytes, "neither a branch nor a leaf");
}

#[test]
fn an_offset_outside_the_page_is_named() {
    let (bytes, root) = two_levels();
    for (page, field) in [(root, 0), (root, 4), (child_of(&bytes, root, 1), 4), (child_of(&bytes, root, 1), 12)] {
        for with in [u32::MAX, PAGE as u32, 0x8000_0000] {
            let mut bytes = bytes.clone();
            put(&mut bytes, page + PAGE_HEADER_BYTES + field, &with.to_le_bytes());
            refused(&bytes, "outside itself");
        }
    }
    let mut into_elements = bytes;
    put(&mut into_elements, root + PAGE_HEADER_BYTES, &0_u32.to_le_bytes());
    refused(&into_elements, "outside itself");
}

#[test]
fn a_child_outside_the_file_is_named() {
    for child in [0, 1, u64::MAX, 1 << 40] {
        let (mut bytes, root) = two_levels();
        put(&mut bytes, root + PAGE_HEADER_BYTES + 8, &u64::to_le_bytes(child));
        refused(&bytes, "is outside it");
    }
}

#[test]
fn an_overflow_beyond_the_file_is_named() {
    let (mut bytes, root) = two_levels();
    put(&mut bytes, root + 12, &u32::MAX.to_le_bytes());
    refused(&bytes, "more pages than are left");
}

#[test]
fn a_count_beyond_the_page_is_named() {
    let (mut bytes, root) = two_levels();
    put(&mut bytes, root + 10, &u16::MAX.to_le_bytes());
    refused(&bytes, "outside itself");
}

#[test]
fn keys_out_of_order_are_named() {
    let (mut bytes, root) = two_levels();
    let leaf = child_of(&bytes, root, 1);
    let second = leaf + PAGE_HEADER_BYTES + ELEMENT_BYTES;
    let key = second + layout::u32_at(&bytes, second + 4).unwrap() as usize;
    bytes[key] = b'!';
    refused(&bytes, "keys out of order");
}

#[test]
fn keys_out_of_order_across_leaves_are_named() {
    let (mut bytes, root) = two_levels();
    // The last key of the first leaf becomes greater than the first of the next.
    let leaf = child_of(&bytes, root, 0);
    let count = usize::from(layout::u16_at(&bytes, leaf + 10).unwrap());
    let last = leaf + PAGE_HEADER_BYTES + (count - 1) * ELEMENT_BYTES;
    let key = last + layout::u32_at(&bytes, last + 4).unwrap() as usize;
    bytes[key] = b'~';
    refused(&bytes, "keys out of order with those before it");
}

#[test]
fn a_branch_key_that_is_not_its_childs_first_is_named() {
    let (mut bytes, root) = two_levels();
    let second = root + PAGE_HEADER_BYTES + ELEMENT_BYTES;
    let key = second + layout::u32_at(&bytes, second).unwrap() as usize;
    // Still between its neighbours: `bbolt check` finds nothing, and the next compaction panics.
    bytes[key + 16] -= 1;
    refused(&bytes, "another key for page");
}

#[test]
fn a_branch_with_one_child_is_named() {
    let (mut bytes, root) = two_levels();
    put(&mut bytes, root + 10, &1_u16.to_le_bytes());
    refused(&bytes, "less than two children");
}

#[test]
fn an_empty_leaf_is_named() {
    let (mut bytes, root) = two_levels();
    let leaf = child_of(&bytes, root, 1);
    put(&mut bytes, leaf + 10, &0_u16.to_le_bytes());
    refused(&bytes, "another key for page");
}

#[test]
fn a_page_in_two_places_is_named() {
    let (mut bytes, root) = two_levels();
    let first = child_of(&bytes, root, 0) / PAGE;
    put(&mut bytes, root + PAGE_HEADER_BYTES + ELEMENT_BYTES + 8, &(first as u64).to_le_bytes());
    refused(&bytes, "referred to twice");
}

#[test]
fn pages_in_a_circle_end_in_an_error() {
    let (mut bytes, root) = two_levels();
    put(&mut bytes, root + PAGE_HEADER_BYTES + 8, &((root / PAGE) as u64).to_le_bytes());
    refused(&bytes, "referred to twice");
    let file = BoltFile::open(&bytes).unwrap();
    let mut cursor = file.cursor(&file.bucket(b"key").unwrap().unwrap());
    assert!(cursor.first().unwrap_err().to_string().contains("circle"));
    assert!(cursor.seek(b"0").unwrap_err().to_string().contains("circle"));
}

#[test]
fn leaves_at_different_depths_are_named() {
    // Root branch over a leaf and a branch over two leaves.
    let leaf = |id: u64, key: &[u8; 1]| {
        let mut page = page_header(PageId(id), FLAG_LEAF, 1, 0).to_vec();
        for word in [0_u32, 16, 1, 0] {
            page.extend_from_slice(&word.to_le_bytes());
        }
        page.extend_from_slice(key);
        page
    };
    let branch = |id: u64, children: [(&[u8; 1], u64); 2]| {
        let mut page = page_header(PageId(id), FLAG_BRANCH, 2, 0).to_vec();
        for (index, (_, child)) in children.iter().enumerate() {
            page.extend_from_slice(&(32 - 15 * index as u32).to_le_bytes());
            page.extend_from_slice(&1_u32.to_le_bytes());
            page.extend_from_slice(&child.to_le_bytes());
        }
        page.extend_from_slice(&[children[0].0[0], children[1].0[0]]);
        page
    };
    let mut root = page_header(PageId(2), FLAG_LEAF, 1, 0).to_vec();
    for word in [1_u32, 16, 3, 16] {
        root.extend_from_slice(&word.to_le_bytes());
    }
    root.extend_from_slice(b"key");
    root.extend_from_slice(&bucket_header(PageId(3), 0));
    let pages = [
        root,
        branch(3, [(b"a", 4), (b"b", 5)]),
        leaf(4, b"a"),
        branch(5, [(b"b", 6), (b"c", 7)]),
        leaf(6, b"b"),
        leaf(7, b"c"),
    ];
    let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
    refused(&file_of(PAGE, &pages, PageId(2)), "another depth");
}

#[test]
fn a_bucket_among_values_is_named() {
    let (mut bytes, root) = two_levels();
    let leaf = child_of(&bytes, root, 0);
    put(&mut bytes, leaf + PAGE_HEADER_BYTES, &1_u32.to_le_bytes());
    refused(&bytes, "mixes buckets and values");
}

#[test]
fn a_large_tree_is_written_with_few_bytes_in_memory() {
    // The writer keeps one leaf and two branches a level; this only shows that it streams.
    struct Counter(u64);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut pages = PageWriter::new(Counter(0), PAGE, PageId(2));
    let mut tree = Tree::new(Holds::Values);
    for n in 0..200_000_u64 {
        tree.push(&mut pages, Entry { key: &n.to_be_bytes(), value: &[0; 100] }).unwrap();
    }
    let root = tree.finish(&mut pages).unwrap();
    assert_eq!(root.0 + 1, pages.next_page().0, "the root is written last");
    assert_eq!(pages.into_inner().unwrap().0, (root.0 - 1) * PAGE as u64);
}
