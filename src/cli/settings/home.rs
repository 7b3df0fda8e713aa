//! The user's home folder, for which `~` stands in settings.

use std::path::{Path, PathBuf};

use packvault::{Error, ErrorKind, Result};

/// Replaces a leading `~` or `~/` by the user's home folder.
pub fn expand_home(text: &str, user_home: Option<&Path>) -> Result<PathBuf> {
    let Some(rest) = text.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return Ok(PathBuf::from(text));
    };
    let message = || format!("cannot expand {text}: the home folder is not known");
    let user_home = user_home.ok_or_else(|| Error::new(ErrorKind::Usage, message()))?;
    Ok(user_home.join(rest.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_without_a_home_folder_is_an_error() {
        let error = expand_home("~/mail", None).unwrap_err();
        assert_eq!(error.to_string(), "cannot expand ~/mail: the home folder is not known");
        assert_eq!(expand_home("~ann/mail", None).unwrap(), Path::new("~ann/mail"));
        assert_eq!(expand_home("~", Some(Path::new("/home/ann"))).unwrap(), Path::new("/home/ann"));
    }
}
