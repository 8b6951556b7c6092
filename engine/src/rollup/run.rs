//! Makes rollups: reads narrow deltas back, and writes one delta of the same records.
//!
//! # Why nothing is lost and nothing is made up
//! Every frame that is read authenticates itself. The records are written as they were read, and folded into history digests on the
//! way: at both ends of every part the digest must be the one that the part's own footer gives, or nothing is written.
//! The rollup becomes visible by one act after that. A crash before it leaves parts of an upload; a crash after it, or two
//! writers at once, a redundant object. No object is removed here.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::facts::fold;
use super::plan::{RollupPlan, RollupPolicy, Span, plan};
use crate::archive::{Archive, BackupEntry, BackupReader, DeltaWriter, ReadLimits, WriteLimits, WrittenBackup};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    BackupName, DEFAULT_CHUNK_BYTES, FooterFacts, HistoryDigest, NameKind, ObjectNonce, RecordsDecoder,
};
use crate::pipeline::CompressionLevel;
use crate::revision::Revision;
use crate::run::RunContext;

/// Objects that are opened at once.
const OPENED_AT_ONCE: usize = 8;
/// Stored bytes of small objects that are kept between the look at their footers and the reading of their records.
const HELD_BYTES: u64 = 16 << 20;
/// One GET and one chunk at a time, beside etcd.
const READS: ReadLimits = ReadLimits { read_bytes: 4 << 20, parallel_reads: 1, threads: 1 };
/// The smallest parts that S3 takes, few at once.
const PARTS: (usize, usize) = (5 << 20, 2);

/// How rollups are made.
#[derive(Debug, Clone)]
pub struct RollupOptions {
    /// When.
    pub policy: RollupPolicy,
    /// Compression.
    pub level: CompressionLevel,
    /// Of etcdbr; stored with each rollup.
    pub tool_version: String,
}

/// A rollup that was not made; what it would have been made of is untouched.
#[derive(Debug)]
pub struct SkippedRollup {
    /// What it would have been.
    pub span: Span,
    /// Why not.
    pub why: Error,
}

/// What a call has done.
#[derive(Debug, Default)]
pub struct RolledUp {
    /// Written, each with the number of its parts.
    pub written: Vec<(WrittenBackup, usize)>,
    /// Not written.
    pub skipped: Vec<SkippedRollup>,
}

/// Lists the archive and plans: one LIST for each 1,000 objects.
///
/// # Errors
/// Those of the store.
pub async fn list_and_plan(archive: &Archive, options: &RollupOptions, context: &RunContext) -> Result<RollupPlan> {
    let catalogue = context.unless_stopped(archive.catalogue()).await?;
    Ok(plan(&catalogue, &options.policy, context.clock.now()))
}

/// Rolls up what is due.
///
/// # Errors
/// Those of the store; `Interrupted`. What was written stays, and is good.
pub async fn roll_up(archive: &Archive, options: &RollupOptions, context: &RunContext) -> Result<RolledUp> {
    let plan = list_and_plan(archive, options, context).await?;
    run_plan(archive, &plan, options, context).await
}

