//! The leases of the source: a watch gives their ids, and somebody must ask for the rest.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::error::Result;
use crate::etcd::Member;
use crate::format::{LeaseGrant, LeaseList, LeaseTtl};

/// Questions under way at once: a follower passes each one on to the leader, which has other work.
const ASKED_AT_ONCE: usize = 8;
/// Given to a lease that was gone before it could be asked about, seconds.
const ASSUMED_TTL_S: i64 = 3600;

type Answer = (i64, Result<Option<i64>>);

/// What is known of leases. Memory: about 100 bytes for each that is alive, or was when they were last listed.
#[derive(Default)]
pub(super) struct LeaseBook {
    granted: BTreeMap<i64, LeaseGrant>,
    /// Named by records that were captured, and not yet answered. There may be very many others on a list.
    awaited: BTreeSet<i64>,
    /// Those of them that are not asked about yet.
    urgent: BTreeSet<i64>,
    /// On a list, and not yet asked about.
    unasked: BTreeSet<i64>,
    asking: FuturesUnordered<BoxFuture<'static, Answer>>,
    asked: BTreeSet<i64>,
    /// Asked in vain; asked again after the next list.
    unanswered: BTreeSet<i64>,
    /// Learned since the last delta.
    new: Vec<LeaseGrant>,
    /// All ids, where a list has come since the last delta.
    listed: Option<BTreeSet<i64>>,
    /// A list has come. What was stored before the first one may name leases that were revoked while nobody watched.
    listed_before: bool,
}

impl LeaseBook {
    /// Puts name these leases.
    pub(super) fn see(&mut self, ids: &[i64]) {
        for id in ids {
            let known = self.knows(*id) || self.unanswered.contains(id);
            if !known && self.awaited.insert(*id) && !self.asked.contains(id) {
                self.unasked.remove(id);
                self.urgent.insert(*id);
            }
            if let Some(listed) = &mut self.listed {
                listed.insert(*id);
            }
        }
    }

    /// Whether the source has told. What was assumed of a lease that was gone says nothing of one that has its id now.
    fn knows(&self, id: i64) -> bool {
        self.granted.get(&id).is_some_and(|grant| grant.known == LeaseTtl::Granted)
    }

    /// The source has exactly these leases.
    pub(super) fn list(&mut self, ids: Vec<i64>) {
        self.unasked.append(&mut self.unanswered);
        let ids: BTreeSet<i64> = ids.into_iter().collect();
        let known = self.granted.len();
        self.granted.retain(|id, grant| ids.contains(id) && grant.known == LeaseTtl::Granted);
        let unknown: Vec<i64> = ids.iter().filter(|id| !self.granted.contains_key(id)).copied().collect();
        // A later list that says nothing new is not worth storing.
        let first = !std::mem::replace(&mut self.listed_before, true);
        if first || self.granted.len() < known || !unknown.is_empty() {
            let under_way = |id: &i64| self.awaited.contains(id) || self.asked.contains(id);
            self.unasked.extend(unknown.into_iter().filter(|id| !under_way(id)));
            self.listed = Some(ids);
        }
    }

    /// Asks about what is not known, and takes one answer. Waits for ever where there is nothing to ask. A call that is
    /// dropped loses nothing.
    ///
    /// # Errors
    /// Those of the member. The lease is asked about again after the next list.
    pub(super) async fn answer(&mut self, member: &Member) -> Result<()> {
        while self.asking.len() < ASKED_AT_ONCE
            && let Some(id) = self.urgent.pop_first().or_else(|| self.unasked.pop_first())
        {
            self.asked.insert(id);
            let member = member.clone();
            self.asking.push(Box::pin(async move { (id, member.lease_ttl_s(id).await) }));
        }
        let Some((id, answer)) = self.asking.next().await else { return std::future::pending().await };
        self.asked.remove(&id);
        self.awaited.remove(&id);
        match answer {
            Ok(ttl_s) => {
                let known = if ttl_s.is_some() { LeaseTtl::Granted } else { LeaseTtl::Assumed };
                let grant = LeaseGrant { id, ttl_s: ttl_s.unwrap_or(ASSUMED_TTL_S), known };
                self.granted.insert(id, grant);
                self.new.push(grant);
                Ok(())
            }
            Err(error) => {
                self.unanswered.insert(id);
                Err(error)
            }
        }
    }

    /// Whether anything is not known yet.
    pub(super) fn is_asking(&self) -> bool {
        !(self.urgent.is_empty() && self.unasked.is_empty() && self.asking.is_empty())
    }

    /// Whether a captured record names a lease that is not known yet.
    pub(super) fn is_awaiting(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// What the next delta tells of leases. A list is told once everything in it is known.
    pub(super) fn take(&mut self) -> (Vec<LeaseGrant>, LeaseList) {
        let mut new = std::mem::take(&mut self.new);
        let all_known = self.listed.as_ref().is_some_and(|ids| ids.iter().all(|id| self.granted.contains_key(id)));
        if all_known && let Some(ids) = self.listed.take() {
            return (ids.iter().filter_map(|id| self.granted.get(id)).copied().collect(), LeaseList::Complete);
        }
        new.sort_unstable();
        (new, LeaseList::New)
    }

    /// Whether there is something to tell.
    pub(super) fn has_news(&self) -> bool {
        !self.new.is_empty() || (self.listed.is_some() && !self.is_asking())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(known: LeaseTtl) -> LeaseBook {
        let grant = LeaseGrant { id: -5, ttl_s: ASSUMED_TTL_S, known };
        LeaseBook { granted: BTreeMap::from([(-5, grant)]), ..LeaseBook::default() }
    }

    #[test]
    fn a_lease_that_was_gone_is_asked_about_when_its_id_comes_again() {
        let mut seen = book(LeaseTtl::Assumed);
        seen.see(&[-5]);
        assert!(seen.is_asking());
        let mut listed = book(LeaseTtl::Assumed);
        listed.list(vec![-5]);
        assert!(listed.is_asking());
    }

    #[test]
    fn a_lease_is_asked_about_once() {
        let mut known = book(LeaseTtl::Granted);
        known.see(&[-5]);
        known.list(vec![-5]);
        assert!(!known.is_asking());
        assert_eq!(known.take().1, LeaseList::Complete);
        known.list(vec![-5]);
        assert!(!known.is_asking() && !known.has_news());
    }

    #[test]
    fn the_first_list_is_told_even_if_it_is_empty() {
        let mut book = LeaseBook::default();
        book.list(Vec::new());
        assert!(book.has_news());
        assert_eq!(book.take(), (Vec::new(), LeaseList::Complete));
        book.list(Vec::new());
        assert!(!book.has_news());
    }
}
