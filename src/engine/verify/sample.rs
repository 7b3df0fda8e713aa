//! Which packs a sample reads: those that were looked at longest ago, so that every pack is read within a known number
//! of runs.
//!
//! The order goes by the numbers of runs, never by a clock: the run that looked at all of a pack last, or else the run
//! that first saw it. A pack that is new stands behind all that are there, so that however much is added, what is there
//! is reached. Each run takes packs until their bytes reach the budget, and so reads at least as much: of a repository
//! of which nothing else changes, a budget of a twentieth reads all in twenty runs.
//!
//! A pack in which damage was found is read again in each run, until all of it is found sound: a sample that happens to
//! look elsewhere must not report that all is well. These take half of the budget at the most, so that there is always
//! an end to the others.

use std::collections::{HashMap, HashSet};

use crate::engine::report::SampleReport;
use crate::format::PackId;

/// Parts per million, in which shares are kept.
const WHOLE: u64 = 1_000_000;

/// How much one run reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// A share of all bytes, in millionths.
    Share(u32),
    /// So many bytes.
    Bytes(u64),
}

/// What is known of a pack from earlier runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Smaller numbers come first: of the run that looked at all of it last, or else of the one that first saw it, which
    /// comes before what that run looked at.
    pub order: i64,
    /// Whether damage was found and not seen gone.
    pub is_damaged: bool,
}

/// What a sample is asked for.
#[derive(Debug, Clone)]
pub struct Sample {
    /// How much is read.
    pub budget: Budget,
    /// What is known of packs, by their names. `None` where nothing can be remembered: packs are then chosen by chance,
    /// by this number.
    pub ranks: std::result::Result<HashMap<String, Rank>, u64>,
}

impl Budget {
    /// Makes a share of all; of more than all, all.
    pub fn share(share: f64) -> Self {
        // Out of range, the cast takes the nearest number.
        Self::Share(((share * WHOLE as f64).round() as u32).clamp(1, WHOLE as u32))
    }

    /// Returns how many bytes of so many are read.
    pub fn of(self, bytes_total: u64) -> u64 {
        let bytes = match self {
            Self::Share(share) => {
                u64::try_from(u128::from(bytes_total) * u128::from(share) / u128::from(WHOLE))
                    .unwrap_or(u64::MAX)
            }
            Self::Bytes(bytes) => bytes,
        };
        bytes.max(1)
    }
}

/// Returns the packs that are read, out of these with their lengths.
pub fn choose(sample: &Sample, packs: &[(PackId, u64)]) -> (HashSet<PackId>, SampleReport) {
    let bytes_total = packs.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add);
    let budget = sample.budget.of(bytes_total);
    let rank = |pack: &PackId| match &sample.ranks {
        Ok(ranks) => ranks.get(&pack.to_string()).copied(),
        Err(_) => None,
    };
    let mut queue: Vec<(i64, u64, PackId, u64)> = Vec::new();
    let mut damaged = Vec::new();
    for (pack, bytes) in packs {
        match rank(pack) {
            Some(Rank { order, is_damaged: true }) => damaged.push((order, *pack, *bytes)),
            // What no run has seen stands behind all that one has; among those, the names are in the order of time.
            known => {
                queue.push((known.map_or(i64::MAX, |rank| rank.order), chance(sample, pack), *pack, *bytes))
            }
        }
    }
    queue.sort();
    damaged.sort();
    let mut report = SampleReport { packs_total: packs.len() as u64, bytes_total, ..SampleReport::default() };
    let mut chosen = HashSet::new();
    for (_, pack, bytes) in damaged {
        // At least one, as long as there are any.
        if !chosen.is_empty() && report.bytes >= budget / 2 && !queue.is_empty() {
            report.damaged_packs_left += 1;
            continue;
        }
        report.bytes = report.bytes.saturating_add(bytes);
        report.packs_again += 1;
        chosen.insert(pack);
    }
    // What is read again comes out of the budget, and never takes more than half of it from the others.
    let left = budget.saturating_sub(report.bytes.min(budget / 2));
    let mut taken = 0u64;
    for (.., pack, bytes) in queue {
        if taken >= left {
            break;
        }
        taken = taken.saturating_add(bytes);
        chosen.insert(pack);
    }
    report.bytes = report.bytes.saturating_add(taken);
    report.packs = chosen.len() as u64;
    // Each takes a pack at least.
    report.runs = bytes_total.div_ceil(budget).clamp(1, report.packs_total.max(1));
    (chosen, report)
}

