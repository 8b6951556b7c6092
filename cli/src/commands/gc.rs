//! `etcdbr gc`: remove what no policy keeps from the archive, or what killed backups have left in its store.

use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::archive::{Archive, Keyring, UnfinishedBackup};
use etcdbr_engine::gc::{
    KeptAgainst, SweepMemory, SweepOutcome, UploadsPlan, UploadsRequest, abort_uploads, plan_sweep, plan_uploads,
    run_sweep,
};
use etcdbr_engine::retention::Decided;
use etcdbr_engine::run::RunContext;
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{KeyArgs, OutputFormat, RetentionArgs, StoreArgs, parse_duration};
use crate::output::{self, human_bytes};

/// Flags of `etcdbr gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    retention: RetentionArgs,
    /// Abort uploads of backups that were begun and never ended, as a killed process leaves them, and nothing else
    #[arg(long, env = "ETCDBR_ABORT_UPLOADS", value_parser = BoolishValueParser::new())]
    abort_uploads: bool,
    /// With --abort-uploads: leave alone what was begun less than this ago: it may be under way
    #[arg(long, env = "ETCDBR_OLDER_THAN", value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    older_than: Duration,
    /// Show what would be done, for every object with its reason, and do nothing
    #[arg(long, env = "ETCDBR_DRY_RUN", value_parser = BoolishValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Removes what no policy keeps, or abandoned uploads; or shows the plan.
///
/// # Errors
/// Those of the engine; `Refused` where the store would not part with something that should go.
pub(crate) async fn run(args: GcArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    if args.abort_uploads {
        return uploads(args, format, context).await;
    }
    let policy = args.retention.policy()?;
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    // Two looks, as two sweeps of a sidecar would have: what covers a delta must be there in both.
    let mut memory = SweepMemory::default();
    plan_sweep(&archive, &policy, &mut memory, context).await?;
    let plan = plan_sweep(&archive, &policy, &mut memory, context).await?;
    let outcome = if args.dry_run {
        SweepOutcome { plan, ..SweepOutcome::default() }
    } else {
        run_sweep(&archive, plan, context).await?
    };
    let text = sweep_text(&outcome, args.dry_run, &archive);
    output::result(format, &text, &sweep_document(&outcome, args.dry_run));
    match outcome.refused.len() + outcome.unreadable.len() {
        0 => Ok(()),
        left => Err(Error::new(
            ErrorKind::Refused,
            format!("{left} objects kept others, or themselves, from being removed"),
        )
        .hint("the output says which and why; everything else was done")),
    }
}

async fn uploads(args: GcArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    // Names and uploads are listed without keys.
    let archive = args.store.archive(Keyring::default()).await?;
    let plan = plan_uploads(&archive, UploadsRequest { older_than: args.older_than }, context).await?;
    if !args.dry_run {
        abort_uploads(&archive, &plan, context).await?;
    }
    output::result(format, &text(&plan, args.dry_run, &archive.describe()), &document(&plan, args.dry_run));
    Ok(())
}

fn sweep_text(outcome: &SweepOutcome, dry_run: bool, archive: &Archive) -> String {
    let goes: Vec<&Decided> = outcome.plan.deletions().collect();
    let bytes = goes.iter().map(|decided| decided.entry.stored_bytes).sum();
    let stays = outcome.plan.objects.len() - goes.len();
    let mut out = String::new();
    if dry_run {
        for decided in &outcome.plan.objects {
            let verb = if decided.decision.deletes() { "delete" } else { "keep" };
            out += &format!("{verb:6}  {}  {}\n", decided.entry.name, decided.decision);
        }
        let place = archive.describe();
        out += &format!("would delete {} objects, {}, and keep {stays} in {place}\n", goes.len(), human_bytes(bytes));
        return out;
    }
    let place = archive.describe();
    out += &format!("deleted {} of {} objects in {place}\n", outcome.deleted.len(), outcome.plan.objects.len());
    if outcome.hidden > 0 {
        let hidden = outcome.hidden;
        out += &format!("  {hidden} of them are hidden only: the bucket keeps their versions, and what locks them\n");
    }
    for kept in outcome.refused.iter().chain(&outcome.unreadable) {
        out += &format!("  kept: {}\n", kept.why);
    }
    if outcome.withheld > 0 {
        out += &format!("{} more stay because of them\n", outcome.withheld);
    }
    out
}

fn sweep_document(outcome: &SweepOutcome, dry_run: bool) -> Value {
    let object = |decided: &Decided| {
        json!({
            "backup": decided.entry.name.to_string(),
            "stored_bytes": decided.entry.stored_bytes,
            "decision": if decided.decision.deletes() { "delete" } else { "keep" },
            "reason": decided.decision.to_string(),
        })
    };
    let against = |kept: &[KeptAgainst]| -> Vec<Value> {
        kept.iter()
            .map(|kept| json!({"backup": kept.name.to_string(), "error": output::error_document(&kept.why)}))
            .collect()
    };
    let objects: Vec<Value> =
        outcome.plan.objects.iter().filter(|decided| dry_run || decided.decision.deletes()).map(object).collect();
    let deleted: Vec<String> = outcome.deleted.iter().map(ToString::to_string).collect();
    json!({
        "dry_run": dry_run, "now": outcome.plan.now.to_string(), "objects": objects, "deleted": deleted,
        "hidden": outcome.hidden,
        "kept": outcome.plan.objects.len() - outcome.plan.deletions().count(),
        "refused": against(&outcome.refused), "unreadable": against(&outcome.unreadable), "withheld": outcome.withheld,
    })
}

fn text(plan: &UploadsPlan, dry_run: bool, archive: &str) -> String {
    let verb = if dry_run { "would abort" } else { "aborted" };
    let mut out = format!("{verb} {} abandoned uploads in {archive}\n", plan.abort.len());
    for unfinished in &plan.abort {
        out += &format!("  {:24}  {}\n", begun(unfinished), unfinished.name);
    }
    if !plan.keep.is_empty() {
        out += &format!("kept {} that may be under way\n", plan.keep.len());
        for unfinished in &plan.keep {
            out += &format!("  {:24}  {}\n", begun(unfinished), unfinished.name);
        }
    }
    if plan.foreign > 0 {
        out += &format!("({} other uploads under this prefix are not of etcdbr)\n", plan.foreign);
    }
    out
}

fn document(plan: &UploadsPlan, dry_run: bool) -> Value {
    let uploads = |uploads: &[UnfinishedBackup]| -> Vec<Value> {
        let entry =
            |unfinished: &UnfinishedBackup| json!({"backup": unfinished.name.to_string(), "begun": begun(unfinished)});
        uploads.iter().map(entry).collect()
    };
    json!({
        "dry_run": dry_run, "aborted": uploads(&plan.abort), "kept": uploads(&plan.keep), "foreign_uploads": plan.foreign,
    })
}

fn begun(unfinished: &UnfinishedBackup) -> String {
    unfinished.begun.map_or_else(|| "unknown".to_owned(), |begun| begun.to_string())
}
