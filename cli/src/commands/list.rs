//! `etcdbr list`: what the archive holds.

use clap::Args;
use clap::builder::BoolishValueParser;
use etcdbr_engine::Result;
use etcdbr_engine::archive::{
    Archive, BackupEntry, BackupReader, Catalogue, Lineage, OpenedHeader, Window, gaps, windows,
};
use etcdbr_engine::format::{NameKind, Protection};
use etcdbr_engine::run::RunContext;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::args::{KeyArgs, OutputFormat, StoreArgs};
use crate::output::{self, human_bytes};
use crate::proof;

/// Backups whose details are read at once.
const PARALLEL_DETAILS: usize = 8;

/// Flags of `etcdbr list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Read each backup's header and, with its key, its footer: encryption, labels, image size, etcd version
    #[arg(long, env = "ETCDBR_DETAILS", value_parser = BoolishValueParser::new())]
    details: bool,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// What `--details` adds to an entry.
struct Details {
    header: Result<OpenedHeader>,
    /// `None`: the key of this backup was not given.
    reader: Option<Result<BackupReader>>,
}

/// Lists the archive.
///
/// # Errors
/// Those of the store; a single backup that cannot be read is shown as such.
pub(crate) async fn run(args: ListArgs, format: OutputFormat, context: &RunContext) -> Result<()> {
    let archive = args.store.archive(args.keys.keyring(context)?).await?;
    let catalogue = context.unless_stopped(archive.catalogue()).await?;
    let entries: Vec<BackupEntry> =
        by_cluster(&catalogue).into_iter().flat_map(|lineage| lineage.backups.clone()).collect();
    let details = if args.details {
        let read = futures::stream::iter(&entries).map(|entry| details(&archive, entry)).buffered(PARALLEL_DETAILS);
        context.unless_stopped(async { Ok(read.collect().await) }).await?
    } else {
        Vec::new()
    };
    // One header says it of the whole archive: encrypted backups and others do not join.
    let newest = match (details.is_empty(), catalogue.newest_first().first()) {
        (true, Some(newest)) => {
            let read = async { Ok(archive.read_header(&newest.name).await.ok()) };
            context.unless_stopped(read).await?.map(|opened| opened.header.protection)
        }
        _ => None,
    };
    let listing = Listing { archive: &archive, catalogue: &catalogue, details: &details, newest };
    output::result(format, &listing.text(), &listing.document());
    Ok(())
}

/// All that is shown.
struct Listing<'a> {
    archive: &'a Archive,
    catalogue: &'a Catalogue,
    /// Of every backup, in the order in which they are shown; or none.
    details: &'a [Details],
    /// How the newest backup is protected, where there are no details.
    newest: Option<Protection>,
}

/// Whether backups are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Encrypted,
    Plain,
    Mixed,
    Unknown,
}

impl Encryption {
    fn of(protections: impl IntoIterator<Item = Option<Protection>>) -> Self {
        let mut all = protections.into_iter().map(|protection| match protection {
            Some(Protection::Aes256Gcm { .. }) => Self::Encrypted,
            Some(Protection::Checksum) => Self::Plain,
            None => Self::Unknown,
        });
        let first = all.next().unwrap_or(Self::Unknown);
        all.fold(first, |found, next| if found == next { found } else { Self::Mixed })
    }

    fn text(self) -> &'static str {
        match self {
            Self::Encrypted => "encrypted",
            Self::Plain => "NOT ENCRYPTED",
            Self::Mixed => "encrypted IN PART ONLY",
            Self::Unknown => "not known whether encrypted",
        }
    }

    /// `true`, `false`, or `null`.
    fn document(self) -> Value {
        match self {
            Self::Encrypted => json!(true),
            Self::Plain | Self::Mixed => json!(false),
            Self::Unknown => Value::Null,
        }
    }
}

/// Objects by kind, and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    fulls: usize,
    deltas: usize,
    marks: usize,
    stored_bytes: u64,
}

impl Totals {
    fn of<'a>(backups: impl IntoIterator<Item = &'a BackupEntry>) -> Self {
        let mut totals = Self::default();
        for entry in backups {
            totals.stored_bytes += entry.stored_bytes;
            match kind_and_revision(entry).0 {
                "full" => totals.fulls += 1,
                "delta" => totals.deltas += 1,
                _ => totals.marks += 1,
            }
        }
        totals
    }

    fn text(&self) -> String {
        let Self { fulls, deltas, marks, stored_bytes } = self;
        format!("{fulls} fulls, {deltas} deltas, {marks} marks, {}", human_bytes(*stored_bytes))
    }

    fn document(&self) -> Value {
        json!({"fulls": self.fulls, "deltas": self.deltas, "marks": self.marks, "stored_bytes": self.stored_bytes})
    }
}

