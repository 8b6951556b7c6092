//! The two ways to make a database of an image and the records that follow it, and which one is taken.
//!
//! To append is to write everything once, and etcd finishes the compaction; but what has been overwritten since is in the
//! file until then. To rewrite is to write a small file, with the image in a scratch file beside it.

use std::fmt;

use crate::archive::{BackupReader, Chain};
use crate::format::NameKind;

/// So much larger than the source's own file an appended one may become: a half more.
const MOST_GROWTH_PERCENT: u64 = 150;
/// Bytes of a record in a database beside those that it has in a delta: element and key.
const RECORD_BYTES: u64 = 28;
/// Pages are not filled to the last byte.
const SLACK_PERCENT: u64 = 115;

/// How the operator wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WayWanted {
    /// As sizes say.
    #[default]
    BySize,
    /// As small as it can be.
    Rewritten,
}

/// What decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of the records that follow it, as the database would hold them; an estimate.
    pub record_bytes: u64,
    /// Bytes of the plaintext of these; an estimate.
    pub plain_bytes: u64,
    /// Bytes of the source's own file, at the end of the chain.
    pub source_bytes: u64,
}

impl Sizes {
    /// Of a full alone.
    pub(super) fn of_image(full: &BackupReader) -> Self {
        let image_bytes = full.footer().plain_bytes;
        let source_bytes = full.footer().facts.source.db_bytes;
        let source_bytes = if source_bytes == 0 { image_bytes } else { source_bytes };
        Self { image_bytes, record_bytes: 0, plain_bytes: 0, source_bytes }
    }

    /// Adds the deltas of `chain`; `density` is plaintext per stored byte, of samples that stand for equal shares.
    pub(super) fn add_deltas(&mut self, chain: &Chain, density: &[f64]) {
        let stored: u64 = chain.deltas.iter().map(|delta| delta.stored_bytes).sum();
        let mean = density.iter().sum::<f64>() / density.len().max(1) as f64;
        let revisions: i64 = chain
            .deltas
            .iter()
            .map(|delta| match delta.name.kind {
                NameKind::Delta { first, last } => last.0 - first.0 + 1,
                NameKind::Full { .. } => 0,
            })
            .sum();
        self.plain_bytes = (stored as f64 * mean) as u64;
        self.record_bytes = (self.plain_bytes + RECORD_BYTES * revisions.unsigned_abs()) / 100 * SLACK_PERCENT;
    }

    /// Bytes that are written at one time, at most.
    pub(super) fn needed_bytes(&self, way: Way) -> u64 {
        match way {
            Way::Append => self.appended_bytes(),
            // The image in its scratch file, and what is written anew: no more than all, nor than the source has.
            Way::RewriteAsked | Way::RewriteChurned => {
                self.image_bytes + self.appended_bytes().min(self.source_bytes / 100 * MOST_GROWTH_PERCENT)
            }
        }
    }

    /// Bytes of the database where everything is appended.
    pub fn appended_bytes(&self) -> u64 {
        self.image_bytes + self.record_bytes
    }
}

/// Which way, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// All records are added to the image.
    Append,
    /// The operator wants it rewritten.
    RewriteAsked,
    /// Appended, it would be too large.
    RewriteChurned,
}

impl Way {
    /// The way for these sizes.
    pub(super) fn choose(sizes: &Sizes, chain: &Chain, wanted: WayWanted) -> Self {
        let fits = sizes.appended_bytes() / MOST_GROWTH_PERCENT <= sizes.source_bytes / 100;
        match wanted {
            WayWanted::Rewritten => Self::RewriteAsked,
            WayWanted::BySize if chain.deltas.is_empty() || fits => Self::Append,
            WayWanted::BySize => Self::RewriteChurned,
        }
    }

    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::RewriteAsked | Self::RewriteChurned => "rewrite",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append => "append: etcd does the compactions since the image when it starts",
            Self::RewriteAsked => "rewrite: asked for by --defragment",
            Self::RewriteChurned => {
                "rewrite: appended, the file would be more than half as large again as the source's"
            }
        })
    }
}
