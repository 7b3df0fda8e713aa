//! The folder on which snapshots are mounted: empty, on this machine, apart from the repository; and whether this machine
//! can mount at all. All is looked at before the repository is locked.

use std::fs::{DirEntry, Metadata};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::archive::target::apart::{self, Meeting};
use crate::{Error, ErrorKind, Result};

/// The device through which programs serve files.
const DEVICE: &str = "/dev/fuse";

/// Returns the folder without links, if it may be mounted on. `repository` is the folder of the repository, if it is one
/// of this machine; `spool` is where this program keeps files meanwhile.
pub fn expect_usable(folder: &Path, repository: Option<&Path>, spool: &Path) -> Result<PathBuf> {
    let shown = folder.display();
    let usage = |why: String| Error::new(ErrorKind::Usage, format!("cannot mount on {shown}: {why}"));
    let found = std::fs::metadata(folder).map_err(|error| unusable(folder, error))?;
    if !Metadata::is_dir(&found) {
        return Err(usage("it is no folder".to_owned()));
    }
    let own = std::fs::canonicalize(folder).map_err(|error| unusable(folder, error))?;
    let first = std::fs::read_dir(&own).and_then(|mut names| names.next().transpose());
    if let Some(first) = first.map_err(|error| unusable(folder, error))? {
        let name = DirEntry::file_name(&first);
        let message = format!(
            "cannot mount on {shown}: it is not empty ({}), and what is in it would be out of sight",
            name.to_string_lossy()
        );
        return Err(Error::new(ErrorKind::Refused, message));
    }
    match apart::meeting(&own, repository)? {
        None => {}
        Some(Meeting::Repository(around)) => {
            return Err(usage(format!("it lies in the repository {}", around.display())));
        }
        Some(Meeting::Own(why)) => return Err(usage(why)),
    }
    // Files that are opened there would be asked of ourselves.
    if std::fs::canonicalize(spool).is_ok_and(|spool| spool.starts_with(&own)) {
        return Err(usage("the spool lies there; --spool names another folder".to_owned()));
    }
    Ok(own)
}

/// Says why a folder cannot be used; also what a mount looks like whose program was killed.
fn unusable(folder: &Path, error: std::io::Error) -> Error {
    let shown = folder.display();
    if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) {
        let message = format!(
            "cannot mount on {shown}: it is what a mount left whose program was killed; `fusermount3 -u {shown}` \
             removes it"
        );
        return Error::new(ErrorKind::Refused, message);
    }
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
        _ => ErrorKind::Io,
    };
    Error::caused(kind, format!("cannot mount on {shown}"), error)
}

/// Fails where this machine does not let programs serve files.
pub fn expect_device() -> Result<()> {
    match open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(error @ (Errno::NOENT | Errno::NODEV | Errno::NXIO)) => Err(cannot(
            "this machine has no /dev/fuse: load the module (`modprobe fuse`), or start the container with `--device \
             /dev/fuse --cap-add SYS_ADMIN`",
            error.into(),
        )),
        Err(error @ (Errno::ACCESS | Errno::PERM)) => Err(cannot(
            "/dev/fuse may not be opened here: have root permit it, or run this as root",
            error.into(),
        )),
        Err(error) => Err(cannot("/dev/fuse cannot be opened", error.into())),
    }
}

/// Says why the kernel, or the program that asks it for users, has not mounted.
pub fn not_mounted(folder: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            cannot("fusermount3 is needed where root does not mount: install the package fuse3", error)
        }
        // What fusermount3 says has an end of line.
        _ => {
            let said = error.to_string();
            let message = format!("cannot mount on {}: {}", folder.display(), said.trim());
            Error::new(ErrorKind::Refused, message)
        }
    }
}

fn cannot(why: &str, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Unsupported, format!("cannot mount: {why}"), error)
}
