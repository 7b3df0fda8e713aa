//! Secrets by reference: the configuration says where a secret is, never what it is.

use std::path::Path;
use std::process::{Command, Stdio};

use packvault::{Cancel, Error, ErrorKind, Result};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::awaited;
use super::home::expand_home;
use super::repository::{IS_RELATIVE, is_relative, is_relative_program};

/// The longest secret; the token of temporary keys may have some kilobytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Where a secret is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSource {
    env: Option<String>,
    file: Option<String>,
    command: Option<Vec<String>>,
}

impl SecretSource {
    /// Returns why the reference cannot be meant, if so.
    pub fn refusal(&self) -> Option<&'static str> {
        let ways = [self.env.is_some(), self.file.is_some(), self.command.is_some()];
        if ways.iter().filter(|is_there| **is_there).count() != 1 {
            return Some("is one of { env = \"NAME\" }, { file = \"PATH\" } and { command = [\"PROGRAM\"] }");
        }
        match (&self.file, self.command.as_deref()) {
            (Some(file), _) if is_relative(file) => Some(IS_RELATIVE),
            (_, Some([])) => Some("names no program"),
            (_, Some([program, ..])) if is_relative_program(program) => Some(IS_RELATIVE),
            _ => None,
        }
    }

    /// Fetches the secret; `what` names it in errors, which never hold any of it.
    pub fn fetch(&self, what: &str, home: Option<&Path>, cancel: &Cancel) -> Result<Zeroizing<String>> {
        if let Some(name) = &self.env {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            let missing = || match is_variable(name) {
                true => usage(format!("{what}: the environment variable {name} is not set")),
                // It may be the secret itself, put where its name belongs.
                false => {
                    usage(format!("{what}: `env` takes the name of an environment variable that is set"))
                }
            };
            text(what, &Zeroizing::new(value.ok_or_else(missing)?.into_encoded_bytes()))
        } else if let Some(file) = &self.file {
            from_file(what, &expand_home(file, home)?, cancel)
        } else {
            from_command(what, self.command.as_deref().unwrap_or_default(), cancel)
        }
    }
}

/// Fetches a secret from a file; `what` names it in errors.
pub fn from_file(what: &str, path: &Path, cancel: &Cancel) -> Result<Zeroizing<String>> {
    let failed =
        |error| Error::caused(ErrorKind::Usage, format!("{what}: cannot read {}", path.display()), error);
    text(what, &awaited::read(path, SECRET_BYTES_MAX, cancel, failed)?)
}

/// Fetches a secret from what a program prints; `what` names it in errors.
pub fn from_command(what: &str, words: &[String], cancel: &Cancel) -> Result<Zeroizing<String>> {
    text(what, &run(what, words, cancel)?)
}

/// Returns the secret that the bytes are.
fn text(what: &str, bytes: &[u8]) -> Result<Zeroizing<String>> {
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(usage(format!("{what} is longer than any key")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| usage(format!("{what} is not UTF-8")))?;
    // An editor or a program ends the line.
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() || secret.chars().any(char::is_control) {
        return Err(usage(format!("{what} is empty or not one line of text")));
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

/// Tells whether the text is what variables are called: capitals, digits and underscores.
fn is_variable(name: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_') && name.chars().all(is_legal)
}

fn run(what: &str, words: &[String], cancel: &Cancel) -> Result<Zeroizing<Vec<u8>>> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| usage(format!("{what} names no program")))?;
    // The secret itself may stand where the program belongs, so no word of the command is shown.
    let failed = |error| {
        Error::caused(ErrorKind::Usage, format!("{what}: cannot run the program of `command`"), error)
    };
    // It may ask its user something: standard input and standard error are the terminal's, and so is its process group.
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let output = child
        .stdout
        .take()
        .ok_or_else(|| usage(format!("{what}: the program of `command` has no output")))?;
    let read = move || awaited::read_bounded(output, SECRET_BYTES_MAX);
    let bytes = awaited::unless_stopped(cancel, read);
    let ended = bytes.and_then(|bytes| Ok((bytes, awaited::status(&mut child, cancel)?)));
    let (bytes, status) = ended.inspect_err(|_| awaited::end(&mut child))?;
    let status = status.map_err(failed)?;
    if !status.success() {
        return Err(usage(format!("{what}: the program of `command` ended with {status}")));
    }
    bytes.map_err(|error| Error::caused(ErrorKind::Usage, format!("{what} cannot be read"), error))
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> SecretSource {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_secret_comes_from_a_file_or_a_program_without_its_line_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hush\r\n").unwrap();
        let from_file = source(&format!("file = '{}'", file.path().display()));
        assert_eq!(from_file.fetch("the key", None, &Cancel::new()).unwrap().as_str(), "hush");
        assert_eq!(
            source("command = ['printf', 'hush']").fetch("the key", None, &Cancel::new()).unwrap().as_str(),
            "hush"
        );
    }

    #[test]
    fn what_cannot_be_a_secret_is_refused_and_not_repeated() {
        for text in [
            "command = ['printf', 'hush\\nhush']",
            "command = ['printf', '\\n']",
            "command = ['sh', '-c', 'echo hush; exit 3']",
            "command = ['/nowhere/at/all']",
            "command = ['head', '-c', '70000', '/dev/zero']",
            "command = ['hush']",
            "command = ['echo hush | cat']",
            "env = 'hush'",
            "env = 'hush hush'",
            "file = '/nowhere/at/all'",
            "env = 'PACKVAULT_TEST_NOBODY_SETS_THIS'",
        ] {
            let error = source(text).fetch("the key", None, &Cancel::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
            assert!(error.to_string().starts_with("the key") && !error.chain().contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_program_that_hangs_is_ended_when_the_user_says_so_also_once_it_has_answered() {
        for script in ["sleep 600", "echo hush; exec >&-; sleep 600"] {
            let cancel = Cancel::new();
            let own = cancel.clone();
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(100));
                own.cancel();
            });
            let hanging = source(&format!("command = ['sh', '-c', '{script}']"));
            assert_eq!(hanging.fetch("the key", None, &cancel).unwrap_err().kind(), ErrorKind::Interrupted);
        }
    }

    #[test]
    fn a_reference_names_one_place() {
        for text in ["", "env = 'A'\nfile = 'b'", "command = []"] {
            assert!(source(text).refusal().is_some(), "{text}");
        }
        assert!(source("env = 'A'").refusal().is_none());
        assert!(toml::from_str::<SecretSource>("value = 'hush'").is_err());
    }
}
