//! Folders for bytes that a command keeps on a disk while it runs.

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Where temporary files may be made when the environment says nothing, or names a folder of no use.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Returns the folders for temporary files, the best first.
pub fn temporary() -> Vec<PathBuf> {
    // An empty variable, or a relative one, would mean whatever folder the command is run from.
    let named = Some(std::env::temp_dir()).filter(|folder| folder.is_absolute());
    named.into_iter().chain(TEMPORARY.map(PathBuf::from)).collect()
}

/// Returns the first folder in which files can be made; if there is none the first of all, so that the error
/// names what the user knows.
pub fn first_usable(preferred: Option<PathBuf>, others: Vec<PathBuf>) -> PathBuf {
    let mut all = preferred.into_iter().chain(others).peekable();
    let first = all.peek().cloned().unwrap_or_else(|| PathBuf::from(TEMPORARY[0]));
    all.find(|folder| is_usable(folder)).unwrap_or(first)
}

/// Tells whether files can be made in a folder, or the folder itself where it is missing. Makes nothing.
fn is_usable(folder: &Path) -> bool {
    let there = folder.ancestors().find(|part| part.symlink_metadata().is_ok());
    there.is_some_and(|there| there.is_dir() && access(there, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_no_use_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let gone = folder.path().join("gone");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &gone).unwrap();
        let good = folder.path().join("deep/cache");
        for bad in [file.clone(), file.join("deeper"), gone.join("cache")] {
            let found = first_usable(Some(bad.clone()), vec![good.clone()]);
            assert_eq!(found, good, "{bad:?}");
        }
        assert_eq!(first_usable(Some(good.clone()), vec!["/tmp".into()]), good);
        assert!(!good.exists(), "nothing was made");
        assert_eq!(first_usable(Some(file.clone()), vec![file.join("other")]), file);
        assert!(temporary().iter().all(|folder| folder.is_absolute()));
    }
}
