//! The parts no backup can do without: what each cost, and which of them a command consists of.

use crate::support::median::median_cost;
use crate::support::process::Cost;

/// The costs of the parts, and the bytes they were spent on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// Bytes of the database.
    pub database_bytes: u64,
    /// Bytes of all attachments.
    pub attachments_bytes: u64,
    /// Bytes after compression.
    pub stored_bytes: u64,
    /// Bytes that were decompressed, before it.
    pub frame_bytes: u64,
    /// Reading the archive's files.
    pub read: Cost,
    /// SHA-256 of each page of the database.
    pub hash_pages: Cost,
    /// SHA-256 of the database's blobs.
    pub hash_database: Cost,
    /// SHA-256 of the attachments.
    pub hash_attachments: Cost,
    /// Compression of every blob.
    pub compress: Cost,
    /// Writing packs.
    pub write_stored: Cost,
    /// Reading packs.
    pub read_stored: Cost,
    /// Decompression of every blob.
    pub decompress: Cost,
    /// Writing the archive's files.
    pub write_raw: Cost,
    /// SQLite's own check of the database.
    pub check: Cost,
}

impl Parts {
    /// Returns what a first snapshot needs.
    pub fn create(&self) -> Cost {
        self.read
            + self.hash_pages
            + self.hash_database
            + self.hash_attachments
            + self.compress
            + self.write_stored
    }

    /// Returns what a snapshot of an unchanged archive needs.
    pub fn unchanged(&self) -> Cost {
        self.read + self.hash_pages + self.hash_attachments
    }

    /// Returns what a verification needs.
    pub fn verify(&self) -> Cost {
        self.read_stored + self.decompress + self.hash_database + self.hash_attachments + self.hash_pages
    }

    /// Returns what a restore needs.
    pub fn restore(&self) -> Cost {
        self.verify() + self.write_raw
    }

    /// Returns what a restore with the database's own check needs.
    pub fn restore_checked(&self) -> Cost {
        self.restore() + self.check
    }

    /// Returns the median of each cost; there must be a round.
    pub fn median(rounds: &[Self]) -> Self {
        let cost = |part: fn(&Self) -> Cost| median_cost(rounds.iter().map(part));
        Self {
            read: cost(|parts| parts.read),
            hash_pages: cost(|parts| parts.hash_pages),
            hash_database: cost(|parts| parts.hash_database),
            hash_attachments: cost(|parts| parts.hash_attachments),
            compress: cost(|parts| parts.compress),
            write_stored: cost(|parts| parts.write_stored),
            read_stored: cost(|parts| parts.read_stored),
            decompress: cost(|parts| parts.decompress),
            write_raw: cost(|parts| parts.write_raw),
            check: cost(|parts| parts.check),
            ..rounds[0]
        }
    }
}
