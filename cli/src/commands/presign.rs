//! `etcdbr presign`: a URL under which a backup can be fetched as a plain snapshot, and the removal of what it leads to.

use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::archive::{Archive, CopyLimits, PlainCopies, ReadLimits, Selection};
use etcdbr_engine::format::{BackupName, LineageId};
use etcdbr_engine::presign::{
    Plaintext, PresignRequest, PresignSummary, SweepPlan, SweepRequest, plan_presign, plan_sweep, run_presign,
    run_sweep,
};
use etcdbr_engine::run::RunContext;
use etcdbr_engine::store::{Removal, SessionEnd};
use etcdbr_engine::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::args::{KeyArgs, OutputFormat, StoreArgs, parse_duration};
use crate::output::{self, human_bytes};

/// What HyperShift takes.
const MAX_URL_CHARS: usize = 1_024;

/// Flags of `etcdbr presign`.
#[derive(Debug, Args)]
pub(crate) struct PresignArgs {
    /// The backup to lend, as `list` names it [default: the latest]
    #[arg(long, env = "ETCDBR_BACKUP", value_name = "NAME", conflicts_with = "lineage")]
    backup: Option<BackupName>,
    /// Lend the latest backup of this lineage
    #[arg(long, env = "ETCDBR_LINEAGE", value_name = "ID")]
    lineage: Option<LineageId>,
    /// How long the URL shall live: seven days (168h) at most
    #[arg(long, env = "ETCDBR_EXPIRES", value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    expires: Duration,
    /// Lend an encrypted backup nevertheless: its copy lies in the bucket in the clear until it is deleted
    #[arg(long, env = "ETCDBR_ALLOW_PLAINTEXT", value_parser = BoolishValueParser::new())]
    allow_plaintext: bool,
    /// The longest URL that its reader takes; HyperShift takes 1024 characters
    #[arg(long, env = "ETCDBR_MAX_URL_LENGTH", value_name = "N", default_value_t = MAX_URL_CHARS)]
    max_url_length: usize,
    /// Remove the copies that earlier calls have left, and nothing else
    #[arg(long, env = "ETCDBR_DELETE", value_parser = BoolishValueParser::new())]
    delete: bool,
    /// With --delete: leave alone what was begun less than this ago [default: 0s]
    #[arg(long, env = "ETCDBR_OLDER_THAN", value_name = "TIME", value_parser = parse_duration)]
    older_than: Option<Duration>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Lends a backup, or removes what was lent.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn run(args: PresignArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    let archive_flags = output::shell_line(&args.store.flags());
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    if args.delete {
        if args.backup.is_some() || args.lineage.is_some() {
            return Err(Error::new(ErrorKind::Invalid, "--delete is given together with a backup")
                .hint("it removes copies of all backups; --older-than spares the young ones"));
        }
        return delete(&archive, args.older_than.unwrap_or_default(), format, context).await;
    }
    let selection = match (args.backup, args.lineage) {
        (Some(name), _) => Selection::Backup(name),
        (None, Some(id)) => Selection::Lineage(id),
        (None, None) => Selection::Latest,
    };
    let request = PresignRequest {
        selection,
        lifetime: args.expires,
        max_url_chars: args.max_url_length,
        plaintext: if args.allow_plaintext { Plaintext::Allowed } else { Plaintext::Refused },
        limits: ReadLimits::default(),
        upload: CopyLimits::default(),
    };
    let plan = context.unless_stopped(plan_presign(&archive, request, context)).await?;
    let summary = run_presign(&archive, plan, context).await?;
    for line in notes(&summary, &archive_flags) {
        context.note(line);
    }
    // The URL and nothing else, so that `curl "$(etcdbr presign ...)"` works.
    output::result(format, summary.url.url.expose(), &document(&summary));
    Ok(())
}

async fn delete(archive: &Archive, older_than: Duration, format: OutputFormat, context: &RunContext) -> Result<()> {
    let plan = plan_sweep(archive, SweepRequest { older_than }, context).await?;
    let removal = run_sweep(archive, &plan, context).await?;
    if removal == Removal::Hidden {
        context.warn(
            "the bucket keeps versions: what was deleted is hidden, and as plain as before until they are removed",
        );
    }
    output::result(format, &sweep_text(&plan), &sweep_document(&plan, removal));
    Ok(())
}

/// What the operator should know beside the URL.
fn notes(summary: &PresignSummary, archive_flags: &str) -> Vec<String> {
    let (url, end) = (&summary.url, summary.url.end());
    let size = human_bytes(summary.snapshot_bytes);
    let mut notes =
        vec![format!("{size} of {} can be fetched until {end} by whoever has the URL", summary.backup.name)];
    match url.session {
        SessionEnd::At(session) if session < url.signature_end => notes.push(format!(
            "that is when the credentials end that signed it; their signature would have lasted until {}",
            url.signature_end
        )),
        SessionEnd::Unknown => {
            notes.push("it may end sooner: temporary credentials signed it, and do not say when they end".to_owned());
        }
        SessionEnd::At(_) | SessionEnd::Lasting => {}
    }
    notes.push(format!(
        "the copy stays at {} in the clear, also when the URL has ended: `etcdbr presign --delete {archive_flags}` removes it",
        summary.key
    ));
    if let Some(earlier) = summary.earlier.as_ref().filter(|earlier| !earlier.copies.is_empty()) {
        let bytes = earlier.copies.iter().map(|copy| copy.bytes).sum();
        let oldest = earlier.copies.first().map(|copy| copy.name.created.to_string()).unwrap_or_default();
        let count = earlier.copies.len();
        notes.push(format!(
            "{count} copies of earlier calls are there still, {}, the oldest of {oldest}",
            human_bytes(bytes)
        ));
    }
    notes
}

fn document(summary: &PresignSummary) -> Value {
    let url = &summary.url;
    let session_end = match url.session {
        SessionEnd::At(end) => Value::from(end.to_string()),
        SessionEnd::Lasting | SessionEnd::Unknown => Value::Null,
    };
    let copies = |found: &PlainCopies| json!({"copies": found.copies.len(), "bytes": found.copies.iter().map(|copy| copy.bytes).sum::<u64>()});
    json!({
        "url": url.url.expose(),
        "url_characters": url.url.expose().chars().count(),
        "expires": url.end().to_string(),
        "signature_expires": url.signature_end.to_string(),
        "temporary_credentials": url.session != SessionEnd::Lasting,
        "session_expires": session_end,
        "backup": summary.backup.name.to_string(),
        "key": summary.key,
        "snapshot_bytes": summary.snapshot_bytes,
        "earlier": summary.earlier.as_ref().map(copies),
    })
}

fn sweep_text(plan: &SweepPlan) -> String {
    let bytes = plan.delete.iter().map(|copy| copy.bytes).sum();
    let mut out = format!("deleted {} plain copies, {}\n", plan.delete.len(), human_bytes(bytes));
    for copy in &plan.delete {
        out += &format!("  {:24}  {:>9}  {}\n", copy.name.created.to_string(), human_bytes(copy.bytes), copy.key);
    }
    if !plan.abort.is_empty() {
        out += &format!("aborted {} uploads that were never finished\n", plan.abort.len());
        for unfinished in &plan.abort {
            out += &format!("  {:24}  {}\n", unfinished.name.created.to_string(), unfinished.key);
        }
    }
    if plan.kept > 0 {
        out += &format!("kept {} that are too young\n", plan.kept);
    }
    if plan.foreign > 0 {
        out += &format!("({} other objects and uploads lie there and are not of etcdbr)\n", plan.foreign);
    }
    out
}

fn sweep_document(plan: &SweepPlan, removal: Removal) -> Value {
    let deleted: Vec<Value> = plan.delete.iter().map(|copy| json!({"key": copy.key, "bytes": copy.bytes})).collect();
    let aborted: Vec<Value> = plan.abort.iter().map(|unfinished| json!({"key": unfinished.key})).collect();
    json!({"deleted": deleted, "aborted_uploads": aborted, "kept": plan.kept, "foreign": plan.foreign, "hidden": removal == Removal::Hidden})
}
