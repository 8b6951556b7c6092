//! Flags that say which moment of which history.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::archive::{OnGap, Selection};
use etcdbr_engine::clock::UnixMillis;
use etcdbr_engine::format::{BackupName, LineageId};
use etcdbr_engine::restore::{PointRequest, Target, WayWanted};
use etcdbr_engine::revision::Revision;

use super::units::parse_time;

/// A moment of a history, and how a database is made of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Moment")]
pub(crate) struct PointArgs {
    /// Restore this full alone, as `list` names it [default: the newest revision of the lineage that was written last]
    #[arg(long, env = "ETCDBR_BACKUP", value_name = "NAME", conflicts_with_all = ["lineage", "revision", "at", "before_delete"])]
    backup: Option<BackupName>,
    /// Restore a moment of this lineage
    #[arg(long, env = "ETCDBR_LINEAGE", value_name = "ID")]
    lineage: Option<LineageId>,
    /// Restore this revision
    #[arg(long, env = "ETCDBR_REVISION", value_name = "N", value_parser = parse_revision, conflicts_with_all = ["at", "before_delete"])]
    revision: Option<Revision>,
    /// Restore the last revision that is known to have been reached at this time (RFC 3339, such as 2026-11-21T03:00:00Z)
    #[arg(long, env = "ETCDBR_AT", value_name = "TIME", value_parser = parse_time, conflicts_with = "before_delete")]
    at: Option<UnixMillis>,
    /// Restore the revision before the last one that deleted this key
    #[arg(long, env = "ETCDBR_BEFORE_DELETE", value_name = "KEY")]
    before_delete: Option<OsString>,
    /// Where revisions are missing, restore what lies before them
    #[arg(long, env = "ETCDBR_ALLOW_PARTIAL", value_parser = BoolishValueParser::new())]
    allow_partial: bool,
    /// Write the database anew, as small as it can be; needs room for the image beside it
    #[arg(long, env = "ETCDBR_DEFRAGMENT", value_parser = BoolishValueParser::new())]
    defragment: bool,
}

impl PointArgs {
    /// What they ask for.
    pub(crate) fn request(self) -> PointRequest {
        let selection = match (self.backup, self.lineage) {
            (Some(name), _) => Selection::Backup(name),
            (None, Some(id)) => Selection::Lineage(id),
            (None, None) => Selection::Latest,
        };
        let target = match (self.revision, self.at, self.before_delete) {
            (Some(revision), _, _) => Target::Revision(revision),
            (None, Some(time), _) => Target::At(time),
            (None, None, Some(key)) => Target::BeforeDelete(key.into_vec()),
            (None, None, None) => Target::Newest,
        };
        PointRequest {
            selection,
            target,
            on_gap: if self.allow_partial { OnGap::StopBefore } else { OnGap::Refuse },
            way: if self.defragment { WayWanted::Rewritten } else { WayWanted::BySize },
        }
    }
}

/// A revision that an etcd can have.
fn parse_revision(text: &str) -> Result<Revision, String> {
    text.parse().ok().filter(|revision: &Revision| revision.0 >= 1).ok_or_else(|| format!("{text:?} is no revision"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions() {
        assert_eq!(parse_revision("7"), Ok(Revision(7)));
        for bad in ["0", "-1", "", "x"] {
            assert!(parse_revision(bad).is_err(), "{bad}");
        }
    }
}
