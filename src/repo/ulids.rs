//! Names for new objects: ULIDs that only ever grow within one process (section 1.1).

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use ulid::{Generator, Ulid};

/// A monotonic source of ULIDs, shared by everything that writes to one repository.
#[derive(Default)]
pub struct UlidSource(Mutex<Generator>);

impl std::fmt::Debug for UlidSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UlidSource")
    }
}

impl UlidSource {
    /// Returns a ULID greater than every one before it.
    ///
    /// Within one millisecond the random part is counted up; in the one case of 2^80 where that
    /// overflows, the next millisecond is used.
    pub fn next(&self) -> Ulid {
        let mut generator = self.0.lock().expect("no holder of the generator panics");
        let mut now = SystemTime::now();
        loop {
            match generator.generate_from_datetime(now) {
                Ok(ulid) => return ulid,
                Err(_) => now += Duration::from_millis(1),
            }
        }
    }
}
