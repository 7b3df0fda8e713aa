//! What becomes of packs and indexes.

use proptest::prelude::*;

use super::*;

const FULL: u64 = pack::TARGET_STORED_BYTES;

fn id(number: u8) -> PackId {
    PackId::from_bytes([number; 16])
}

fn facts(bytes: u64, needed_percent: u64) -> PackFacts {
    PackFacts {
        bytes: Some(bytes),
        blobs: 100,
        needed_blobs: needed_percent,
        needed_bytes: bytes / 100 * needed_percent,
        is_clear: true,
        is_in_doubt: false,
        overlaps: false,
    }
}

fn index(packs: &[u8]) -> IndexFacts {
    IndexFacts { bytes: 1000, packs: packs.iter().map(|pack| id(*pack)).collect(), is_named_well: true }
}

fn packs(facts: &[PackFacts]) -> HashMap<PackId, PackFacts> {
    (0..).zip(facts).map(|(number, facts)| (id(number), *facts)).collect()
}

/// Decides with an index for each pack; returns the fates in the order of the packs.
fn fates(facts: &[PackFacts], limits: &Limits) -> Vec<Fate> {
    let indexes: Vec<IndexFacts> = (0..facts.len() as u8).map(|pack| index(&[pack])).collect();
    decide(&packs(facts), &indexes, limits).fates.into_values().collect()
}

#[test]
fn what_nobody_needs_goes_and_what_is_needed_by_less_than_half_is_repacked() {
    let of = |percent| facts(FULL, percent);
    let expected = [Fate::Dead, Fate::Repack, Fate::Repack, Fate::Keep, Fate::Keep, Fate::Keep];
    assert_eq!(fates(&[0, 1, 49, 51, 99, 100].map(of), &Limits::default()), expected);
}

#[test]
fn the_worst_are_repacked_until_as_little_is_unused_as_was_asked_for() {
    let all = [90, 20, 60, 100].map(|percent| facts(FULL, percent));
    let of = |unused_max, repack_bytes_max| {
        let fates = fates(&all, &Limits { unused_max, repack_bytes_max });
        fates.iter().map(|fate| *fate == Fate::Repack).collect::<Vec<_>>()
    };
    assert_eq!(of(Some(Unused::Unlimited), None), [false; 4]);
    assert_eq!(of(Some(Unused::Bytes(FULL)), None), [false, true, false, false]);
    assert_eq!(of(Some(Unused::Bytes(FULL / 5)), None), [false, true, true, false]);
    assert_eq!(of(Some(Unused::Share(0.0)), None), [true, true, true, false], "what is needed whole stays");
    assert_eq!(of(Some(Unused::Share(0.0)), Some(0)), [false; 4]);
    assert_eq!(of(Some(Unused::Bytes(0)), Some(FULL)), [false, true, true, false], "no room for the last");
}

#[test]
fn small_packs_are_merged_when_there_are_enough_of_them() {
    let small = facts(1 << 20, 100);
    assert!(fates(&[small; 7], &Limits::default()).iter().all(|fate| *fate == Fate::Keep));
    assert!(fates(&[small; 8], &Limits::default()).iter().all(|fate| *fate == Fate::Merge));
    let crowded = PackFacts { blobs: 50_000, needed_blobs: 50_000, ..small };
    assert!(fates(&[crowded; 9], &Limits::default()).iter().all(|fate| *fate == Fate::Keep));
}

#[test]
fn an_index_goes_if_it_names_what_goes_and_what_stays_is_named_anew() {
    let all = packs(&[facts(FULL, 100), facts(FULL, 0), facts(FULL, 100), facts(FULL, 10)]);
    let indexes = [index(&[0, 1]), index(&[2]), index(&[3])];
    let decision = decide(&all, &indexes, &Limits::default());
    assert_eq!((decision.old_indexes, decision.carried), (vec![0, 2], vec![id(0)]));
    // What is said twice is said once afterwards.
    let decision = decide(&all, &[index(&[0]), index(&[0, 2])], &Limits::default());
    assert_eq!((decision.old_indexes, decision.carried), (vec![0, 1], vec![id(0), id(2)]));
    // What is not there need not be named.
    let mut gone = all.clone();
    gone.insert(id(1), PackFacts { bytes: None, ..facts(FULL, 0) });
    let decision = decide(&gone, &[index(&[0, 1])], &Limits::default());
    assert_eq!((decision.old_indexes, decision.carried), (vec![0], vec![id(0)]));
}

