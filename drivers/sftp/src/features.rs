//! What a server keeps of what it could promise, as a probe found it.

use packvault_storage::Guarantees;
use serde::{Deserialize, Serialize};

/// What was found out about a server. Nothing is believed that was not seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SftpFeatures {
    /// `hardlink@openssh.com` works and refuses a taken name.
    pub hard_link: bool,
    /// `posix-rename@openssh.com` replaces what lies under the new name.
    pub posix_rename: bool,
    /// The protocol's own rename refuses a taken name, if not always in one step.
    pub rename_refuses: bool,
    /// Of several that open one new name exclusively, one succeeds.
    pub exclusive_open: bool,
    /// Of several that make one folder, one succeeds.
    pub exclusive_folder: bool,
    /// `fsync@openssh.com` works on files.
    pub sync_file: bool,
    /// `fsync@openssh.com` works on opened folders.
    pub sync_folder: bool,
}

/// How a new object gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publishing {
    /// By a hard link, which the server refuses if the name is taken.
    Link,
    /// By a rename, under a claim that one writer at a time can hold.
    Claim,
    /// By a look and a rename; of several that meet, the last one stays.
    Look,
}

impl SftpFeatures {
    pub(crate) fn publishing(&self) -> Publishing {
        if self.hard_link {
            Publishing::Link
        } else if self.exclusive_folder && self.exclusive_open && self.rename_refuses {
            Publishing::Claim
        } else {
            Publishing::Look
        }
    }

    /// Tells whether an object can be moved with one winner, to a name that must be absent.
    pub(crate) fn can_move(&self) -> bool {
        self.hard_link && self.posix_rename
    }

    /// Returns what a storage on such a server promises.
    pub fn guarantees(&self) -> Guarantees {
        let create_only = self.publishing() != Publishing::Look;
        Guarantees {
            create_only,
            create_only_streamed: create_only,
            rename: self.can_move(),
            sync: self.sync_file && self.sync_folder,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_promised_of_a_server_nothing_is_known_of() {
        let nothing = SftpFeatures::default().guarantees();
        assert!(!nothing.create_only && !nothing.create_only_streamed && !nothing.rename && !nothing.sync);
    }

    #[test]
    fn a_server_without_extensions_can_be_create_only_but_not_rename() {
        let plain = SftpFeatures {
            exclusive_open: true,
            exclusive_folder: true,
            rename_refuses: true,
            ..SftpFeatures::default()
        };
        assert_eq!(plain.publishing(), Publishing::Claim);
        assert!(plain.guarantees().create_only && !plain.guarantees().rename && !plain.guarantees().sync);
    }
}
