//! A week at a delta a second, with fulls every hour: how many objects there are, and how many a restore reads.

use super::*;

/// Entries of one page of a listing.
const PAGE: usize = 1_000;

struct Week {
    shelf: Shelf,
    looks: Looks,
    lineage: LineageId,
    now: i64,
    most: usize,
}

impl Week {
    /// Everything that happens until `until`: a delta of one revision each second, a full each hour.
    fn capture(&mut self, until: i64) {
        while self.now < until {
            let second = (self.now - BIRTH) / 1_000;
            let revision = Revision(11 + second);
            if self.now % HOUR == 0 {
                self.shelf.put(
                    self.lineage,
                    NameKind::Full { seam: Revision(10 + second) },
                    self.now,
                    self.now + 20_000,
                );
            }
            let kind = NameKind::Delta { first: revision, last: revision };
            self.shelf.put(self.lineage, kind, self.now + 999, self.now + 1_100);
            self.now += 1_000;
        }
    }

    fn tend(&mut self, policy: &RetentionPolicy) {
        self.shelf.roll_all(&RollupPolicy::default(), self.now);
        self.most = self.most.max(self.shelf.objects.len());
        let plan = self.looks.plan(&self.shelf, policy, self.now);
        for decided in plan.deletions() {
            self.shelf.objects.remove(&decided.entry.name);
        }
    }

    /// Requests of a plan and its restore: LISTs, and GETs of small objects and of the full.
    fn requests(&self, lineage: &Lineage, revision: i64) -> (usize, usize) {
        let chain = chain_to(lineage, ChainTarget::Revision(Revision(revision)), OnGap::Refuse).unwrap();
        let image = chain.full.stored_bytes.div_ceil(8 << 20) as usize + 2;
        (self.shelf.objects.len().div_ceil(PAGE), image + chain.deltas.len() + chain.marks.len())
    }
}

#[test]
fn a_week_stays_small_and_near() {
    let lineage = LineageId { birth: UnixMillis(BIRTH), cluster: ClusterId(1), random: 1 };
    let mut week = Week { shelf: Shelf::default(), looks: Looks::default(), lineage, now: BIRTH, most: 0 };
    let policy = RetentionPolicy::default();
    // In large steps for eight days, then in those that a sidecar makes.
    let end = BIRTH + 8 * DAY;
    while week.now < end {
        week.capture(week.now + 30 * MINUTE);
        week.tend(&policy);
    }
    let (mut most_near, mut most_now) = (0, 0);
    week.most = 0;
    while week.now < end + 70 * MINUTE {
        week.capture(week.now + 30_000);
        let catalogue = week.shelf.catalogue();
        let newest = week.requests(&catalogue.lineages[&lineage], 10 + (week.now - BIRTH) / 1_000);
        most_near = most_near.max(newest.1);
        // What the large steps left goes within the grace.
        if week.now >= end + 25 * MINUTE {
            most_now = most_now.max(week.shelf.objects.len());
        }
        week.tend(&policy);
    }
    let catalogue = week.shelf.catalogue();
    let last = 10 + (week.now - BIRTH) / 1_000;
    let (mut lists, mut gets) = (0, 0);
    let seconds = ((last - 7 * 86_400)..=last).step_by(211).chain((last - 4_000)..=last);
    for revision in seconds {
        let (list, get) = week.requests(&catalogue.lineages[&lineage], revision);
        (lists, gets) = (lists.max(list), gets.max(get));
    }
    println!("at most {most_now} objects; {lists} LISTs; {gets} GETs, of the newest revision {most_near}");
    assert!(lists <= 6 && gets <= 200 && most_near <= 200, "{lists} LISTs, {gets} and {most_near} GETs");
    assert!(most_now < 2_500 && week.most < 5_000, "{most_now} {}", week.most);
    // Of the week before, nothing is left but the chain that the window begins with.
    let old = catalogue.newest_first().into_iter().filter(|entry| entry.name.created.0 < week.now - 7 * DAY - HOUR);
    assert!(old.count() <= 3);
}