#[test]
fn many_small_indexes_become_one_but_not_those_of_packs_that_share_blobs() {
    let all: Vec<PackFacts> = vec![facts(FULL, 100); 10];
    let indexes: Vec<IndexFacts> = (0..10).map(|pack| index(&[pack])).collect();
    let decision = decide(&packs(&all), &indexes, &Limits::default());
    assert_eq!((decision.old_indexes.len(), decision.carried.len()), (10, 10));
    let shared: Vec<PackFacts> = all.iter().map(|facts| PackFacts { overlaps: true, ..*facts }).collect();
    assert_eq!(decide(&packs(&shared), &indexes, &Limits::default()).old_indexes, Vec::<usize>::new());
}

#[test]
fn in_doubt_a_pack_stays_and_so_do_its_indexes_and_all_they_name() {
    let doubtful = PackFacts { is_in_doubt: true, ..facts(FULL, 0) };
    let unclear = PackFacts { is_clear: false, ..facts(FULL, 10) };
    for odd in [doubtful, unclear] {
        let all = packs(&[odd, facts(FULL, 0), facts(FULL, 0)]);
        let decision = decide(&all, &[index(&[0, 1]), index(&[2])], &Limits::default());
        assert_eq!(decision.packs_of(&[Fate::Keep]), [id(0), id(1)], "{odd:?}");
        assert_eq!(decision.old_indexes, [1], "{odd:?}");
    }
    let odd_name = IndexFacts { is_named_well: false, ..index(&[0]) };
    let decision = decide(&packs(&[facts(FULL, 0)]), &[odd_name], &Limits::default());
    assert_eq!((decision.packs_of(&[Fate::Keep]), decision.old_indexes), (vec![id(0)], vec![]));
    let unneeded = PackFacts { is_clear: false, ..facts(FULL, 0) };
    assert_eq!(fates(&[unneeded], &Limits::default()), [Fate::Dead], "nothing of it is needed");
}

fn any_pack() -> impl Strategy<Value = PackFacts> {
    (0u64..40, 0u64..=100, any::<[bool; 3]>()).prop_map(|(megabytes, percent, [clear, doubt, overlaps])| {
        let bytes = (megabytes > 0).then_some(megabytes << 20);
        PackFacts {
            bytes,
            is_clear: clear && bytes.is_some(),
            is_in_doubt: doubt && percent % 7 == 0,
            overlaps,
            ..facts(megabytes << 20, percent)
        }
    })
}

proptest! {
    #[test]
    fn whatever_is_decided_nothing_that_is_needed_loses_its_index(
        all in proptest::collection::vec(any_pack(), 1..20),
        named in proptest::collection::vec(proptest::collection::vec(0u8..20, 0..6), 1..20),
        unused in proptest::option::of(0.0f64..1.0),
    ) {
        let count = all.len() as u8;
        let all = packs(&all);
        let mut indexes: Vec<IndexFacts> = named
            .iter()
            .map(|packs| {
                let packs: BTreeSet<u8> = packs.iter().map(|pack| pack % count).collect();
                index(&packs.into_iter().collect::<Vec<_>>())
            })
            .collect();
        // Every pack is named, as of those that are looked at.
        indexes.push(index(&(0..count).collect::<Vec<_>>()));
        let limits = Limits { unused_max: unused.map(Unused::Share), repack_bytes_max: None };
        let decision = decide(&all, &indexes, &limits);
        let staying: BTreeSet<PackId> = (0..indexes.len())
            .filter(|place| !decision.old_indexes.contains(place))
            .flat_map(|place| indexes[place].packs.clone())
            .collect();
        for (pack, facts) in &all {
            let fate = decision.fates[pack];
            if facts.needed_blobs > 0 {
                prop_assert_ne!(fate, Fate::Dead);
            }
            if facts.is_in_doubt {
                prop_assert_eq!(fate, Fate::Keep);
            }
            if !facts.is_clear && facts.needed_blobs > 0 {
                prop_assert_eq!(fate, Fate::Keep);
            }
            let is_named = staying.contains(pack) || decision.carried.contains(pack);
            if fate == Fate::Keep && facts.bytes.is_some() {
                prop_assert!(is_named, "{} stays, and no index names it", pack);
            }
            if decision.carried.contains(pack) {
                prop_assert!(facts.is_clear || facts.needed_blobs == 0);
                prop_assert!(!staying.contains(pack));
            }
        }
    }
}
