//! The one place that builds and parses object names.
//!
//! ```text
//! <store-prefix>/etcdbr/v1/<lineage>/full/<L>-<unix ms>-<nonce>
//! <store-prefix>/etcdbr/v1/<lineage>/delta/<last>-<first>-<unix ms>-<nonce>
//! lineage = <birth, unix ms>-<cluster id>-<random>
//!
//! <store-prefix>/etcdbr-presign/<unix ms>-<random>.db     plain copies, which are no backups
//! ```
//! Revisions have 20 digits and times 13, so that the byte order of names is the order of revisions. A name that is
//! not exactly what we would write is not ours.

use std::fmt;
use std::str::FromStr;

use crate::clock::{UnixMillis, random_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::revision::{ClusterId, Revision};

/// Root of everything of ours under a store prefix, format generation included.
const ROOT: &str = "etcdbr/v1/";
/// Root of the plain copies under a store prefix: short, because their keys become parts of URLs that must be.
const COPIES_ROOT: &str = "etcdbr-presign/";
/// Beside it: what `doctor` writes and removes.
const PROBE_ROOT: &str = "etcdbr-doctor/";
/// S3's limit of a key is 1,024 bytes; ours add at most 140 to the prefix.
const MAX_PREFIX_BYTES: usize = 800;

/// Everything of one archive lies under this prefix; it ends with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivePrefix(String);

impl ArchivePrefix {
    /// The archive under `--store-prefix`; slashes at either end do not matter, and the prefix may be empty.
    ///
    /// # Errors
    /// `Invalid` for a prefix with an empty, `.` or `..` component, a control character, or more than 800 bytes.
    pub fn new(store_prefix: &str) -> Result<Self> {
        let trimmed = store_prefix.trim_matches('/');
        let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
        if trimmed.len() > MAX_PREFIX_BYTES
            || trimmed.chars().any(char::is_control)
            || (!trimmed.is_empty() && trimmed.split('/').any(bad_part))
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("--store-prefix {store_prefix:?} cannot be part of a key"),
            )
            .hint("use path components of printable characters, joined by single slashes"));
        }
        Ok(Self(if trimmed.is_empty() { ROOT.to_owned() } else { format!("{trimmed}/{ROOT}") }))
    }

    /// The prefix as listings take it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The store's key of a backup.
    pub fn key(&self, name: &BackupName) -> String {
        format!("{}{name}", self.0)
    }

    /// The prefix of the plain copies that belong to this archive: beside it, never in it. It ends with `/`.
    pub fn copies(&self) -> String {
        let store_prefix = self.0.strip_suffix(ROOT).unwrap_or_default();
        format!("{store_prefix}{COPIES_ROOT}")
    }

    /// A prefix for what is written to try the store: beside the archive, never in it. It ends with `/`.
    pub fn probe(&self, nonce: u64) -> String {
        let store_prefix = self.0.strip_suffix(ROOT).unwrap_or_default();
        format!("{store_prefix}{PROBE_ROOT}{nonce:016x}/")
    }

    /// The store's key of a plain copy.
    pub fn copy_key(&self, name: &PlainCopyName) -> String {
        format!("{}{name}", self.copies())
    }

    /// The plain copy that a key of the store names; `None`: the key is not ours.
    pub fn parse_copy_key(&self, key: &str) -> Option<PlainCopyName> {
        key.strip_prefix(&self.copies())?.parse().ok()
    }

    /// The backup that a key of the store names; `None`: the key is not ours.
    pub fn parse_key(&self, key: &str) -> Option<BackupName> {
        key.strip_prefix(&self.0)?.parse().ok()
    }
}

/// One continuous history of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineageId {
    /// When its first full was begun.
    pub birth: UnixMillis,
    /// The cluster.
    pub cluster: ClusterId,
    /// Tells apart what the same cluster began in the same millisecond.
    pub random: u32,
}

