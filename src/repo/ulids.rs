//! Names for new objects: ULIDs that only ever grow, within one process and above every name that is there
//! (section 1.1).
//!
//! Of two indexes that name one blob, readers take the one whose name sorts last (section 3.1). A blob that is
//! stored again because its pack was lost must therefore come under a name above all others, whatever the clocks
//! of those who wrote before said. The clock only proposes.

use std::sync::Mutex;
use std::time::SystemTime;

use ulid::Ulid;

/// The alphabet of a name, in the order in which names sort.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a name.
const CHARACTERS: usize = 26;
/// Names that are kept free at the very top: as many as one run may need.
const KEPT_FREE: u128 = 1 << 32;

/// A monotonic source of ULIDs, shared by everything that writes to one repository.
#[derive(Default)]
pub struct UlidSource(Mutex<u128>);

impl std::fmt::Debug for UlidSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UlidSource")
    }
}

impl UlidSource {
    /// Returns a ULID greater than every one before it, and than every name it was told of.
    ///
    /// Where the clock is behind those, a random step is taken from the greatest, so that two processes that
    /// know the same names still choose different ones. Names so near to the greatest possible that no such step
    /// is left are not followed: somebody put them there, and they must not keep a backup from being made.
    pub fn next(&self) -> Ulid {
        let fresh = Ulid::from_datetime(SystemTime::now().max(SystemTime::UNIX_EPOCH));
        let mut last = self.0.lock().expect("no holder of the names panics");
        if fresh.0 > *last {
            *last = fresh.0;
            return fresh;
        }
        let step = 1 + u128::from(fresh.0 as u64);
        match last.checked_add(step).or_else(|| last.checked_add(1)) {
            Some(above) => {
                *last = above;
                Ulid(above)
            }
            None => fresh,
        }
    }

    /// Has every name from now on sort behind this file name, in which a ULID may lie or anything else; tells
    /// whether that is possible.
    pub fn stay_above(&self, name: &str) -> bool {
        let Some(ulid) = ceiling(name).filter(|ulid| *ulid < u128::MAX - KEPT_FREE) else { return false };
        let mut last = self.0.lock().expect("no holder of the names panics");
        *last = ulid.max(*last);
        true
    }
}

/// Returns the least ULID behind which only names lie that sort behind this one too; `None` where there is none.
fn ceiling(name: &str) -> Option<u128> {
    let digits =
        name.bytes().take(CHARACTERS).map_while(|byte| ALPHABET.iter().position(|known| *known == byte));
    let mut digits: Vec<u128> = digits.map(|digit| digit as u128).collect();
    let first = *name.as_bytes().first().unwrap_or(&0);
    if first < ALPHABET[0] {
        return Some(0);
    }
    // A ULID has 128 bits in 26 characters of 5, so its first one is at most 7.
    if digits.first().is_none_or(|digit| *digit > 7) {
        return None;
    }
    digits.resize(CHARACTERS, (ALPHABET.len() - 1) as u128);
    Some(digits.into_iter().fold(0, |ulid, digit| ulid << 5 | digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(ulid: Ulid) -> String {
        ulid.to_string().to_lowercase()
    }

    #[test]
    fn names_grow_and_differ_from_those_of_others_who_know_the_same() {
        let (one, other) = (UlidSource::default(), UlidSource::default());
        let mut before = Ulid(0);
        for _ in 0..1000 {
            let next = one.next();
            assert!(next > before);
            before = next;
        }
        let ahead = "5zz0000000000000000000000m.mvidx";
        assert!(one.stay_above(ahead) && other.stay_above(ahead));
        let (mine, theirs) = (one.next(), other.next());
        assert!(text(mine).as_str() > ahead && text(theirs).as_str() > ahead);
        assert_ne!(mine, theirs);
        assert!(one.next() > mine);
    }

    #[test]
    fn whatever_the_names_that_are_there_new_ones_sort_behind_them() {
        for name in [
            "01kwvve8k3wz72j3vhy0dphk55.mvidx",
            "6kwvve8k3wz72j3vhy0dphk55z.mvidx",
            "7zzzzzzzzzzzzzzzzzz0000000.mvidx",
            "01kwvve8k3wz72j3vhy0dphk55-copy.mvidx",
            "2031-01-01.mvidx",
            "3~.mvidx",
            "6u.mvidx",
            "-.mvidx",
            "0.mvidx",
        ] {
            let names = UlidSource::default();
            assert!(names.stay_above(name), "{name}");
            let next = format!("{}.mvidx", text(names.next()));
            assert!(next.as_str() > name, "{next} {name}");
        }
    }

    #[test]
    fn names_that_nothing_can_be_above_lock_nobody_out() {
        for name in
            ["7zzzzzzzzzzzzzzzzzzzzzzzzz.mvidx", "zz.mvidx", "8.mvidx", "~.mvidx", "ä.mvidx", "7.mvidx"]
        {
            let names = UlidSource::default();
            assert!(!names.stay_above(name), "{name}");
            let (one, other) = (names.next(), names.next());
            assert_ne!(one, other, "{name}");
            assert!(text(one).as_str() < "1", "the clock still proposes: {one}");
        }
    }
}
