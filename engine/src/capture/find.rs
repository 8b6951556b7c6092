//! Where an earlier run left off: the newest lineage of a cluster, and the trail that its objects leave.

use futures::{StreamExt, TryStreamExt, stream};

use super::line::{FullsOfLine, Line};
use super::trail::{Anchor, Reach, Trail};
use crate::archive::{Archive, BackupEntry, Catalogue, ChainTarget, Lineage, OnGap, chain_to};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::Standing;
use crate::format::{FooterFacts, LineageId};
use crate::revision::{ClusterId, Revision};

/// Deltas whose footers are read for a trail: each has at least one revision, and no more than 256 are wanted.
const DELTAS_READ_MAX: usize = 256;
const READS_AT_ONCE: usize = 8;

/// The lineage of `cluster` that was written last, of those that are `wanted`; `None` where there is none. Its position is
/// the end of the contiguous run from its newest full.
///
/// # Errors
/// Those of the store; `Key` and `Damaged` where its objects cannot be read.
pub async fn newest_line(
    archive: &Archive,
    catalogue: &Catalogue,
    cluster: ClusterId,
    wanted: impl Fn(&LineageId) -> bool,
) -> Result<Option<Line>> {
    let of_cluster = |lineage: &&Lineage| lineage.id.cluster == cluster && wanted(&lineage.id);
    let candidates = catalogue.lineages.values().filter(of_cluster).filter(|lineage| lineage.latest_full().is_some());
    match candidates.max_by_key(|lineage| (lineage.last_written(), lineage.id)) {
        Some(lineage) => read_line(archive, lineage).await.map(Some),
        None => Ok(None),
    }
}

async fn read_line(archive: &Archive, lineage: &Lineage) -> Result<Line> {
    let chain = chain_to(lineage, ChainTarget::Newest, OnGap::StopBefore)?;
    let full = facts(archive, &chain.full).await?;
    let tail = &chain.deltas[chain.deltas.len().saturating_sub(DELTAS_READ_MAX)..];
    let deltas: Vec<FooterFacts> =
        stream::iter(tail).map(|entry| facts(archive, entry)).buffered(READS_AT_ONCE).try_collect().await?;
    let newest_mark = match chain.marks.last() {
        Some(entry) => Some(facts(archive, entry).await?),
        None => None,
    };
    let seam =
        full.seam.clone().ok_or_else(|| Error::new(ErrorKind::Damaged, "it has no seam").about(chain.full.name))?;
    let known: Vec<&FooterFacts> = [&full].into_iter().chain(&deltas).chain(&newest_mark).collect();
    let standing = Standing {
        cluster: lineage.id.cluster,
        revision: chain.reaches,
        raft_term: known.iter().map(|facts| facts.source.raft_term).max().unwrap_or(0),
        raft_index: known.iter().map(|facts| facts.source.raft_index).max().unwrap_or(0),
    };
    let anchors = deltas.iter().flat_map(|facts| {
        let (first, last) = facts.revisions;
        [
            Anchor { revision: Revision(first.0 - 1), digest: facts.history.0 },
            Anchor { revision: last, digest: facts.history.1 },
        ]
    });
    let reach = if tail.len() == chain.deltas.len() { Reach::Seam } else { Reach::Tail };
    let trail = Trail::read(lineage.id, (seam, full.history.1), standing, anchors, reach);
    let marked = known.iter().flat_map(|facts| &facts.capture.time_marks).map(|mark| mark.time).max();
    let marked = marked.unwrap_or(UnixMillis(0)).max(lineage.last_written());
    let fulls = FullsOfLine {
        newest: chain.full.name.created,
        delta_bytes: chain.deltas.iter().map(|entry| entry.stored_bytes).sum(),
        auth_state: full.capture.auth_state,
    };
    Ok(Line::of(trail, marked, fulls))
}

async fn facts(archive: &Archive, entry: &BackupEntry) -> Result<FooterFacts> {
    Ok(archive.open(&entry.name).await?.footer().facts.clone())
}
