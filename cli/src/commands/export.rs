//! `etcdbr export`: give a backup away as a plain `snapshot.db`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::Result;
use etcdbr_engine::archive::Selection;
use etcdbr_engine::export::{ExportRequest, ExportSummary, Plaintext, plan_export, run_export};
use etcdbr_engine::replay::Thoroughness;
use etcdbr_engine::run::RunContext;
use serde_json::{Value, json};

use crate::args::{BackupArgs, KeyArgs, OutputFormat, StoreArgs};
use crate::output::{self, human_bytes};
use crate::proof;

/// Flags of `etcdbr export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The file to make: a snapshot.db with its SHA-256 behind it, as `etcdutl snapshot restore` takes it
    #[arg(long, env = "ETCDBR_TO", value_name = "FILE")]
    to: PathBuf,
    /// Write what was encrypted into a file that is not
    #[arg(long, env = "ETCDBR_ALLOW_PLAINTEXT", value_parser = BoolishValueParser::new())]
    allow_plaintext: bool,
    /// For emergencies: export what authenticates without checking the tree of the database or its HashKV
    #[arg(long, env = "ETCDBR_SKIP_PROOF", value_parser = BoolishValueParser::new())]
    skip_proof: bool,
    #[command(flatten)]
    backup: BackupArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Exports a backup.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn run(args: ExportArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    let request = ExportRequest {
        selection: args.backup.named().unwrap_or(Selection::Latest),
        to: args.to,
        plaintext: if args.allow_plaintext { Plaintext::Allowed } else { Plaintext::Refused },
        thoroughness: if args.skip_proof { Thoroughness::Skip } else { Thoroughness::Full },
        limits: args.backup.limits(),
    };
    let plan = context.unless_stopped(plan_export(&archive, request)).await?;
    context.note(format!("exporting {} to {}", plan.backup.name, plan.to.display()));
    let summary = run_export(plan, context).await?;
    output::result(format, &text(&summary), &document(&summary));
    Ok(())
}

fn text(summary: &ExportSummary) -> String {
    format!(
        "exported {}\n  to {}, {}, revision {}, in {:.1} s\n  SHA-256 of the image {}\n{}restore it with: {}\n",
        summary.backup.name,
        summary.path.display(),
        human_bytes(summary.file_bytes),
        summary.facts.revision,
        summary.duration_ms as f64 / 1000.0,
        hex(&summary.image_sha256),
        proof::text(&summary.proof),
        output::shell_line(&[
            "etcdutl".to_owned(),
            "snapshot".to_owned(),
            "restore".to_owned(),
            summary.path.display().to_string()
        ]),
    )
}

fn document(summary: &ExportSummary) -> Value {
    json!({
        "backup": summary.backup.name.to_string(),
        "file": summary.path,
        "file_bytes": summary.file_bytes,
        "image_sha256": hex(&summary.image_sha256),
        "revision": summary.facts.revision.0,
        "compact_revision": summary.facts.compact_floor.map(|floor| floor.0),
        "duration_ms": summary.duration_ms,
        "proof": proof::document(&summary.proof),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