impl LineageId {
    /// A lineage that begins now.
    ///
    /// # Errors
    /// `Internal` without random bytes.
    pub fn new(birth: UnixMillis, cluster: ClusterId) -> Result<Self> {
        Ok(Self { birth, cluster, random: u32::from_be_bytes(random_bytes()?) })
    }
}

impl fmt::Display for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}-{:016x}-{:08x}", self.birth.0, self.cluster.0, self.random)
    }
}

impl FromStr for LineageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let [birth, cluster, random] = fields(text)?;
            Some(Self {
                birth: UnixMillis(birth.parse().ok()?),
                cluster: ClusterId(u64::from_str_radix(cluster, 16).ok()?),
                random: u32::from_str_radix(random, 16).ok()?,
            })
        };
        exact(parse(), text, "a lineage")
    }
}

/// What makes every object name unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectNonce(pub [u8; 8]);

impl ObjectNonce {
    /// A nonce that nobody else has.
    ///
    /// # Errors
    /// `Internal` without random bytes.
    pub fn random() -> Result<Self> {
        Ok(Self(random_bytes()?))
    }
}

impl fmt::Display for ObjectNonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// What a name says of its object's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// An image taken at or after this revision, the seam.
    Full {
        /// L.
        seam: Revision,
    },
    /// The records of `first..=last`; `first = last + 1` where it only marks time.
    Delta {
        /// Last revision.
        last: Revision,
        /// First revision.
        first: Revision,
    },
}

/// The archive-relative name of a backup; all there is to its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupName {
    /// The lineage.
    pub lineage: LineageId,
    /// Kind and revisions.
    pub kind: NameKind,
    /// When the object was begun.
    pub created: UnixMillis,
    /// Unique.
    pub nonce: ObjectNonce,
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lineage, kind, created, nonce } = self;
        match kind {
            NameKind::Full { seam } => write!(f, "{lineage}/full/{:020}-{:013}-{nonce}", seam.0, created.0),
            NameKind::Delta { last, first } => {
                write!(f, "{lineage}/delta/{:020}-{:020}-{:013}-{nonce}", last.0, first.0, created.0)
            }
        }
    }
}

impl FromStr for BackupName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.split('/');
            let (lineage, kind, rest) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
            let (kind, created, nonce) = match kind {
                "full" => {
                    let [seam, created, nonce] = fields(rest)?;
                    (NameKind::Full { seam: seam.parse().ok()? }, created, nonce)
                }
                "delta" => {
                    let [last, first, created, nonce] = fields(rest)?;
                    (NameKind::Delta { last: last.parse().ok()?, first: first.parse().ok()? }, created, nonce)
                }
                _ => return None,
            };
            let nonce = ObjectNonce(u64::from_str_radix(nonce, 16).ok()?.to_be_bytes());
            Some(Self { lineage, kind, created: UnixMillis(created.parse().ok()?), nonce })
        };
        exact(parse(), text, "a backup")
    }
}

/// The name of a plain snapshot that was put beside the archive to be fetched by its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainCopyName {
    /// When it was begun.
    pub created: UnixMillis,
    /// Tells apart what was begun in the same millisecond.
    pub random: u32,
}

impl PlainCopyName {
    /// A name that nobody else has.
    ///
    /// # Errors
    /// `Internal` without random bytes.
    pub fn new(created: UnixMillis) -> Result<Self> {
        Ok(Self { created, random: u32::from_be_bytes(random_bytes()?) })
    }
}

impl fmt::Display for PlainCopyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:013}-{:08x}.db", self.created.0, self.random)
    }
}

impl FromStr for PlainCopyName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let [created, random] = fields(text.strip_suffix(".db")?)?;
            Some(Self { created: UnixMillis(created.parse().ok()?), random: u32::from_str_radix(random, 16).ok()? })
        };
        exact(parse(), text, "a plain copy")
    }
}

