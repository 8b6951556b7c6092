//! `etcdbr verify`: prove backups without restoring them.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::Result;
use etcdbr_engine::archive::{BackupEntry, ReadLimits, Selection};
use etcdbr_engine::format::{BackupName, LineageId};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::verify::{Scope, Verdict, Verified, VerifyRequest, plan_verify, run_verify};
use serde_json::{Value, json};

use crate::args::{KeyArgs, OutputFormat, StoreArgs};
use crate::output::{self, human_bytes};
use crate::proof;

/// Flags of `etcdbr verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The backup to verify, as `list` names it [default: the latest]
    #[arg(long, env = "ETCDBR_BACKUP", value_name = "NAME", conflicts_with = "lineage")]
    backup: Option<BackupName>,
    /// Verify the latest backup of this lineage
    #[arg(long, env = "ETCDBR_LINEAGE", value_name = "ID")]
    lineage: Option<LineageId>,
    /// Verify every backup of the archive; what is wrong with one is told, and the others are verified all the same
    #[arg(long, env = "ETCDBR_ALL", value_parser = BoolishValueParser::new(), conflicts_with_all = ["backup", "lineage"])]
    all: bool,
    /// Where the image lies while it is verified, decrypted, in a file without a name that goes with the process
    /// [default: $TMPDIR, else /tmp]
    #[arg(long, env = "ETCDBR_SCRATCH_DIR", value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
    /// Threads that decrypt and decompress [default: all cores]
    #[arg(long, env = "ETCDBR_COMPRESSION_THREADS", value_name = "N", help_heading = "Archive", value_parser = clap::value_parser!(u16).range(1..=256))]
    compression_threads: Option<u16>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Verifies, and prints each backup as soon as it is known whether it is sound.
///
/// # Errors
/// Those of the engine: the worst one.
pub(crate) async fn run(args: VerifyArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    let scope = match (args.backup, args.lineage) {
        _ if args.all => Scope::All,
        (Some(name), _) => Scope::One(Selection::Backup(name)),
        (None, Some(id)) => Scope::One(Selection::Lineage(id)),
        (None, None) => Scope::One(Selection::Latest),
    };
    let mut limits = ReadLimits::default();
    limits.threads = args.compression_threads.map_or(limits.threads, usize::from);
    let scratch_dir = args.scratch_dir.unwrap_or_else(std::env::temp_dir);
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    let request = VerifyRequest { scope, scratch_dir, limits };
    let plan = context.unless_stopped(plan_verify(&archive, request)).await?;
    let mut report = |verdict: Verdict<'_>| {
        let (text, document) = match &verdict.outcome {
            Ok(verified) => (text(verdict.backup, verified), document(verdict.backup, verified)),
            Err(error) => {
                let document = json!({
                    "backup": verdict.backup.name.to_string(), "sound": false, "error": output::error_document(error),
                });
                (format!("NOT SOUND {error}"), document)
            }
        };
        output::result(format, &text, &document);
    };
    let summary = run_verify(&archive, &plan, context, &mut report).await?;
    if args.all {
        context.note(format!("all {} backups are sound", summary.sound));
    }
    Ok(())
}

fn text(backup: &BackupEntry, verified: &Verified) -> String {
    let seconds = verified.duration_ms as f64 / 1000.0;
    format!(
        "sound {}\n  revision {}, {} records, image {}, in {seconds:.1} s\n{}",
        backup.name,
        verified.facts.revision,
        verified.facts.records,
        human_bytes(verified.plain_bytes),
        proof::text(&verified.proof),
    )
}

fn document(backup: &BackupEntry, verified: &Verified) -> Value {
    json!({
        "backup": backup.name.to_string(),
        "sound": true,
        "revision": verified.facts.revision.0,
        "compact_revision": verified.facts.compact_floor.map(|floor| floor.0),
        "records": verified.facts.records,
        "image_bytes": verified.plain_bytes,
        "stored_bytes": backup.stored_bytes,
        "duration_ms": verified.duration_ms,
        "proof": proof::document(&verified.proof),
    })
}
