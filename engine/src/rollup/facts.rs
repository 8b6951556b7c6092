//! What the footer of a rollup says: everything that those of its parts did, in order. Pure.

use crate::clock::UnixMillis;
use crate::format::{BackupName, CaptureFacts, FooterFacts, LeaseList, NameKind, RolledUp, Rollup, TimeMark, Told};

/// Folds the footers of `parts` into that of a rollup; those whose records make it up come first, in order. What follows
/// from the records (SHA-256, the last digest, those of chunks) is left to the writer. `None` without parts.
pub(super) fn fold(parts: &[(BackupName, FooterFacts)], name: &BackupName, tool_version: &str) -> Option<FooterFacts> {
    let NameKind::Delta { first, last } = name.kind else { return None };
    let (_, begin) = parts.iter().min_by_key(|(_, facts)| facts.revisions)?;
    let (_, end) = parts.iter().max_by_key(|(part, _)| (part.created, part.kind))?;
    let all = || parts.iter().map(|(_, facts)| facts);
    let mut source = end.source.clone();
    source.raft_term = all().map(|facts| facts.source.raft_term).max().unwrap_or(source.raft_term);
    source.raft_index = all().map(|facts| facts.source.raft_index).max().unwrap_or(source.raft_index);
    let mut hash_kv = Vec::new();
    for answer in all().flat_map(|facts| &facts.hash_kv) {
        if !hash_kv.contains(answer) {
            hash_kv.push(*answer);
        }
    }
    Some(FooterFacts {
        plain_sha256: [0; 32],
        revisions: (first, last),
        seam: None,
        hash_kv,
        source,
        history: (begin.history.0, begin.history.0),
        capture: capture(parts),
        labels: all().flat_map(|facts| facts.labels.clone()).collect(),
        tool_version: tool_version.to_owned(),
        started: all().map(|facts| facts.started).min().unwrap_or(UnixMillis(0)),
        finished: all().map(|facts| facts.finished).max().unwrap_or(UnixMillis(0)),
    })
}

fn capture(parts: &[(BackupName, FooterFacts)]) -> CaptureFacts {
    let captures = || parts.iter().map(|(_, facts)| &facts.capture);
    let part = |(name, facts): &(BackupName, FooterFacts)| RolledUp {
        revisions: facts.revisions,
        created: name.created,
        nonce: name.nonce,
        history: facts.history,
    };
    let told = told(parts);
    let (leases, lease_list) = at_end(&told);
    CaptureFacts {
        time_marks: marks(captures().flat_map(|capture| &capture.time_marks)),
        leases,
        lease_list,
        compact_revision: captures().filter_map(|capture| capture.compact_revision).max(),
        chunk_history: Vec::new(),
        auth_state: captures()
            .map(|capture| &capture.auth_state)
            .rfind(|state| !state.is_empty())
            .cloned()
            .unwrap_or_default(),
        hash_kv_asked: captures().filter_map(|capture| capture.hash_kv_asked).max_by_key(|asked| asked.at),
        rollup: Some(Rollup { parts: parts.iter().map(part).collect(), told }),
    }
}

/// All marks, each once, ascending in both members. Writers whose clocks disagree can contradict each other: then the mark
/// that comes first among `marks` holds, and the other is left out.
fn marks<'m>(marks: impl Iterator<Item = &'m TimeMark>) -> Vec<TimeMark> {
    let mut sorted: Vec<TimeMark> = Vec::new();
    for mark in marks {
        let place = sorted.partition_point(|other| other < mark);
        let (before, behind) = sorted.split_at(place);
        let follows = before.last().is_none_or(|last| last.revision <= mark.revision);
        let precedes = behind.first().is_none_or(|next| next != mark && mark.revision <= next.revision);
        if follows && precedes {
            sorted.insert(place, *mark);
        }
    }
    sorted
}

/// What all parts told, in order of time, but for what adds nothing to what comes before it.
fn told(parts: &[(BackupName, FooterFacts)]) -> Vec<Told> {
    let mut all: Vec<Told> = parts.iter().flat_map(|(name, facts)| facts.capture.told(name)).collect();
    all.sort_by_key(|told| told.mark);
    let mut kept: Vec<Told> = Vec::new();
    for told in all {
        let known = |earlier: &Told| {
            earlier.compact_revision >= told.compact_revision && earlier.mark.revision <= told.mark.revision
        };
        let silent = told.leases.is_empty() && told.lease_list == LeaseList::New;
        let adds_nothing = silent && (told.compact_revision.is_none() || kept.iter().rev().any(known));
        if !adds_nothing && !kept.contains(&told) {
            kept.push(told);
        }
    }
    kept
}

/// The leases as they are known at the end: the last whole list, and what came after it.
fn at_end(told: &[Told]) -> (Vec<crate::format::LeaseGrant>, LeaseList) {
    let whole = told.iter().rposition(|told| told.lease_list == LeaseList::Complete);
    let mut leases = std::collections::BTreeMap::new();
    for lease in told[whole.unwrap_or(0)..].iter().flat_map(|told| &told.leases) {
        leases.insert(lease.id, *lease);
    }
    (leases.into_values().collect(), if whole.is_some() { LeaseList::Complete } else { LeaseList::New })
}
