//! Which backups will be verified.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::archive::{
    Archive, BackupEntry, Catalogue, Chain, ChainTarget, Lineage, OnGap, ReadLimits, Selection, chain_from, chain_to,
    select, select_lineage,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::NameKind;

/// Which backups.
#[derive(Debug, Clone)]
pub enum Scope {
    /// What a restore of the newest moment of this selection would read.
    One(Selection),
    /// Every one of every lineage.
    All,
}

/// What a backup that is not sound means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    Stop,
    GoOn,
}

/// What the operator wants.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// Which backups.
    pub scope: Scope,
    /// Where the image may lie, in the clear and without a name, while it is looked at.
    pub scratch_dir: PathBuf,
    /// Bounds.
    pub limits: ReadLimits,
}

/// What will be verified.
#[derive(Debug, Clone)]
pub struct VerifyPlan {
    /// What is verified together, the lineage that was written last at the end.
    pub lineages: Vec<LineagePlan>,
    pub(super) on_failure: OnFailure,
    pub(super) scratch_dir: PathBuf,
    pub(super) limits: ReadLimits,
}

/// What will be verified of one lineage.
#[derive(Debug, Clone)]
pub struct LineagePlan {
    /// Each full with the deltas that lead to the next one, in order of revisions.
    pub chains: Vec<Chain>,
    /// Objects that none of these has: others have their records, they lead nowhere, or they have none.
    pub besides: Vec<BackupEntry>,
}

impl LineagePlan {
    fn objects(&self) -> usize {
        self.chains.iter().map(|chain| 1 + chain.deltas.len()).sum::<usize>() + self.besides.len()
    }
}

impl VerifyPlan {
    /// The objects that will be read.
    pub fn objects(&self) -> usize {
        self.lineages.iter().map(LineagePlan::objects).sum()
    }
}

/// Plans to verify: one LIST for each 1,000 objects.
///
/// # Errors
/// Those of listing and selecting; `NotFound` where there is no full; `Refused` where revisions are missing before the
/// newest moment of one history.
pub async fn plan_verify(archive: &Archive, request: VerifyRequest) -> Result<VerifyPlan> {
    let catalogue = archive.catalogue().await?;
    let VerifyRequest { scope, scratch_dir, limits } = request;
    let (lineages, on_failure) = match &scope {
        Scope::One(selection) => (vec![newest(&catalogue, selection)?], OnFailure::Stop),
        Scope::All => {
            let mut lineages: Vec<_> = catalogue.lineages.values().collect();
            lineages.sort_unstable_by_key(|lineage| (lineage.last_written(), lineage.id));
            (lineages.into_iter().map(whole).collect(), OnFailure::GoOn)
        }
    };
    if lineages.iter().all(|lineage| lineage.chains.is_empty()) {
        return Err(Error::new(ErrorKind::NotFound, "the archive holds no full backup")
            .hint("check --store-container and --store-prefix; `etcdbr list` shows what is there"));
    }
    Ok(VerifyPlan { lineages, on_failure, scratch_dir, limits })
}

/// What a restore of the newest moment would read.
fn newest(catalogue: &Catalogue, selection: &Selection) -> Result<LineagePlan> {
    let mut chain = match selection {
        Selection::Backup(_) => {
            let full = select(catalogue, selection)?;
            let alone = Lineage { id: full.name.lineage, backups: vec![full.clone()] };
            chain_from(&alone, full, None)
        }
        Selection::Latest | Selection::Lineage(_) => {
            chain_to(select_lineage(catalogue, selection)?, ChainTarget::Newest, OnGap::Refuse)?
        }
    };
    // Marks that are older than the full tell of nothing that it does not have.
    let mut besides = std::mem::take(&mut chain.marks);
    besides.retain(|mark| mark.name.created > chain.full.name.created);
    Ok(LineagePlan { chains: vec![chain], besides })
}

/// All of a lineage.
fn whole(lineage: &Lineage) -> LineagePlan {
    let chains = chains_of(lineage);
    // Of a delta that leads beyond the seam of the next full only a part is read with the chain before it.
    let whole = |chain: &Chain, delta: &BackupEntry| match delta.name.kind {
        NameKind::Delta { last, .. } => last <= chain.reaches,
        NameKind::Full { .. } => true,
    };
    let of_chain = |chain: &Chain| {
        let read = chain.deltas.iter().filter(|delta| whole(chain, delta)).map(|delta| delta.name);
        read.collect::<Vec<_>>()
    };
    let read: BTreeSet<_> = chains.iter().flat_map(of_chain).collect();
    let is_beside =
        |entry: &&BackupEntry| matches!(entry.name.kind, NameKind::Delta { .. }) && !read.contains(&entry.name);
    let besides = lineage.backups.iter().filter(is_beside).cloned().collect();
    LineagePlan { chains, besides }
}

/// Each full with the deltas that lead to the next one.
fn chains_of(lineage: &Lineage) -> Vec<Chain> {
    let seam = |kind: NameKind| if let NameKind::Full { seam } = kind { Some(seam) } else { None };
    let mut fulls: Vec<_> = lineage.backups.iter().filter_map(|entry| Some((seam(entry.name.kind)?, entry))).collect();
    fulls.sort_unstable_by_key(|(seam, entry)| (*seam, entry.name));
    let goals = fulls.iter().skip(1).map(|(seam, _)| Some(*seam)).chain([None]);
    let chain = |full, goal| {
        let found = chain_from(lineage, full, goal);
        // The seam of the next full is in its image, if it is nowhere else.
        let gap = found.gap.filter(|gap| Some(gap.first) != goal);
        Chain { marks: Vec::new(), gap, ..found }
    };
    fulls.iter().zip(goals).map(|((_, full), goal)| chain(full, goal)).collect()
}

/// `chain` as it can be put together from `catalogue`; `None` where its full is gone, or nothing is other than it was.
pub(super) fn again(catalogue: &Catalogue, chain: &Chain) -> Option<Chain> {
    let lineage = catalogue.lineages.get(&chain.full.name.lineage)?;
    let full = lineage.backups.iter().find(|entry| entry.name == chain.full.name)?;
    let goal = chain.gap.map_or(chain.reaches, |gap| gap.last.next());
    let found = Chain { marks: Vec::new(), ..chain_from(lineage, full, Some(goal)) };
    (found != *chain).then_some(found)
}
