//! Damages the pages of a database as a test wants it. An editor, not a reader: it believes what it finds.

/// Flag of a branch page.
pub const BRANCH: u16 = 1;
/// Flag of a leaf page.
pub const LEAF: u16 = 2;

const HEADER_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;

/// The pages of an image that bbolt would read.
#[derive(Debug)]
pub struct Pages<'a> {
    image: &'a mut [u8],
    page_size: usize,
}

impl<'a> Pages<'a> {
    /// The pages of `image`.
    pub fn of(image: &'a mut [u8]) -> Self {
        let page_size = u32_at(image, HEADER_BYTES + 8) as usize;
        Self { image, page_size }
    }

    /// A branch leads to itself.
    pub fn link_to_itself(&mut self, flag: u16) {
        let (page, id) = self.find(flag);
        let child = page + HEADER_BYTES + ELEMENT_BYTES + 8;
        self.image[child..child + 8].copy_from_slice(&id.to_le_bytes());
    }

    /// The data of an element lie behind its page.
    pub fn reach_outside(&mut self, flag: u16) {
        let (page, _) = self.find(flag);
        let offset = page + HEADER_BYTES + ELEMENT_BYTES + 4;
        self.image[offset..offset + 4].copy_from_slice(&0x00ff_0000_u32.to_le_bytes());
    }

    /// The second key of a leaf is below its first.
    pub fn lower_a_key(&mut self, flag: u16) {
        let (page, _) = self.find(flag);
        let element = page + HEADER_BYTES + ELEMENT_BYTES;
        let key = element + u32_at(self.image, element + 4) as usize;
        self.image[key..key + 8].fill(0);
    }

    /// Only the first element is left.
    pub fn leave_one(&mut self, flag: u16) {
        let (page, _) = self.find(flag);
        self.image[page + 10..page + 12].copy_from_slice(&1_u16.to_le_bytes());
    }

    /// The place and number of a page of the `key` bucket that is in use, with two elements at least.
    fn find(&self, flag: u16) -> (usize, u64) {
        let mut waiting = vec![self.key_root()];
        while let Some(id) = waiting.pop() {
            let page = id as usize * self.page_size;
            let count = u16_at(self.image, page + 10) as usize;
            let found = u16_at(self.image, page + 8);
            if found == flag && count >= 2 {
                return (page, id);
            }
            if found == BRANCH {
                let child = |index: usize| u64_at(self.image, page + HEADER_BYTES + index * ELEMENT_BYTES + 8);
                waiting.extend((0..count).map(child));
            }
        }
        panic!("no page of kind {flag} with two elements");
    }

    /// The root page of the bucket whose name is `key`.
    fn key_root(&self) -> u64 {
        let meta = |page: usize| page * self.page_size + HEADER_BYTES;
        let newest = if u64_at(self.image, meta(0) + 48) > u64_at(self.image, meta(1) + 48) { 0 } else { 1 };
        let root = u64_at(self.image, meta(newest) + 16) as usize * self.page_size;
        for index in 0..u16_at(self.image, root + 10) as usize {
            let element = root + HEADER_BYTES + index * ELEMENT_BYTES;
            let name = element + u32_at(self.image, element + 4) as usize;
            let length = u32_at(self.image, element + 8) as usize;
            if &self.image[name..name + length] == b"key" {
                let root = u64_at(self.image, name + length);
                assert!(root > 0, "the bucket `key` is inline: write more keys");
                return root;
            }
        }
        panic!("no bucket `key`");
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