async fn details(archive: &Archive, entry: &BackupEntry) -> Details {
    let header = archive.read_header(&entry.name).await;
    let readable = match header.as_ref().map(|opened| opened.header.protection) {
        Ok(Protection::Checksum) => archive.keyring().is_empty(),
        Ok(Protection::Aes256Gcm { key_id, .. }) => archive.keyring().ids().contains(&key_id),
        Err(_) => false,
    };
    let reader = if readable { Some(archive.open(&entry.name).await) } else { None };
    Details { header, reader }
}

impl Listing<'_> {
    fn text(&self) -> String {
        let mut out = String::new();
        if self.catalogue.lineages.is_empty() {
            out += &format!("no backups in {}\n", self.archive.describe());
        }
        let mut details = self.details.iter();
        let mut cluster = None;
        for lineage in by_cluster(self.catalogue) {
            if cluster != Some(lineage.id.cluster) {
                cluster = Some(lineage.id.cluster);
                out += &format!("cluster {}\n", lineage.id.cluster);
                out += &format!("  {:5}  {:>12}  {:24}  {:>9}  BACKUP\n", "KIND", "REVISION", "CREATED", "SIZE");
            }
            let of_lineage = details.as_slice();
            for entry in &lineage.backups {
                let (kind, revision) = kind_and_revision(entry);
                let (created, size) = (entry.name.created.to_string(), human_bytes(entry.stored_bytes));
                out += &format!("  {kind:5}  {revision:>12}  {created:24}  {size:>9}  {}\n", entry.name);
                if let Some(details) = details.next() {
                    out += &format!("         {}\n", details_text(details));
                }
            }
            out += &lineage_text(lineage, &of_lineage[..of_lineage.len().min(lineage.backups.len())]);
        }
        if !self.catalogue.lineages.is_empty() {
            let totals = Totals::of(self.catalogue.newest_first());
            out += &format!("in all: {}, {}\n", totals.text(), self.encryption().text());
        }
        if self.catalogue.foreign_keys > 0 {
            let foreign = self.catalogue.foreign_keys;
            out += &format!("({foreign} other objects under this prefix are not backups of etcdbr)\n");
        }
        out
    }

    fn encryption(&self) -> Encryption {
        if self.details.is_empty() { Encryption::of([self.newest]) } else { Encryption::of(protections(self.details)) }
    }
}

fn protections(details: &[Details]) -> impl Iterator<Item = Option<Protection>> {
    details.iter().map(|details| details.header.as_ref().ok().map(|opened| opened.header.protection))
}

/// What a lineage holds, and which moments of it can be restored.
fn lineage_text(lineage: &Lineage, details: &[Details]) -> String {
    let mut out = format!("  lineage {}: {}", lineage.id, Totals::of(&lineage.backups).text());
    if !details.is_empty() {
        out += &format!(", {}", Encryption::of(protections(details)).text());
    }
    out.push('\n');
    let windows = windows(lineage);
    if windows.is_empty() {
        out += "    NOTHING OF IT CAN BE RESTORED: it has no full\n";
    }
    for Window { first, last, from, until } in windows {
        out += &format!("    restores revisions {first} to {last}, of {from} to {until}\n");
    }
    for gap in gaps(lineage) {
        out += &format!("    MISSING revisions {} to {}\n", gap.first, gap.last);
    }
    out
}

/// The order in which lineages are shown: those of one cluster together, the cluster that was written last at the end.
fn by_cluster(catalogue: &Catalogue) -> Vec<&Lineage> {
    let last_written = |cluster| {
        catalogue.lineages.values().filter(|lineage| lineage.id.cluster == cluster).map(Lineage::last_written).max()
    };
    let mut lineages: Vec<_> = catalogue.lineages.values().collect();
    lineages.sort_by_cached_key(|lineage| (last_written(lineage.id.cluster), lineage.id.cluster, lineage.id));
    lineages
}

fn kind_and_revision(entry: &BackupEntry) -> (&'static str, String) {
    match entry.name.kind {
        NameKind::Full { seam } => ("full", seam.to_string()),
        // It has no records: it tells when the source still stood at a revision.
        NameKind::Delta { last, first } if first > last => ("mark", last.to_string()),
        NameKind::Delta { last, first } => ("delta", format!("{first}-{last}")),
    }
}

fn encryption(details: &Details) -> String {
    match details.header.as_ref().map(|opened| opened.header.protection) {
        Ok(Protection::Checksum) => "not encrypted".to_owned(),
        Ok(Protection::Aes256Gcm { key_id, .. }) => format!("key {key_id}"),
        Err(error) => format!("UNREADABLE: {error}"),
    }
}

