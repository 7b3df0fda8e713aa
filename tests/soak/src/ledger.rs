//! What was true: the content of the application's database after each of its transactions.
//!
//! It is kept by bookkeeping, row by row, and never read from the database itself: a state is the sum of the
//! hashes of its rows, so that a transaction costs its own rows and no more. A state is noted before its
//! commit and counts as committed after it; so what another process can see at a moment lies between
//! [`Ledger::committed`] before it and [`Ledger::promised`] after it.

use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

/// A sum of hashes of rows, in which their order does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Returns the digest of one row.
    pub fn of_row(table: &str, id: i64, columns: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update(table.as_bytes());
        hash.update(id.to_le_bytes());
        for column in columns {
            hash.update((column.len() as u64).to_le_bytes());
            hash.update(column);
        }
        let bytes = hash.finalize();
        let mut lanes = [0; 4];
        for (lane, bytes) in lanes.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *lane = u64::from_le_bytes(*bytes);
        }
        Self(lanes)
    }

    /// Adds a row.
    pub fn add(&mut self, row: Self) {
        for (lane, other) in self.0.iter_mut().zip(row.0) {
            *lane = lane.wrapping_add(other);
        }
    }

    /// Takes a row away again.
    pub fn remove(&mut self, row: Self) {
        for (lane, other) in self.0.iter_mut().zip(row.0) {
            *lane = lane.wrapping_sub(other);
        }
    }
}

/// The states of the database, by the number of the transaction that made them.
#[derive(Debug, Default)]
pub struct Ledger {
    states: Mutex<States>,
}

#[derive(Debug, Default)]
struct States {
    digests: Vec<Digest>,
    committed: u64,
}

impl Ledger {
    /// Notes the state that the next commit makes.
    pub fn promise(&self, digest: Digest) {
        self.states().digests.push(digest);
    }

    /// Notes that the commit was made.
    pub fn commit(&self) {
        let mut states = self.states();
        states.committed = states.digests.len() as u64;
    }

    /// Returns the number of the last transaction that everybody can see.
    pub fn committed(&self) -> u64 {
        self.states().committed
    }

    /// Returns the number of the last transaction that anybody may see already.
    pub fn promised(&self) -> u64 {
        self.states().digests.len() as u64
    }

    /// Returns the state after a transaction; they are numbered from 1.
    pub fn after(&self, transaction: u64) -> Option<Digest> {
        let index = usize::try_from(transaction.checked_sub(1)?).ok()?;
        self.states().digests.get(index).copied()
    }

    fn states(&self) -> std::sync::MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_does_not_depend_on_the_way_to_it() {
        let row = |id: i64, body: &str| Digest::of_row("items", id, &[body.as_bytes()]);
        let (mut one, mut other) = (Digest::default(), Digest::default());
        one.add(row(1, "a"));
        one.add(row(2, "b"));
        for added in [row(2, "b"), row(3, "gone"), row(1, "a")] {
            other.add(added);
        }
        assert_ne!(one, other);
        other.remove(row(3, "gone"));
        assert_eq!(one, other);
        assert_ne!(Digest::of_row("items", 1, &[b"ab", b""]), Digest::of_row("items", 1, &[b"a", b"b"]));
    }

    #[test]
    fn a_transaction_may_be_seen_before_it_must_be() {
        let ledger = Ledger::default();
        assert_eq!((ledger.committed(), ledger.promised(), ledger.after(0)), (0, 0, None));
        ledger.promise(Digest::of_row("t", 1, &[]));
        assert_eq!((ledger.committed(), ledger.promised()), (0, 1));
        ledger.commit();
        assert_eq!((ledger.committed(), ledger.after(1)), (1, Some(Digest::of_row("t", 1, &[]))));
        assert_eq!(ledger.after(2), None);
    }
}
