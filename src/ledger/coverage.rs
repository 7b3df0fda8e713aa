//! How much of a repository was read, and since when: sums over what is recorded of each pack.
//!
//! A pack counts in full if all of it was read and found sound at that time or later. Of others the largest part that
//! one run read counts, a lower bound: which bytes several runs read between them is not recorded. A reading that lies
//! in the future, for the clock was wrong then or is now, does not count.

use std::collections::HashMap;

use serde::Serialize;

use super::{Ledger, PlaceRow, answered};
use crate::error::Result;

/// How much of a place was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Packs that lie there.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs of which every byte was read in that time.
    pub read_packs: u64,
    /// Bytes that were read in that time, at the least.
    pub read_bytes: u64,
    /// Packs that were never read as a whole.
    pub never_read_packs: u64,
    /// When the pack that was read longest ago was read; of those that were read as a whole.
    pub oldest_read_ms: Option<i64>,
    /// Packs in which damage was found and not seen gone since.
    pub damaged_packs: u64,
    /// Since when it is recorded what is read here.
    pub known_since_ms: Option<i64>,
}

/// What the order of sampling needs to know of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRank {
    /// Which is to be read first: smaller numbers were looked at, or else first seen, by an earlier run. Of one run, what
    /// it saw and did not look at comes before what it looked at.
    pub order: i64,
    /// Whether damage was found in it and not seen gone since.
    pub is_damaged: bool,
}

impl Ledger {
    /// Returns how much of a place was read from one time to another, which is the present.
    pub fn coverage(&self, place: i64, since_ms: i64, now_ms: i64) -> Result<Coverage> {
        let text = "SELECT count(*), coalesce(sum(bytes), 0), \
            coalesce(sum(read_ms BETWEEN ?2 AND ?3), 0), \
            coalesce(sum(CASE WHEN read_ms BETWEEN ?2 AND ?3 THEN bytes \
                WHEN part_ms BETWEEN ?2 AND ?3 THEN min(part_bytes, bytes) ELSE 0 END), 0), \
            coalesce(sum(read_ms IS NULL), 0), min(read_ms), coalesce(sum(damaged > 0), 0) \
            FROM packs WHERE place = ?1";
        let mut coverage = answered(self.connection.query_row(text, [place, since_ms, now_ms], |row| {
            let number = |index: usize| row.get::<_, i64>(index).map(|number| number.max(0) as u64);
            Ok(Coverage {
                packs: number(0)?,
                bytes: number(1)?,
                read_packs: number(2)?,
                read_bytes: number(3)?,
                never_read_packs: number(4)?,
                oldest_read_ms: row.get(5)?,
                damaged_packs: number(6)?,
                known_since_ms: None,
            })
        }))?;
        let known = self.places()?.into_iter().find(|row: &PlaceRow| row.id == place);
        coverage.known_since_ms = known.and_then(|row| row.first_listed_ms);
        Ok(coverage)
    }

    /// Returns the rank of every pack of a place that is known.
    pub fn pack_ranks(&self, place: i64) -> Result<HashMap<String, PackRank>> {
        let text = "SELECT pack, coalesce(looked_run * 2 + 1, listed_run * 2), damaged > 0 FROM packs WHERE place = ?1";
        answered(self.connection.prepare(text).and_then(|mut statement| {
            let rows = statement.query_map([place], |row| {
                Ok((row.get(0)?, PackRank { order: row.get(1)?, is_damaged: row.get(2)? }))
            })?;
            rows.collect()
        }))
    }
}
