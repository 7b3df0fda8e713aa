//! The size of a database, in pages.

use std::fmt;

/// How large the pages of a SQLite database are, and how many it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// In bytes.
    pub page_size: u32,
    /// The first page is page 1.
    pub page_count: u64,
}

impl Geometry {
    /// The length of the database's file; `None` if no file can be so long.
    #[must_use]
    pub fn bytes(self) -> Option<u64> {
        self.page_count.checked_mul(u64::from(self.page_size))
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} pages of {} bytes", self.page_count, self.page_size)
    }
}
