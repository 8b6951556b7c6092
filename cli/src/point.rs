//! A moment of a history, in words and as JSON: as it is planned, and as it was restored.

use etcdbr_engine::archive::{Chain, Gap, Selection};
use etcdbr_engine::clock::UnixMillis;
use etcdbr_engine::format::TimeMark;
use etcdbr_engine::replay::Goal;
use etcdbr_engine::restore::{PointPlan, Resolved, RestoredPoint, Target};
use serde_json::{Value, json};

use crate::output::human_bytes;
use crate::proof;

/// What is read, in a few words.
pub(crate) fn name(chain: &Chain) -> String {
    match chain.deltas.len() {
        0 => chain.full.name.to_string(),
        1 => format!("{} and 1 delta", chain.full.name),
        deltas => format!("{} and {deltas} deltas", chain.full.name),
    }
}

/// The lines of a plan, each with its indent and line break.
pub(crate) fn plan_text(plan: &PointPlan) -> String {
    let (facts, chain) = (&plan.reader().footer().facts, &plan.chain);
    let mut out = format!(
        "  taken     {} from {} (etcd {}), at revision {} or a little later\n  lineage   {}\n",
        facts.started, facts.source.endpoint, facts.source.etcd_version, facts.revisions.1, chain.full.name.lineage
    );
    let later = match plan.goal {
        Goal::AtLeast(_) if chain.deltas.is_empty() => " or a little later",
        _ => "",
    };
    out += &format!("  reaches   revision {}{later}{}\n", plan.goal.upto(), found(&plan.resolved));
    out += &missing(chain.gap);
    let objects = chain.objects().count();
    let plural = if objects == 1 { "" } else { "s" };
    out += &format!("  reads     {objects} object{plural}, {}\n", human_bytes(chain.stored_bytes()));
    if !chain.deltas.is_empty() {
        let records = human_bytes(plan.sizes.plain_bytes);
        out += &format!("  records   about {records} in {} deltas behind the full\n", chain.deltas.len());
    }
    let hash_kv = match facts.hash_kv.first() {
        Some(answer) => format!("{} as etcd answered it", proof::answer_text(answer)),
        None => "none was stored with the full".to_owned(),
    };
    out += &format!("  hashkv    {hash_kv}\n  way       {}\n", plan.way);
    out
}

/// The same as JSON.
pub(crate) fn plan_document(plan: &PointPlan) -> Value {
    let (chain, sizes) = (&plan.chain, &plan.sizes);
    json!({
        "backup": chain.full.name.to_string(),
        "lineage": chain.full.name.lineage.to_string(),
        "revision": plan.goal.upto().0,
        "mark": plan.resolved.mark().map(mark_document),
        "deleted_at": plan.resolved.deletion().map(|revision| revision.0),
        "missing": chain.gap.map(gap_document),
        "objects": chain.objects().count(),
        "deltas": chain.deltas.len(),
        "stored_bytes": chain.stored_bytes(),
        "records_bytes": sizes.plain_bytes,
        "appended_bytes": sizes.appended_bytes(),
        "source_bytes": sizes.source_bytes,
        "way": plan.way.as_str(),
        "why": plan.way.to_string(),
    })
}

/// Flags that name the same moment on every member.
pub(crate) fn explicit_flags(plan: &PointPlan) -> Vec<String> {
    let (selection, target) = plan.explicit();
    let mut flags = match selection {
        Selection::Backup(name) => vec!["--backup".to_owned(), name.to_string()],
        Selection::Lineage(id) => vec!["--lineage".to_owned(), id.to_string()],
        Selection::Latest => Vec::new(),
    };
    if let Target::Revision(revision) = target {
        flags.extend(["--revision".to_owned(), revision.to_string()]);
    }
    flags
}

/// The lines of a result.
pub(crate) fn restored_text(restored: &RestoredPoint) -> String {
    let (chain, name) = (&restored.chain, &restored.chain.full.name);
    let mut out = format!("  taken {} from cluster {}\n", name.created, name.lineage.cluster);
    if !chain.deltas.is_empty() {
        out += &format!("  {} records replayed; {}\n", restored.records, restored.way);
    }
    match restored.resolved {
        Resolved::Revision => {
            if let Some(mark) = restored.mark {
                out += &format!("  the source was there at {} (revision {})\n", mark.time, mark.revision);
            }
        }
        resolved => out += &format!("  revision {}{}\n", chain.reaches, found(&resolved)),
    }
    out + &missing(chain.gap)
}

/// The same as JSON.
pub(crate) fn restored_document(restored: &RestoredPoint) -> Value {
    let (chain, name) = (&restored.chain, &restored.chain.full.name);
    json!({
        "backup": name.to_string(),
        "lineage": name.lineage.to_string(),
        "taken": name.created.to_string(),
        "source_cluster_id": name.lineage.cluster.to_string(),
        "deltas": chain.deltas.len(),
        "records": restored.records,
        "way": restored.way.as_str(),
        "mark": restored.resolved.mark().or(restored.mark).map(mark_document),
        "deleted_at": restored.resolved.deletion().map(|revision| revision.0),
        "missing": chain.gap.map(gap_document),
    })
}

/// How a moment was found, to follow its revision.
fn found(resolved: &Resolved) -> String {
    match resolved {
        Resolved::Revision => String::new(),
        Resolved::Marked { asked, mark } => {
            format!(": the source was there at {}, {} before {asked}", mark.time, distance(mark.time, *asked))
        }
        Resolved::DeletedAt(revision) => format!(": revision {revision} deleted the key"),
    }
}

fn distance(mark: UnixMillis, asked: UnixMillis) -> String {
    let ms = (asked.0 - mark.0).max(0);
    match ms / 1000 {
        0 => format!("{ms} ms"),
        s if s < 120 => format!("{:.1} s", ms as f64 / 1000.0),
        s if s < 7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

fn missing(gap: Option<Gap>) -> String {
    gap.map_or_else(String::new, |gap| {
        format!("  MISSING   revisions {} to {}: it ends before them\n", gap.first, gap.last)
    })
}

fn mark_document(mark: TimeMark) -> Value {
    json!({"time": mark.time.to_string(), "revision": mark.revision.0})
}

fn gap_document(gap: Gap) -> Value {
    json!({"first": gap.first.0, "last": gap.last.0})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_short() {
        let distance = |ms: i64| distance(UnixMillis(1_000), UnixMillis(1_000 + ms));
        assert_eq!([0, 999, 61_500, 600_000, 7_200_000].map(distance), ["0 ms", "999 ms", "61.5 s", "10 min", "2 h"]);
    }
}
