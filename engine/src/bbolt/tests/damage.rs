//! Files that are changed in one place: the answer names it.

use super::super::layout::{ELEMENT_BYTES, FLAG_BRANCH, PAGE_HEADER_BYTES};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

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
fn a_file_cut_short_is_never_read_as_its_older_state() {
    // The older meta is whole, and so are all of its pages.
    let (old, _) = two_levels();
    let mut bytes = extend(&old, |extension| extension.replace(b"new", ok(&records(0, 100, 100))));
    let meta = Meta::read(&old, 0).unwrap();
    for older in [0, 1] {
        put(&mut bytes, older * PAGE, &meta.encode(PageId(older as u64)));
        assert_eq!(read(&bytes).len(), 2, "the newer meta counts");
        for len in [bytes.len() - 1, old.len()] {
            refused(&bytes[..len], "cut short");
        }
        bytes = extend(&old, |extension| extension.replace(b"new", ok(&records(0, 100, 100))));
    }
}

#[test]
fn a_value_that_looks_like_a_meta_is_none() {
    // Meta 0 is damaged; behind meta 1, where the meta of a file of larger pages would be, is a value.
    let mut entries = records(0, 1, 0);
    let forged = Meta { page_size: 4096, root: PageId(2), sequence: 0, high_water: PageId(3), txid: 99 };
    let value_at = 2 * PAGE + PAGE_HEADER_BYTES + ELEMENT_BYTES + 17;
    let mut value = vec![0; 12 * PAGE];
    put(&mut value, 4096 - value_at, &forged.encode(PageId(1)));
    entries.insert(record_key(0), value);
    let mut bytes = written(PAGE, &one_bucket(entries.clone()));
    assert_eq!(Meta::read(&bytes, 4096), Some(forged));
    bytes[20] ^= 1;
    assert_eq!(read(&bytes), one_bucket(entries));
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
fn an_element_inside_another_is_named() {
    let (mut bytes, root) = two_levels();
    let second = child_of(&bytes, root, 0) + PAGE_HEADER_BYTES + ELEMENT_BYTES;
    let pos = layout::u32_at(&bytes, second + 4).unwrap();
    put(&mut bytes, second + 4, &(pos - 1).to_le_bytes());
    refused(&bytes, "inside another one");
}

#[test]
fn a_key_that_no_bbolt_accepts_is_named() {
    let key = vec![7; layout::MAX_KEY_BYTES + 1];
    let mut leaf = page_header(PageId(2), FLAG_LEAF, 1, (key.len() / PAGE) as u32 + 1).to_vec();
    for word in [1, ELEMENT_BYTES as u32, key.len() as u32, 0] {
        leaf.extend_from_slice(&word.to_le_bytes());
    }
    leaf.extend_from_slice(&key);
    leaf.resize(leaf.len().next_multiple_of(PAGE) + PAGE, 0);
    let overflow = (leaf.len() / PAGE - 1) as u32;
    put(&mut leaf, 12, &overflow.to_le_bytes());
    refused(&file_of(PAGE, &[&leaf], PageId(2)), "too long");
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
    // A cursor does not take it for the end.
    let file = BoltFile::open(&bytes).unwrap();
    let mut cursor = file.cursor(&file.bucket(b"key").unwrap().unwrap());
    cursor.first().unwrap();
    let found = std::iter::from_fn(|| cursor.next().transpose()).find(Result::is_err);
    assert!(found.unwrap().unwrap_err().to_string().contains("is empty"));
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