fn details_text(details: &Details) -> String {
    let encryption = encryption(details);
    match &details.reader {
        None => encryption,
        Some(Err(error)) => format!("UNREADABLE: {error}"),
        Some(Ok(reader)) => {
            let (footer, facts) = (reader.footer(), &reader.footer().facts);
            let labels: String = facts.labels.iter().map(|(key, value)| format!(", {key}={value}")).collect();
            let hash_kv = facts.hash_kv.iter().map(|answer| format!(", {}", proof::answer_text(answer)));
            format!(
                "{encryption}, image {}, etcd {}{}{labels}",
                human_bytes(footer.plain_bytes),
                facts.source.etcd_version,
                hash_kv.collect::<String>()
            )
        }
    }
}

impl Listing<'_> {
    fn document(&self) -> Value {
        let mut details = self.details;
        let lineages: Vec<Value> = by_cluster(self.catalogue)
            .into_iter()
            .map(|lineage| {
                let (own, others) = details.split_at(lineage.backups.len().min(details.len()));
                details = others;
                lineage_document(lineage, own)
            })
            .collect();
        json!({
            "lineages": lineages, "foreign_objects": self.catalogue.foreign_keys,
            "totals": Totals::of(self.catalogue.newest_first()).document(), "encrypted": self.encryption().document(),
        })
    }
}

fn lineage_document(lineage: &Lineage, details: &[Details]) -> Value {
    let mut of_entry = details.iter();
    let backups: Vec<Value> = lineage.backups.iter().map(|entry| entry_document(entry, of_entry.next())).collect();
    let windows = windows(lineage).into_iter().map(|Window { first, last, from, until }| {
        json!({
            "first_revision": first.0, "last_revision": last.0, "from": from.to_string(), "until": until.to_string(),
        })
    });
    let missing = gaps(lineage).into_iter().map(|gap| json!({"first": gap.first.0, "last": gap.last.0}));
    let mut document = json!({
        "lineage": lineage.id.to_string(), "cluster_id": lineage.id.cluster.to_string(),
        "born": lineage.id.birth.to_string(), "last_written": lineage.last_written().to_string(), "backups": backups,
        "restores": windows.collect::<Vec<_>>(), "missing": missing.collect::<Vec<_>>(),
        "totals": Totals::of(&lineage.backups).document(),
    });
    if let (false, Some(fields)) = (details.is_empty(), document.as_object_mut()) {
        fields.insert("encrypted".to_owned(), Encryption::of(protections(details)).document());
    }
    document
}

fn entry_document(entry: &BackupEntry, details: Option<&Details>) -> Value {
    let (first, last) = match entry.name.kind {
        NameKind::Full { seam } => (seam, seam),
        NameKind::Delta { last, first } => (first, last),
    };
    let mut document = json!({
        "backup": entry.name.to_string(), "kind": kind_and_revision(entry).0, "first_revision": first.0, "revision": last.0,
        "created": entry.name.created.to_string(), "stored_bytes": entry.stored_bytes, "modified": entry.modified.to_string(),
    });
    if let (Some(details), Some(fields)) = (details, document.as_object_mut()) {
        fields.insert("details".to_owned(), details_document(details));
    }
    document
}

fn details_document(details: &Details) -> Value {
    let opened = match &details.header {
        Ok(opened) => opened,
        Err(error) => return json!({"error": error.to_string()}),
    };
    let key_id = match opened.header.protection {
        Protection::Checksum => None,
        Protection::Aes256Gcm { key_id, .. } => Some(key_id.to_string()),
    };
    let mut document = json!({"encrypted": key_id.is_some(), "key_id": key_id});
    let Some(fields) = document.as_object_mut() else { return document };
    match &details.reader {
        None => {}
        Some(Err(error)) => {
            fields.insert("error".to_owned(), json!(error.to_string()));
        }
        Some(Ok(reader)) => {
            let facts = &reader.footer().facts;
            fields.insert("image_bytes".to_owned(), json!(reader.footer().plain_bytes));
            fields.insert("labels".to_owned(), json!(facts.labels));
            fields.insert("etcd_version".to_owned(), json!(facts.source.etcd_version));
            fields.insert("endpoint".to_owned(), json!(facts.source.endpoint));
            let answers: Vec<Value> = facts.hash_kv.iter().map(proof::answer_document).collect();
            fields.insert("hashkv".to_owned(), json!(answers));
            fields.insert("tool_version".to_owned(), json!(facts.tool_version));
        }
    }
    document
}
