//! Which backup a command means, and where its image may lie while it is read.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use etcdbr_engine::archive::{ReadLimits, Selection};
use etcdbr_engine::format::{BackupName, LineageId};

/// Which backup.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The backup, as `list` names it, or `latest` [default: the latest]
    #[arg(long, env = "ETCDBR_BACKUP", value_name = "NAME", conflicts_with = "lineage", value_parser = parse_backup)]
    backup: Option<Selection>,
    /// The latest backup of this lineage
    #[arg(long, env = "ETCDBR_LINEAGE", value_name = "ID")]
    lineage: Option<LineageId>,
    /// Threads that decrypt and decompress [default: all cores]
    #[arg(long, env = "ETCDBR_COMPRESSION_THREADS", value_name = "N", help_heading = "Archive", value_parser = clap::value_parser!(u16).range(1..=256))]
    compression_threads: Option<u16>,
}

impl BackupArgs {
    /// Which backup was named; `None` where none was.
    pub(crate) fn named(&self) -> Option<Selection> {
        self.backup.clone().or_else(|| self.lineage.map(Selection::Lineage))
    }

    /// Bounds of its reader.
    pub(crate) fn limits(&self) -> ReadLimits {
        let limits = ReadLimits::default();
        ReadLimits { threads: self.compression_threads.map_or(limits.threads, usize::from), ..limits }
    }
}

/// Where an image may lie for a while.
#[derive(Debug, Args)]
pub(crate) struct ScratchArgs {
    /// Where the image of a backup lies while it is looked at, decrypted, in a file without a name that goes with the
    /// process [default: $TMPDIR, else /tmp]
    #[arg(long, env = "ETCDBR_SCRATCH_DIR", value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
}

impl ScratchArgs {
    /// The directory.
    pub(crate) fn dir(self) -> PathBuf {
        self.scratch_dir.unwrap_or_else(std::env::temp_dir)
    }
}

fn parse_backup(text: &str) -> Result<Selection, String> {
    match text {
        "latest" => Ok(Selection::Latest),
        _ => BackupName::from_str(text).map(Selection::Backup).map_err(|error| error.to_string()),
    }
}