/// Runs a plan. A span whose objects have gone meanwhile, are damaged, or are of two histories is skipped.
///
/// # Errors
/// As [`roll_up`].
pub async fn run_plan(
    archive: &Archive,
    plan: &RollupPlan,
    options: &RollupOptions,
    context: &RunContext,
) -> Result<RolledUp> {
    let mut done = RolledUp::default();
    for span in &plan.spans {
        context.check_stop()?;
        match roll_span(archive, span, options, context).await {
            Ok(Some(written)) => done.written.push(written),
            Ok(None) => {}
            Err(why) if is_of_the_span(&why) => {
                // Another writer may have rolled it up, and retention removed it.
                if why.kind() != ErrorKind::NotFound {
                    context.warn(format!("a rollup is left out: {why}"));
                }
                done.skipped.push(SkippedRollup { span: span.clone(), why });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn is_of_the_span(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged | ErrorKind::Refused)
}

/// A part whose footer has been read.
struct Part {
    entry: BackupEntry,
    facts: FooterFacts,
    chunk_bytes: u32,
    /// Where it is small, and there was room for it.
    held: Option<BackupReader>,
}

async fn roll_span(
    archive: &Archive,
    span: &Span,
    options: &RollupOptions,
    context: &RunContext,
) -> Result<Option<(WrittenBackup, usize)>> {
    let mut chain = open_all(archive, &span.chain, context).await?;
    let rolled: Vec<BackupName> = chain
        .iter()
        .filter_map(|part| part.facts.capture.rollup.as_ref())
        .flat_map(|rollup| rollup.parts.iter().map(|part| part.name(span.lineage)))
        .collect();
    // What a part was made of tells nothing that the part does not.
    let beside: Vec<_> = span.beside.iter().filter(|entry| !rolled.contains(&entry.name)).cloned().collect();
    let beside = open_all(archive, &beside, context).await?;
    if chain.len() + beside.len() < 2 {
        return Ok(None);
    }
    let newest = chain.iter().chain(&beside).map(|part| part.entry.name.created).max().unwrap_or_default();
    let (first, last) = span.revisions;
    let kind = NameKind::Delta { first, last };
    let name = BackupName { lineage: span.lineage, kind, created: newest, nonce: ObjectNonce::random()? };
    let before = chain.first().or(beside.first()).map(|part| part.facts.history.0);
    let before = before.ok_or_else(|| Error::new(ErrorKind::Internal, "a rollup of nothing"))?;
    let chunk_bytes = chain.iter().map(|part| part.chunk_bytes).max().unwrap_or(0).max(DEFAULT_CHUNK_BYTES);
    let limits =
        WriteLimits { chunk_bytes, part_bytes: PARTS.0, parallel_parts: PARTS.1, threads: 1, level: options.level };
    let mut writer = archive.delta_writer(name, before, limits)?;
    let mut line = Line::of(chain.iter().chain(&beside), (first, before));
    let copied = context.unless_stopped(copy(archive, &mut chain, &mut writer, &mut line)).await;
    let parts = copied.and_then(|()| line.meet(&chain, &beside, context));
    let parts = match parts {
        Ok(parts) if parts.len() > 1 => parts,
        Ok(_) => return give_up(writer).await.map(|()| None),
        Err(error) => return Err(writer.abort_after(error).await),
    };
    let facts = fold(&parts, &name, &options.tool_version);
    let facts = facts.ok_or_else(|| Error::new(ErrorKind::Internal, "a rollup of nothing"))?;
    let written = writer.finish(facts).await?;
    Ok(Some((written, parts.len())))
}

/// Takes back what was begun, because nothing is gained by it.
async fn give_up(writer: DeltaWriter) -> Result<()> {
    writer.abort().await
}

async fn open_all(archive: &Archive, entries: &[BackupEntry], context: &RunContext) -> Result<Vec<Part>> {
    let opening = stream::iter(entries).map(|entry| async move {
        let reader = archive.open_listed(entry).await?;
        Ok::<_, Error>((entry, reader))
    });
    let mut opened = opening.buffered(OPENED_AT_ONCE).boxed();
    let mut parts = Vec::with_capacity(entries.len());
    let mut held_bytes = 0;
    while let Some((entry, reader)) = context.unless_stopped(opened.try_next()).await? {
        held_bytes += entry.stored_bytes;
        let (facts, chunk_bytes) = (reader.footer().facts.clone(), reader.header().chunk_bytes);
        let held = (held_bytes <= HELD_BYTES).then_some(reader);
        parts.push(Part { entry: entry.clone(), facts, chunk_bytes, held });
    }
    Ok(parts)
}

/// Writes the records of `chain`, each revision once.
async fn copy(archive: &Archive, chain: &mut [Part], writer: &mut DeltaWriter, line: &mut Line) -> Result<()> {
    for part in chain {
        let reader = match part.held.take() {
            Some(reader) => reader,
            None => archive.open_listed(&part.entry).await?,
        };
        let handed = line.reached;
        let mut chunks = std::pin::pin!(reader.chunks(READS));
        while let Some((chunk, _)) = chunks.try_next().await? {
            for record in RecordsDecoder::new(&chunk) {
                let record = record.map_err(|error| error.about(part.entry.name))?;
                if record.main > handed {
                    writer.push(&record).await.map_err(|error| error.about(part.entry.name))?;
                    line.note(writer.closed());
                }
            }
        }
        writer.close();
        line.note(writer.closed());
        if line.reached < part.facts.revisions.1 {
            let what = format!("{} ends at revision {}", part.entry.name, line.reached);
            return Err(Error::new(ErrorKind::Damaged, what));
        }
    }
    Ok(())
}

/// The history that is written, at the ends of the parts.
struct Line {
    reached: Revision,
    at_ends: BTreeMap<Revision, Option<HistoryDigest>>,
}

impl Line {
    fn of<'p>(parts: impl Iterator<Item = &'p Part>, (first, before): (Revision, HistoryDigest)) -> Self {
        let ends = parts.flat_map(|part| [Revision(part.facts.revisions.0.0 - 1), part.facts.revisions.1]);
        let mut at_ends: BTreeMap<_, _> = ends.map(|revision| (revision, None)).collect();
        let reached = Revision(first.0 - 1);
        at_ends.insert(reached, Some(before));
        Self { reached, at_ends }
    }

    fn note(&mut self, (revision, digest): (Revision, HistoryDigest)) {
        if revision > self.reached {
            self.reached = revision;
            if let Some(end) = self.at_ends.get_mut(&revision) {
                *end = Some(digest);
            }
        }
    }

    fn agrees(&self, facts: &FooterFacts) -> bool {
        let at = |revision| self.at_ends.get(&revision).copied().flatten();
        let (first, last) = facts.revisions;
        at(Revision(first.0 - 1)) == Some(facts.history.0) && at(last) == Some(facts.history.1)
    }

    /// The parts that are of this history. Those whose records were written must be; of the others, one that is not stays
    /// by itself.
    fn meet(&self, chain: &[Part], beside: &[Part], context: &RunContext) -> Result<Vec<(BackupName, FooterFacts)>> {
        let mut parts = Vec::with_capacity(chain.len() + beside.len());
        for part in chain {
            if !self.agrees(&part.facts) {
                let what = format!("{} has another history than the deltas that it meets", part.entry.name);
                return Err(Error::new(ErrorKind::Refused, what).hint("two histories were written under one lineage"));
            }
            parts.push((part.entry.name, part.facts.clone()));
        }
        for part in beside {
            if self.agrees(&part.facts) {
                parts.push((part.entry.name, part.facts.clone()));
            } else {
                context.warn(format!(
                    "{} has another history than those around it, and is not rolled up",
                    part.entry.name
                ));
            }
        }
        Ok(parts)
    }
}
