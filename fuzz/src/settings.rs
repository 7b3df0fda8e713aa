//! packvault's own configuration file, and sizes. Input: the file.
//!
//! The program's files are taken in as they are: the library does not know them.

#![allow(dead_code, unused_imports, reason = "the program uses the rest")]

use std::path::Path;
use std::sync::LazyLock;

use tempfile::TempDir;

#[path = "../../src/cli/application.rs"]
mod application;
#[path = "../../src/cli/awaited.rs"]
mod awaited;
#[path = "../../src/cli/guard.rs"]
mod guard;
#[path = "../../src/cli/hooks.rs"]
mod hooks;
#[path = "../../src/cli/keep.rs"]
mod keep;
#[path = "../../src/cli/ping.rs"]
mod ping;
#[path = "../../src/cli/settings/mod.rs"]
mod program;
#[path = "../../src/cli/sample.rs"]
mod sample;
#[path = "../../src/cli/text.rs"]
mod text;

use super::input::valid_text;

static FOLDER: LazyLock<TempDir> = LazyLock::new(super::scratch::folder);

/// Reads a configuration and asks it everything.
pub fn run(data: &[u8]) {
    check_texts(valid_text(data));
    let file = FOLDER.path().join("packvault.toml");
    std::fs::write(&file, data).expect("the scratch folder can be written");
    let environment = program::Environment {
        home: Some(FOLDER.path().join("home")),
        config_file: Some(file),
        ..program::Environment::default()
    };
    let settings = program::Settings::load(environment);
    let archive = settings.archive(Some(Path::new("mail"))).ok();
    let _ = settings.repository(None, archive.as_ref());
    let _ = settings.repository(Some("nas"), archive.as_ref());
    let _ = (settings.known_homes(), settings.spool());
    if let Some(archive) = &archive {
        let _ = (
            archive.hooks("mail".to_owned()),
            archive.check_source(),
            archive.max_wal_growth(),
            archive.paths(),
        );
    }
}

fn check_texts(text: &str) {
    let _ = text.parse::<text::ByteSize>();
    let escaped = text::escape(text);
    assert!(!escaped.contains(['\x1b', '\n', '\r', '\u{202e}']));
    assert_eq!(text::escape(&escaped), escaped);
    let columns = text.len() % 40;
    assert!(text::width(&text::cut(&escaped, columns)) <= columns.max(1), "{text:?}");
    let _ = (text::minute(text), text::shell_word(text));
}
