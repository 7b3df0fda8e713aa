//! msgvault's configuration file. Input: the file.

use std::path::Path;

use packvault::profiles::msgvault::config::{MsgvaultConfig, Secret};

use super::input::valid_text;

/// Reads the configuration.
pub fn run(data: &[u8]) {
    let (home, user_home) = (Path::new("/srv/msgvault"), Path::new("/home/ann"));
    let config = match MsgvaultConfig::parse(valid_text(data)) {
        Ok(config) => config,
        Err(error) => {
            // No value is quoted: only sections, keys and line numbers.
            assert!(error.chain().len() < 200, "{}", error.chain());
            return;
        }
    };
    for user_home in [None, Some(user_home)] {
        let _ = config.locations(home, user_home);
        let _ = config.repository(home, user_home);
    }
    assert!(config.backup_zstd_level.is_none_or(|level| (1..=19).contains(&level)));
    let secrets = [&config.server_api_key, &config.database_url].into_iter().flatten();
    for secret in secrets.map(Secret::expose).filter(|secret| secret.len() > 16) {
        let shown = format!("{:?}", MsgvaultConfig { data_dir: None, backup_repo: None, ..config.clone() });
        assert!(!shown.contains(secret));
    }
}