/// Returns a number that orders packs by chance where nothing is remembered, and is the same for all elsewhere.
fn chance(sample: &Sample, pack: &PackId) -> u64 {
    let Err(seed) = sample.ranks else { return 0 };
    // FNV-1a: any spread will do, for nobody gains by knowing which packs are read.
    let text = pack.to_string();
    let bytes = seed.to_le_bytes().into_iter().chain(text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(number: u64) -> PackId {
        PackId::parse(&format!("01kw{number:022}")).unwrap()
    }

    #[test]
    fn a_share_of_nothing_and_of_more_than_all_is_something_that_can_be_read() {
        for (share, bytes) in [(0.05, 50), (1.0, 1000), (0.0, 1), (-1.0, 1), (7.0, 1000), (f64::NAN, 1)] {
            assert_eq!(Budget::share(share).of(1000), bytes, "{share}");
        }
        assert_eq!(Budget::Share(1_000_000).of(u64::MAX), u64::MAX);
        assert_eq!(Budget::Bytes(5).of(0), 5);
    }

    /// What happens between two runs, or in one.
    #[derive(Debug, Clone)]
    enum Event {
        /// A run, which looks at so many of the chosen packs before it is stopped.
        Run(usize),
        Add(u64),
        Remove(usize),
        Damage(usize),
        Heal(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            6 => Just(Event::Run(usize::MAX)),
            1 => (0usize..4).prop_map(Event::Run),
            2 => (1u64..500).prop_map(Event::Add),
            1 => any::<usize>().prop_map(Event::Remove),
            1 => any::<usize>().prop_map(Event::Damage),
            1 => any::<usize>().prop_map(Event::Heal),
        ];
        prop::collection::vec(event, 0..60)
    }

    /// A repository with the memory of what was looked at, as the ledger keeps it.
    #[derive(Default)]
    struct World {
        run: i64,
        packs: Vec<(PackId, u64)>,
        ranks: HashMap<String, Rank>,
        damaged: HashSet<PackId>,
        made: u64,
    }

    impl World {
        fn add(&mut self, bytes: u64) {
            self.made += 1;
            self.packs.push((pack(self.made), bytes));
        }

        /// Returns what was looked at.
        fn run(&mut self, budget: Budget, stops_after: usize) -> HashSet<PackId> {
            self.run += 1;
            let sample = Sample { budget, ranks: Ok(self.ranks.clone()) };
            let (chosen, _) = choose(&sample, &self.packs);
            for (pack, _) in &self.packs {
                self.ranks.entry(pack.to_string()).or_insert(Rank { order: self.run * 2, is_damaged: false });
            }
            let looked: HashSet<PackId> = chosen.into_iter().take(stops_after).collect();
            for pack in &looked {
                let is_damaged = self.damaged.contains(pack);
                self.ranks.insert(pack.to_string(), Rank { order: self.run * 2 + 1, is_damaged });
            }
            looked
        }
    }

    proptest! {
        #[test]
        fn a_damaged_pack_is_found_within_the_promised_number_of_runs(
            sizes in prop::collection::vec(1u64..500, 1..30),
            before in events(),
            budget in prop_oneof![
                (10_000u32..=1_000_000).prop_map(Budget::Share),
                (1u64..2_000).prop_map(Budget::Bytes),
            ],
            which in any::<usize>(),
            later in prop::collection::vec(prop_oneof![
                Just(None), (1u64..500).prop_map(Some)
            ], 0..200),
        ) {
            let mut world = World::default();
            sizes.into_iter().for_each(|bytes| world.add(bytes));
            for event in before {
                let at = |index: usize, world: &World| world.packs[index % world.packs.len()].0;
                match event {
                    Event::Run(stops) => { world.run(budget, stops); }
                    Event::Add(bytes) => world.add(bytes),
                    Event::Remove(index) if world.packs.len() > 1 => {
                        let gone = index % world.packs.len();
                        world.packs.remove(gone);
                    }
                    Event::Remove(_) => {}
                    Event::Damage(index) => { let pack = at(index, &world); world.damaged.insert(pack); }
                    Event::Heal(index) => { let pack = at(index, &world); world.damaged.remove(&pack); }
                }
            }
            // From now on every run comes to its end, and more is added between runs.
            let rotten = world.packs[which % world.packs.len()].0;
            world.damaged.insert(rotten);
            let total: u64 = world.packs.iter().map(|(_, bytes)| *bytes).sum();
            // Half of a budget goes to what is known to be damaged, at the most.
            let per_run = budget.of(total).div_ceil(2).max(1);
            let promised = total.div_ceil(per_run);
            let mut found = false;
            for number in 0..promised {
                if world.run(budget, usize::MAX).contains(&rotten) {
                    found = true;
                    break;
                }
                if let Some(Some(bytes)) = later.get(number as usize) {
                    world.add(*bytes);
                }
            }
            prop_assert!(found || world.ranks.get(&rotten.to_string()).is_some_and(|rank| rank.is_damaged),
                "not in {} runs", promised);
        }

        #[test]
        fn every_run_reads_its_budget_and_where_nothing_is_damaged_all_is_read_in_as_many_runs_as_are_named(
            sizes in prop::collection::vec(1u64..500, 1..40), share in 10_000u32..=1_000_000
        ) {
            let mut world = World::default();
            sizes.into_iter().for_each(|bytes| world.add(bytes));
            let total: u64 = world.packs.iter().map(|(_, bytes)| *bytes).sum();
            let budget = Budget::Share(share);
            let (_, report) = choose(&Sample { budget, ranks: Ok(HashMap::new()) }, &world.packs);
            let mut read = HashSet::new();
            for _ in 0..report.runs {
                let chosen = world.run(budget, usize::MAX);
                let bytes: u64 =
                    world.packs.iter().filter(|(pack, _)| chosen.contains(pack)).map(|(_, bytes)| bytes).sum();
                prop_assert!(bytes >= budget.of(total));
                read.extend(chosen);
            }
            prop_assert_eq!(read.len(), world.packs.len());
        }
    }

    #[test]
    fn without_a_memory_packs_are_chosen_by_chance_and_not_always_the_same() {
        let packs: Vec<(PackId, u64)> = (0..40).map(|number| (pack(number), 10)).collect();
        let chosen = |seed| choose(&Sample { budget: Budget::Share(100_000), ranks: Err(seed) }, &packs).0;
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
        let read: HashSet<PackId> = (0..200).flat_map(chosen).collect();
        assert_eq!(read.len(), 40);
    }

    #[test]
    fn packs_that_are_known_to_be_damaged_are_read_again_and_leave_half_to_the_others() {
        let packs: Vec<(PackId, u64)> = (0..40).map(|number| (pack(number), 10)).collect();
        let rank = |number: u64| (pack(number).to_string(), Rank { order: 3, is_damaged: number < 20 });
        let sample = Sample { budget: Budget::Bytes(100), ranks: Ok((0..40).map(rank).collect()) };
        let (chosen, report) = choose(&sample, &packs);
        assert_eq!(
            (report.packs_again, report.damaged_packs_left, report.packs, report.bytes),
            (5, 15, 10, 100)
        );
        assert_eq!(chosen.iter().filter(|id| **id >= pack(20)).count(), 5);
    }
}
