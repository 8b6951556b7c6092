//! Random histories, policies, crashes, sweepers and writers: whatever was promised can be restored after every single
//! deletion.

use super::*;

/// A source that is captured by two sidecars at times, and everything that it has ever been.
struct World {
    dice: Dice,
    shelf: Shelf,
    now: i64,
    lineage: LineageId,
    last: i64,
    /// When each revision was reached, and in which lineage; a lineage begins with its seam.
    reached: Vec<(i64, LineageId, i64)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let lineage = LineageId { birth: UnixMillis(BIRTH), cluster: ClusterId(1), random: 1 };
        let mut world =
            Self { dice: Dice::new(seed), shelf: Shelf::default(), now: BIRTH, lineage, last: 10, reached: Vec::new() };
        world.full();
        world
    }

    fn full(&mut self) {
        let kind = NameKind::Full { seam: Revision(self.last) };
        if !self.reached.iter().any(|(_, lineage, _)| *lineage == self.lineage) {
            self.reached.push((self.now, self.lineage, self.last));
        }
        self.shelf.put(self.lineage, kind, self.now, self.now + 20);
        self.now += 1_000;
    }

    /// Some deltas, one after the other, and sometimes doubles of them in other pieces.
    fn capture(&mut self) {
        let begin = self.last;
        let mut times = Vec::new();
        for _ in 0..1 + self.dice.roll(6) {
            self.now += 1_000 + self.dice.roll(3 * MINUTE);
            let first = self.last + 1;
            self.last += self.dice.roll(4);
            for revision in first..=self.last {
                self.reached.push((self.now, self.lineage, revision));
            }
            let kind = NameKind::Delta { first: Revision(first), last: Revision(self.last) };
            self.shelf.put(self.lineage, kind, self.now, self.now + 30);
            times.push((self.last, self.now));
        }
        if self.dice.roll(3) == 0 {
            let mut first = begin + 1;
            while first <= self.last {
                let last = (first + self.dice.roll(3)).min(self.last);
                let time = times.iter().find(|(reached, _)| *reached >= last).map_or(self.now, |(_, time)| *time);
                let kind = NameKind::Delta { first: Revision(first), last: Revision(last) };
                self.shelf.put(self.lineage, kind, time + 300, time + 400);
                first = last + 1;
            }
        }
    }

    fn step(&mut self) {
        match self.dice.roll(14) {
            0 => self.full(),
            1 => {
                // Capture stopped, and a new lineage begins some time later.
                self.now += self.dice.roll(3 * HOUR);
                self.lineage.birth = UnixMillis(self.now);
                self.full();
            }
            2 => self.now += self.dice.roll(HOUR),
            _ => self.capture(),
        }
    }

    /// What the window of `within` promises at the store's present: every revision that the source had in it, and the one
    /// that it had when it began.
    fn promised(&self, within: Duration) -> Vec<(LineageId, i64)> {
        let begin = self.store_now() - within.as_millis() as i64;
        let at_begin = self.reached.iter().rev().find(|(time, ..)| *time <= begin);
        let since = self.reached.iter().filter(|(time, ..)| *time > begin);
        since.chain(at_begin).map(|(_, lineage, revision)| (*lineage, *revision)).collect()
    }

    fn store_now(&self) -> i64 {
        store_now(&self.shelf.catalogue(), UnixMillis(self.now + 1_000)).0
    }

    fn broken(&self, promised: &[(LineageId, i64)]) -> Option<(LineageId, i64)> {
        let catalogue = self.shelf.catalogue();
        promised.iter().find(|(lineage, revision)| !plans(catalogue.lineages.get(lineage), *revision)).copied()
    }
}

fn policy(dice: &mut Dice) -> RetentionPolicy {
    let fulls = match dice.roll(3) {
        0 => None,
        1 => Some(FullsPolicy::LimitBased),
        _ => Some(FullsPolicy::Exponential),
    };
    let keep_within = (fulls.is_none() || dice.roll(3) == 0).then(|| ms(10 * MINUTE + dice.roll(6 * HOUR)));
    RetentionPolicy {
        keep_within,
        fulls,
        max_backups: 1 + dice.roll(4) as usize,
        delta_retention: if dice.roll(2) == 0 { Duration::ZERO } else { ms(dice.roll(3 * HOUR)) },
        covered_grace: ms(dice.roll(20 * MINUTE)),
    }
}

