//! `etcdbr verify`: prove backups without restoring them.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::Result;
use etcdbr_engine::archive::{BackupEntry, ReadLimits, Selection};
use etcdbr_engine::format::{BackupName, LineageId};
use etcdbr_engine::replay::HashKvProof;
use etcdbr_engine::run::RunContext;
use etcdbr_engine::verify::{Scope, Verdict, Verified, VerifyRequest, plan_verify, run_verify};
use serde_json::{Value, json};

use crate::args::{KeyArgs, OutputFormat, StoreArgs};
use crate::output::{self, human_bytes};
use crate::proof;

/// Flags of `etcdbr verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Verify this full alone, as `list` names it [default: the newest full and the deltas that follow it]
    #[arg(long, env = "ETCDBR_BACKUP", value_name = "NAME", conflicts_with = "lineage")]
    backup: Option<BackupName>,
    /// Verify the newest moment of this lineage
    #[arg(long, env = "ETCDBR_LINEAGE", value_name = "ID")]
    lineage: Option<LineageId>,
    /// Verify every object of the archive and every lineage as a whole; what is wrong with one is told, and the others are
    /// verified all the same
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
        let besides = match summary.besides {
            0 => String::new(),
            besides => format!(", and {besides} objects beside them"),
        };
        context.note(format!("all {} fulls are sound, with the deltas that follow them{besides}", summary.sound));
    }
    Ok(())
}

fn text(backup: &BackupEntry, verified: &Verified) -> String {
    let seconds = verified.duration_ms as f64 / 1000.0;
    let mut out = format!(
        "sound {}\n  revision {}, {} records, image {}, in {seconds:.1} s\n{}",
        backup.name,
        verified.facts.revision,
        verified.facts.records,
        human_bytes(verified.plain_bytes),
        proof::text(&verified.proof),
    );
    if verified.deltas > 0 {
        out += &format!(
            "  {} deltas with {} records lead on to revision {}: every byte read, no revision missing, one history\n",
            verified.deltas, verified.delta_records, verified.reaches
        );
        for hash_kv in &verified.delta_hash_kv {
            match hash_kv {
                HashKvProof::Equal(answer) => {
                    out += &format!("  with them, {} as etcd answered it\n", proof::answer_text(answer));
                }
                HashKvProof::NoAnswer(reason) => {
                    out += &format!("  with them, not compared with etcd's own HashKV: {reason}\n");
                }
                HashKvProof::Skipped => {}
            }
        }
    }
    out
}

fn document(backup: &BackupEntry, verified: &Verified) -> Value {
    let equal = |proof: &HashKvProof| match proof {
        HashKvProof::Equal(answer) => Some(proof::answer_document(answer)),
        HashKvProof::NoAnswer(_) | HashKvProof::Skipped => None,
    };
    let delta_hash_kv: Vec<Value> = verified.delta_hash_kv.iter().filter_map(equal).collect();
    json!({
        "backup": backup.name.to_string(),
        "sound": true,
        "revision": verified.facts.revision.0,
        "compact_revision": verified.facts.compact_floor.map(|floor| floor.0),
        "records": verified.facts.records,
        "deltas": verified.deltas,
        "delta_hashkv": delta_hash_kv,
        "delta_records": verified.delta_records,
        "reaches": verified.reaches.0,
        "image_bytes": verified.plain_bytes,
        "stored_bytes": backup.stored_bytes,
        "duration_ms": verified.duration_ms,
        "proof": proof::document(&verified.proof),
    })
}