fn fields<const N: usize>(text: &str) -> Option<[&str; N]> {
    let parts: Vec<&str> = text.split('-').collect();
    parts.try_into().ok()
}

/// Only the canonical spelling is a name: anything else could be two names for one thing.
fn exact<T: fmt::Display>(parsed: Option<T>, text: &str, what: &str) -> Result<T> {
    parsed.filter(|value| value.to_string() == text).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("{text:?} is not the name of {what}"))
            .hint("`etcdbr list` shows the names")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAGE: &str = "1763724000000-00000000cafe0001-0badf00d";

    #[test]
    fn names_round_trip() {
        for name in [
            format!("{LINEAGE}/full/00000000000000000042-1763724000001-00000000000000ff"),
            format!("{LINEAGE}/delta/00000000000000000052-00000000000000000043-1763724000002-0123456789abcdef"),
        ] {
            assert_eq!(name.parse::<BackupName>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn anything_but_the_canonical_spelling_is_refused() {
        for bad in [
            String::new(),
            LINEAGE.to_owned(),
            format!("{LINEAGE}/full/42-1763724000001-00000000000000ff"),
            format!("{LINEAGE}/full/00000000000000000042-1763724000001-00000000000000FF"),
            format!("{LINEAGE}/full/+0000000000000000042-1763724000001-00000000000000ff"),
            format!("{LINEAGE}/full/00000000000000000042-1763724000001-00000000000000ff/x"),
            format!("{LINEAGE}/full/00000000000000000042-1763724000001-00000000000000ff.tmp"),
            format!("{LINEAGE}/half/00000000000000000042-1763724000001-00000000000000ff"),
            format!("{LINEAGE}/full/99999999999999999999-1763724000001-00000000000000ff"),
        ] {
            assert!(bad.parse::<BackupName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_match_with_their_slash() {
        let name = format!("{LINEAGE}/full/00000000000000000042-1763724000001-00000000000000ff").parse().unwrap();
        let etcd = ArchivePrefix::new("/etcd/").unwrap();
        let key = etcd.key(&name);
        assert!(key.starts_with("etcd/etcdbr/v1/1763724000000-"));
        assert_eq!(etcd.parse_key(&key), Some(name));
        assert_eq!(ArchivePrefix::new("etcd-2").unwrap().parse_key(&key), None);
        assert_eq!(ArchivePrefix::new("").unwrap().as_str(), ROOT);
    }

    #[test]
    fn plain_copies_lie_beside_the_archive() {
        let name: PlainCopyName = "1763724000001-0badf00d.db".parse().unwrap();
        for (store_prefix, key) in [
            ("prod/a", "prod/a/etcdbr-presign/1763724000001-0badf00d.db"),
            ("", "etcdbr-presign/1763724000001-0badf00d.db"),
        ] {
            let prefix = ArchivePrefix::new(store_prefix).unwrap();
            assert_eq!(prefix.copy_key(&name), key);
            assert_eq!(prefix.parse_copy_key(key), Some(name));
            assert!(!key.starts_with(prefix.as_str()));
            assert_eq!(prefix.parse_copy_key(&format!("{}1763724000001-0badf00d.db", prefix.as_str())), None);
        }
        let bads =
            ["1763724000001-0badf00d", "1763724000001-0BADF00D.db", "x/1763724000001-0badf00d.db", "snapshot.db"];
        for bad in bads {
            assert!(bad.parse::<PlainCopyName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_that_could_leave_its_place_is_refused() {
        for bad in ["a//b", "../b", "a/./b", "a\nb"] {
            assert!(ArchivePrefix::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn byte_order_of_names_is_order_of_revisions() {
        let name = |seam| BackupName {
            lineage: LINEAGE.parse().unwrap(),
            kind: NameKind::Full { seam: Revision(seam) },
            created: UnixMillis(1),
            nonce: ObjectNonce([0; 8]),
        };
        assert!(name(9).to_string() < name(10).to_string());
        assert!(name(9) < name(10));
    }
}
