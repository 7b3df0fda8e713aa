//! msgvault's configuration file. Input: the file.

use std::path::{Path, PathBuf};

use packvault::profiles::msgvault::config::{MsgvaultConfig, Secret};

use super::input::valid_text;

/// Reads the configuration.
pub fn run(data: &[u8]) {
    let home = Path::new("/srv/msgvault");
    let config = match MsgvaultConfig::parse(valid_text(data)) {
        Ok(config) => config,
        Err(error) => {
            // No value is quoted: only sections, keys and line numbers.
            assert!(error.chain().len() < 200, "{}", error.chain());
            return;
        }
    };
    let expand = |text: &str| Ok(PathBuf::from(text.replacen('~', "/home/ann", 1)));
    let _ = config.locations(home, &expand);
    let _ = config.repository(home, &expand);
    assert!(config.backup_zstd_level.is_none_or(|level| (1..=19).contains(&level)));
    let secrets = [&config.server_api_key, &config.database_url].into_iter().flatten();
    for secret in secrets.map(Secret::expose).filter(|secret| secret.len() > 16) {
        let shown = format!("{:?}", MsgvaultConfig { data_dir: None, backup_repo: None, ..config.clone() });
        assert!(!shown.contains(secret));
    }
}