/// Everything that `policy` promises of `world` as it is now.
fn promises(world: &World, policy: &RetentionPolicy) -> Vec<(LineageId, i64)> {
    let mut promised = Vec::new();
    if let Some(within) = policy.keep_within {
        promised.extend(world.promised(within));
    }
    let catalogue = world.shelf.catalogue();
    if policy.fulls.is_some() {
        promised
            .extend(world.promised(policy.delta_retention).into_iter().filter(|_| !policy.delta_retention.is_zero()));
        let mut fulls: Vec<(i64, LineageId, i64)> = Vec::new();
        for lineage in catalogue.lineages.values() {
            for entry in &lineage.backups {
                if let NameKind::Full { seam } = entry.name.kind {
                    fulls.push((written(entry).0, lineage.id, seam.0));
                }
            }
        }
        fulls.sort_unstable_by(|one, other| other.cmp(one));
        let limit = if policy.fulls == Some(FullsPolicy::LimitBased) { policy.max_backups } else { 1 };
        promised.extend(fulls.into_iter().take(limit).map(|(_, lineage, seam)| (lineage, seam)));
    }
    // The newest chain, whatever the policy.
    let seams = catalogue.lineages[&world.lineage].backups.iter().filter_map(|entry| match entry.name.kind {
        NameKind::Full { seam } => Some(seam.0),
        NameKind::Delta { .. } => None,
    });
    let seam = seams.max().unwrap();
    promised.extend((seam..=world.last).map(|revision| (world.lineage, revision)));
    promised.sort_unstable();
    promised.dedup();
    promised
}

#[test]
fn a_crash_at_any_deletion_leaves_everything_that_was_promised() {
    let (mut deleted, mut covered) = (0, 0);
    for seed in 0..80 {
        let mut world = World::new(seed);
        let policy = policy(&mut world.dice);
        let mut looks = Looks::default();
        for round in 0..3 {
            (0..4 + world.dice.roll(12)).for_each(|_| world.step());
            world.shelf.roll_all(&RollupPolicy::default(), world.now);
            let promised = promises(&world, &policy);
            assert_eq!(world.broken(&promised), None, "seed {seed}: not even before the sweep");
            looks.plan(&world.shelf, &policy, world.now);
            let plan = looks.plan(&world.shelf, &policy, world.now);
            for decided in plan.deletions() {
                world.shelf.objects.remove(&decided.entry.name);
                let broken = world.broken(&promised);
                assert_eq!(broken, None, "seed {seed}, round {round}: {} went, {policy:?}", decided.entry.name);
                deleted += 1;
                covered += usize::from(matches!(decided.decision, Decision::Delete(DeleteReason::Covered(_))));
            }
            // What is left is what the policy wants: the same plan finds nothing more to expire.
            let again = Looks::default().plan(&world.shelf, &policy, world.now);
            assert_eq!(again.deletions().count(), 0, "seed {seed}");
        }
    }
    println!("{deleted} objects went, {covered} of them because others held them");
    assert!(deleted > 800 && covered > 150, "{deleted} {covered}");
}

/// What one actor has seen, and goes on to do while others act.
#[derive(Default)]
struct Actor {
    looks: Looks,
    deletions: Vec<BackupName>,
    rollups: Vec<Span>,
}

#[test]
fn two_sweepers_and_two_writers_in_any_order_do_no_harm() {
    let mut deleted = 0;
    for seed in 0..40 {
        let mut world = World::new(1_000 + seed);
        let mut policy = policy(&mut world.dice);
        // What each of them promises at the end of all that waiting is hard to say; of a window it is not.
        (policy.fulls, policy.keep_within) = (None, Some(ms(30 * MINUTE + world.dice.roll(4 * HOUR))));
        let mut actors = [Actor::default(), Actor::default()];
        for step in 0..120 {
            let who = world.dice.roll(2) as usize;
            match world.dice.roll(10) {
                0..3 => world.step(),
                3 => {
                    let plan = actors[who].looks.plan(&world.shelf, &policy, world.now);
                    actors[who].deletions = plan.deletions().map(|decided| decided.entry.name).collect();
                    actors[who].deletions.reverse();
                }
                4 => {
                    let rollups = RollupPolicy::default();
                    actors[who].rollups = plan_rollups(&world.shelf.catalogue(), &rollups, UnixMillis(world.now)).spans;
                }
                5 | 6 => {
                    if let Some(span) = actors[who].rollups.pop() {
                        world.shelf.roll(&span, world.now);
                    }
                }
                _ => {
                    for _ in 0..3 {
                        let Some(name) = actors[who].deletions.pop() else { break };
                        deleted += usize::from(world.shelf.objects.remove(&name).is_some());
                        let promised = promises(&world, &policy);
                        let broken = world.broken(&promised);
                        assert_eq!(broken, None, "seed {seed}, step {step}: {name} went");
                    }
                }
            }
        }
    }
    println!("{deleted} objects went");
    assert!(deleted > 150, "{deleted}");
}
