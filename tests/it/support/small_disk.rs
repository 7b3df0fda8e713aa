//! A file system of a few hundred KiB, to be filled: real ones say "full" in more places than a stand-in. And one
//! that can make a copy of a file without copying it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::{NamedTempFile, TempDir};

/// The name by which `PACKVAULT_REQUIRE` demands these tests.
const NAME: &str = "small-disks";

/// The same for those of a file system that shares blocks between files.
const SHARING: &str = "sharing-disks";
/// The smallest that XFS may be; nearly all of it is a hole.
const SHARING_BYTES: u64 = 320 * 1024 * 1024;

/// A mounted file system, taken away with this value.
pub struct SmallDisk {
    folder: TempDir,
    /// What it lies in, if that is no memory.
    _image: Option<NamedTempFile>,
}

impl SmallDisk {
    /// Mounts one with these options (`size=512k`). Where that is not possible, says aloud that the test does
    /// not run, or fails it if it is demanded.
    pub fn mount(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(folder.path());
        // Nobody but root may mount, and not every container lets root.
        let is_root = rustix::process::geteuid().is_root();
        if is_root && mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self { folder, _image: None });
        }
        Self::not_run(NAME, "no file system can be mounted; run the tests as root")
    }

    /// Mounts one that can share the blocks of two files.
    pub fn mount_sharing() -> Option<Self> {
        let (folder, image) = (tempfile::tempdir().unwrap(), NamedTempFile::new().unwrap());
        image.as_file().set_len(SHARING_BYTES).unwrap();
        let done = |program: &str, arguments: &[&str], path: &Path| {
            let mut command = Command::new(program);
            command.args(arguments).arg(image.path()).args((program == "mount").then_some(path));
            command.output().is_ok_and(|output| output.status.success())
        };
        let is_root = rustix::process::geteuid().is_root();
        let made = is_root && done("mkfs.xfs", &["-q", "-m", "reflink=1"], folder.path());
        if made && done("mount", &["-t", "xfs", "-o", "loop"], folder.path()) {
            return Some(Self { folder, _image: Some(image) });
        }
        Self::not_run(SHARING, "no XFS can be made and mounted; install xfsprogs and run the tests as root")
    }

    fn not_run(name: &str, why: &str) -> Option<Self> {
        let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
        let text = format!("{name}: {why}");
        assert!(!required.split(',').any(|one| one.trim() == name), "PACKVAULT_REQUIRE demands {text}");
        // Straight to the terminal: the test runner keeps what a passing test prints to itself.
        let notice = format!("NOT RUN, {text}\n");
        let _ = rustix::io::write(rustix::stdio::stderr(), notice.as_bytes());
        None
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.folder.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Fills the disk until so many bytes are left, in a file that [`SmallDisk::make_room`] removes.
    pub fn leave_bytes(&self, bytes: u64) {
        let mut ballast = fs::File::create(self.ballast()).unwrap();
        let piece = [1; 4096];
        while self.free_bytes() > bytes && ballast.write_all(&piece).is_ok() {}
    }

    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.path("ballast")
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a file that is still open must not keep it mounted for ever.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}
