//! Things that are opened when they are first wanted, and kept while there is room: those that were not used for the
//! longest time go first. Whoever is using one keeps it for himself.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::Result;

/// So many of them, of so many bytes together; the last one used is kept whatever it has.
pub struct Shelf<T> {
    /// The last used last.
    slots: Mutex<Vec<Slot<T>>>,
    count_max: usize,
    bytes_max: u64,
}

struct Slot<T> {
    number: usize,
    /// 0 until it is open.
    bytes: u64,
    opened: Arc<OnceCell<T>>,
}

impl<T: Clone> Shelf<T> {
    /// Makes an empty shelf.
    pub fn new(count_max: usize, bytes_max: u64) -> Self {
        Self { slots: Mutex::default(), count_max, bytes_max }
    }

    /// Returns the thing of that number. It is opened once, however many ask for it meanwhile; what fails is tried again
    /// by whoever asks next. `weigh` tells its bytes.
    pub async fn get(
        &self,
        number: usize,
        open: impl Future<Output = Result<T>>,
        weigh: impl FnOnce(&T) -> u64,
    ) -> Result<T> {
        let cell = self.slot(number);
        let thing = cell.get_or_try_init(|| open).await?.clone();
        self.settle(number, weigh(&thing));
        Ok(thing)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Vec<Slot<T>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, number: usize) -> Arc<OnceCell<T>> {
        let mut slots = self.slots();
        let slot = match slots.iter().position(|slot| slot.number == number) {
            Some(place) => slots.remove(place),
            None => Slot { number, bytes: 0, opened: Arc::default() },
        };
        let opened = Arc::clone(&slot.opened);
        slots.push(slot);
        self.make_room(&mut slots);
        opened
    }

    fn settle(&self, number: usize, bytes: u64) {
        let mut slots = self.slots();
        if let Some(slot) = slots.iter_mut().find(|slot| slot.number == number) {
            slot.bytes = bytes;
        }
        self.make_room(&mut slots);
    }

    fn make_room(&self, slots: &mut Vec<Slot<T>>) {
        let is_over = |slots: &[Slot<T>]| {
            let bytes = slots.iter().map(|slot| slot.bytes).fold(0, u64::saturating_add);
            slots.len() > 1 && (slots.len() > self.count_max || bytes > self.bytes_max)
        };
        while is_over(slots) {
            slots.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Error, ErrorKind};

    #[tokio::test]
    async fn what_was_not_used_for_the_longest_time_is_opened_again() {
        let shelf = Shelf::new(3, 100);
        let opened = AtomicUsize::new(0);
        let get = async |number: usize, bytes: u64| {
            let open = async {
                opened.fetch_add(1, Ordering::Relaxed);
                Ok(number)
            };
            assert_eq!(shelf.get(number, open, |_| bytes).await.unwrap(), number);
            opened.load(Ordering::Relaxed)
        };
        assert_eq!([get(1, 1).await, get(2, 1).await, get(3, 1).await, get(1, 1).await], [1, 2, 3, 3]);
        assert_eq!([get(4, 1).await, get(1, 1).await, get(2, 1).await], [4, 4, 5]);
        // One that is large leaves no room for the others, and stays itself.
        assert_eq!([get(5, 1000).await, get(5, 1000).await, get(2, 1).await], [6, 6, 7]);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let shelf = Shelf::new(3, 100);
        let failing = async { Err::<usize, _>(Error::new(ErrorKind::Io, "x")) };
        assert!(shelf.get(1, failing, |_| 1).await.is_err());
        assert_eq!(shelf.get(1, async { Ok(7) }, |_| 1).await.unwrap(), 7);
    }
}
