//! How far the leaves of etcd's `key` bucket lie from their order: what wears a database out for whoever reads it.

const PAGE_HEADER_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;
const FLAG_BRANCH: u16 = 1;
const META_ROOT_AT: usize = 32;
const META_TXID_AT: usize = 64;

/// Of a hundred leaves of the `key` bucket, how many do not directly follow the one before.
///
/// `file` is a database that has been checked; pages are as large as the first meta says.
///
/// # Panics
/// Where it is no such database.
pub(crate) fn scattered_leaves(file: &[u8]) -> usize {
    let page_bytes = u32_at(file, PAGE_HEADER_BYTES + 8) as usize;
    let meta = [0, page_bytes].into_iter().max_by_key(|meta| u64_at(file, meta + META_TXID_AT)).expect("two metas");
    let mut walk = Walk { file, page_bytes, leaves: 0, scattered: 0, next: 0 };
    let root = &file[u64_at(file, meta + META_ROOT_AT) as usize * page_bytes..];
    let bucket = (0..count(root)).map(|at| element(root, at)).find(|(key, _)| *key == b"key");
    let (_, header) = bucket.expect("etcd has a bucket `key`, and a root that is a leaf");
    walk.page(u64_at(header, 0) as usize);
    walk.scattered * 100 / walk.leaves.max(1)
}

struct Walk<'a> {
    file: &'a [u8],
    page_bytes: usize,
    leaves: usize,
    scattered: usize,
    next: usize,
}

impl Walk<'_> {
    fn page(&mut self, id: usize) {
        let page = &self.file[id * self.page_bytes..];
        if u16_at(page, 8) & FLAG_BRANCH != 0 {
            for at in 0..count(page) {
                self.page(u64_at(page, PAGE_HEADER_BYTES + at * ELEMENT_BYTES + 8) as usize);
            }
            return;
        }
        self.leaves += 1;
        self.scattered += usize::from(id != self.next);
        self.next = id + 1 + u32_at(page, 12) as usize;
    }
}

fn count(page: &[u8]) -> usize {
    usize::from(u16_at(page, 10))
}

/// Key and value of entry `at` of a leaf.
fn element(page: &[u8], at: usize) -> (&[u8], &[u8]) {
    let header = PAGE_HEADER_BYTES + at * ELEMENT_BYTES;
    let field = |offset| u32_at(page, header + offset) as usize;
    let data = &page[header + field(4)..];
    data[..field(8) + field(12)].split_at(field(8))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes[at..].first_chunk().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"))
}
