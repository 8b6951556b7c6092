//! `etcdbr gc`: remove what nobody needs from the archive's store.

use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::archive::{Keyring, UnfinishedBackup};
use etcdbr_engine::gc::{UploadsPlan, UploadsRequest, abort_uploads, plan_uploads};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{OutputFormat, StoreArgs, parse_duration};
use crate::output;

/// Flags of `etcdbr gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Abort uploads of backups that were begun and never ended, as a killed process leaves them; backups stay
    #[arg(long, env = "ETCDBR_ABORT_UPLOADS", value_parser = BoolishValueParser::new())]
    abort_uploads: bool,
    /// Leave alone what was begun less than this ago: it may be under way
    #[arg(long, env = "ETCDBR_OLDER_THAN", value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    older_than: Duration,
    /// Show what would be done, and do nothing
    #[arg(long, env = "ETCDBR_DRY_RUN", value_parser = BoolishValueParser::new())]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Aborts abandoned uploads, or shows the plan.
///
/// # Errors
/// Those of the engine; `Invalid` where nothing is asked for.
pub(crate) async fn run(args: GcArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    if !args.abort_uploads {
        return Err(Error::new(ErrorKind::Invalid, "nothing to do: --abort-uploads is missing")
            .hint("`etcdbr gc --abort-uploads --dry-run` shows which uploads were abandoned"));
    }
    // Names and uploads are listed without keys.
    let archive = args.store.archive(Keyring::default()).await?;
    let plan = plan_uploads(&archive, UploadsRequest { older_than: args.older_than }, context).await?;
    if !args.dry_run {
        abort_uploads(&archive, &plan, context).await?;
    }
    output::result(format, &text(&plan, args.dry_run, &archive.describe()), &document(&plan, args.dry_run));
    Ok(())
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
