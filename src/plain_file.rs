//! A small file that some program keeps: read whole, if it is a plain file and no longer than expected.
//!
//! In its place may lie a pipe, which would be waited for, or a device, which never ends.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Reads the file.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !file.metadata()?.is_file() {
        return refused("it is no plain file");
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > bytes_max {
        true => refused("it is longer than any such file"),
        false => Ok(bytes),
    }
}

/// Reads the file as text.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    String::from_utf8(read(path, bytes_max)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_plain_file_or_too_long_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "four").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        assert_eq!(read_text(&path("file"), 4).unwrap(), "four");
        for (path, bytes_max) in
            [(path("file"), 3), (path("pipe"), 9), ("/dev/zero".into(), 9), (path(""), 9)]
        {
            assert!(read(&path, bytes_max).is_err(), "{}", path.display());
        }
        assert_eq!(read(&path("none"), 9).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
