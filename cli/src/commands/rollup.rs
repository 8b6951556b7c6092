//! `etcdbr rollup`: make wide deltas of narrow ones.

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::Result;
use etcdbr_engine::format::NameKind;
use etcdbr_engine::pipeline::CompressionLevel;
use etcdbr_engine::rollup::{RolledUp, RollupOptions, RollupPlan, Span, list_and_plan, run_plan};
use etcdbr_engine::run::RunContext;
use serde_json::{Value, json};

use crate::args::{KeyArgs, OutputFormat, RollupArgs, StoreArgs};
use crate::output::{self, human_bytes};

/// Flags of `etcdbr rollup`.
#[derive(Debug, Args)]
pub(crate) struct RollupCommand {
    #[command(flatten)]
    rollup: RollupArgs,
    /// Show what would be done, and do nothing
    #[arg(long, env = "ETCDBR_DRY_RUN", value_parser = BoolishValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Rolls up what is due, or shows the plan.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn run(args: RollupCommand, format: OutputFormat, context: &RunContext) -> Result<()> {
    let options = RollupOptions {
        policy: args.rollup.policy(),
        level: CompressionLevel::default(),
        tool_version: env!("ETCDBR_VERSION").to_owned(),
    };
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    let plan = list_and_plan(&archive, &options, context).await?;
    let done = if args.dry_run { RolledUp::default() } else { run_plan(&archive, &plan, &options, context).await? };
    let text = if args.dry_run { plan_text(&plan) } else { done_text(&done) };
    output::result(format, &text, &document(&plan, &done, args.dry_run));
    Ok(())
}

fn plan_text(plan: &RollupPlan) -> String {
    let mut out = format!("would write {} deltas\n", plan.spans.len());
    for span in &plan.spans {
        let (first, last) = span.revisions;
        let count = span.parts().count();
        out += &format!("  revisions {first} to {last} of {count} objects, lineage {}\n", span.lineage);
    }
    out
}

fn done_text(done: &RolledUp) -> String {
    let mut out = format!("wrote {} deltas\n", done.written.len());
    for (written, parts) in &done.written {
        out += &format!("  {}  {} of {parts} objects\n", written.name, human_bytes(written.stored_bytes));
    }
    for skipped in &done.skipped {
        out += &format!("left out: {}\n", skipped.why);
    }
    out
}

fn document(plan: &RollupPlan, done: &RolledUp, dry_run: bool) -> Value {
    let range = |span: &Span| json!({"lineage": span.lineage.to_string(), "first": span.revisions.0.0, "last": span.revisions.1.0});
    let planned: Vec<Value> = plan
        .spans
        .iter()
        .map(|span| json!({"span": range(span), "parts": span.parts().map(|part| part.name.to_string()).collect::<Vec<_>>()}))
        .collect();
    let written = |(written, parts): &(etcdbr_engine::archive::WrittenBackup, usize)| {
        let revisions = match written.name.kind {
            NameKind::Delta { first, last } => (first.0, last.0),
            NameKind::Full { seam } => (seam.0, seam.0),
        };
        json!({
            "backup": written.name.to_string(), "first": revisions.0, "last": revisions.1, "parts": parts,
            "stored_bytes": written.stored_bytes, "plain_bytes": written.plain_bytes,
        })
    };
    let skipped: Vec<Value> = done
        .skipped
        .iter()
        .map(|skipped| json!({"span": range(&skipped.span), "error": output::error_document(&skipped.why)}))
        .collect();
    json!({
        "dry_run": dry_run, "planned": planned, "written": done.written.iter().map(written).collect::<Vec<_>>(),
        "skipped": skipped,
    })
}
