//! How unfinished objects are named in file systems: as the format says, so that every program that sweeps
//! a repository knows what it sees (format document, section 1.3).
//!
//! A folder on this machine and one behind SFTP may be the same folder, so both drivers name alike.

use crate::Key;

/// The longest beginning of a staging name, in bytes: with its digits it fits every file system.
const NAME_BYTES_MAX: usize = 200;

/// Returns `<ulid>.staging` for `packs/<pp>/<ulid>.<extension>`, and nothing for any other key.
pub fn pack_staging_name(key: &Key) -> Option<String> {
    let parts: Vec<_> = key.parts().collect();
    let ["packs", _, name] = parts[..] else { return None };
    let (stem, _) = name.rsplit_once('.')?;
    (!stem.is_empty() && stem.len() <= NAME_BYTES_MAX).then(|| format!("{stem}.staging"))
}

/// Returns the name with random digits behind it.
pub fn numbered(name: &str) -> String {
    let kept = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
    format!("{kept}.{}", fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_names_follow_the_format() {
        let key = |text| Key::parse(text).unwrap();
        assert_eq!(pack_staging_name(&key("packs/01/01kw.mvpack")).unwrap(), "01kw.staging");
        for other in ["config.toml", "packs/01kw.mvpack", "packs/01/01kw", "indexes/01/01kw.mvidx"] {
            assert_eq!(pack_staging_name(&key(other)), None, "{other}");
        }
        let name = numbered("config.toml");
        let digits = name.strip_prefix("config.toml.").unwrap();
        assert!(!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
        assert!(numbered(&"ü".repeat(200)).len() < 255);
    }
}
