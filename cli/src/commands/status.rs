//! `etcdbr status`: what is in a plain `snapshot.db` or in a backup, in the figures of `etcdutl snapshot status`.

use std::path::PathBuf;

use clap::Args;
use etcdbr_engine::foreign::Trailer;
use etcdbr_engine::run::RunContext;
use etcdbr_engine::status::{Origin, Status, StatusRequest, TotalKeys, look};
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{BackupArgs, KeyArgs, OutputFormat, ScratchArgs, StoreArgs};
use crate::output::{self, human_bytes};

/// Flags of `etcdbr status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// A plain snapshot, or the db of a data directory that no etcd runs on; it is only read
    #[arg(value_name = "FILE", conflicts_with_all = ["backup", "lineage"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    backup: BackupArgs,
    #[command(flatten)]
    scratch: ScratchArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Looks at a file or a backup.
///
/// # Errors
/// Those of the engine; `Invalid` where neither is named.
pub(crate) async fn run(args: StatusArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    let archive;
    let request = match (args.file, args.backup.named()) {
        (Some(path), _) => StatusRequest::File(path),
        (None, Some(selection)) => {
            archive = args.store.archive(args.keys.keyring(context)?).await?;
            let (scratch_dir, limits) = (args.scratch.dir(), args.backup.limits());
            StatusRequest::Backup { archive: &archive, selection, scratch_dir, limits }
        }
        (None, None) => {
            return Err(Error::new(ErrorKind::Invalid, "neither a snapshot file nor a backup is named").hint(
                "`etcdbr status snapshot.db`, or `etcdbr status --backup latest` with the flags of the archive",
            ));
        }
    };
    let status = look(request, context).await?;
    output::result(format, &text(&status), &document(&status));
    Ok(())
}

fn text(status: &Status) -> String {
    let (tally, facts) = (&status.tally, &status.facts);
    let origin = match &status.origin {
        Origin::File(path, Trailer::Sha256) => format!("{}: its SHA-256 is right", path.display()),
        Origin::File(path, Trailer::Absent) => format!("{}: without a SHA-256", path.display()),
        Origin::Backup(backup) => backup.name.to_string(),
    };
    let (counted, other) = match status.total_keys() {
        TotalKeys::Alive => (status.live_keys, format!("alive; {} entries in all buckets", tally.entries)),
        TotalKeys::Entries => (tally.entries, format!("entries in all buckets; {} keys alive", status.live_keys)),
    };
    let mut revision = tally.last_record.to_string();
    if facts.revision != tally.last_record {
        revision += &format!(" (that of the last record; an etcd starts at {})", facts.revision);
    }
    format!(
        "{origin}\n  hash        {:x}\n  revision    {revision}\n  total keys  {counted} ({other})\n  total size  {}\n  \
         version     {}\n  compacted   {}\n",
        tally.hash,
        human_bytes(facts.used_bytes),
        tally.storage_version.as_deref().unwrap_or("not said: etcd 3.5 or older"),
        facts.compact_floor.map_or_else(|| "never".to_owned(), |floor| format!("at {floor}")),
    )
}

/// The fields of etcdutl, and ours.
fn document(status: &Status) -> Value {
    let (tally, facts) = (&status.tally, &status.facts);
    let total_keys = match status.total_keys() {
        TotalKeys::Alive => status.live_keys,
        TotalKeys::Entries => tally.entries,
    };
    let (file, sha256, backup) = match &status.origin {
        Origin::File(path, trailer) => (Some(path), Some(*trailer == Trailer::Sha256), None),
        Origin::Backup(backup) => (None, None, Some(backup.name.to_string())),
    };
    json!({
        "hash": tally.hash,
        "revision": tally.last_record.0,
        "totalKey": total_keys,
        "totalSize": facts.used_bytes,
        "version": tally.storage_version.as_deref().unwrap_or_default(),
        "live_keys": status.live_keys,
        "entries": tally.entries,
        "records": facts.records,
        "start_revision": facts.revision.0,
        "compact_revision": facts.compact_floor.map(|floor| floor.0),
        "leases": facts.leases,
        "file": file,
        "sha256_checked": sha256,
        "backup": backup,
    })
}
