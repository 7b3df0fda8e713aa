//! `packvault archive`: what there is to know of archives. So far: ready sections for the configuration.

use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::session::Session;

/// Show what helps to set an archive up
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault archive presets                    the sections of all applications
  packvault archive presets mealie             the section of one application

{}", super::exit_codes("")))]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print ready sections for the configuration
    #[command(after_long_help = format!("\
Examples:
  packvault archive presets mealie

{}", super::exit_codes("")))]
    Presets {
        /// The application; all of them by default
        name: Option<String>,
    },
}

/// A section for one application.
struct Preset {
    name: &'static str,
    title: &'static str,
    /// The page that the paths are from.
    source: &'static str,
    /// The version of the application that it was tried with, if it was.
    tried: Option<&'static str>,
    section: &'static str,
}

/// Applications that keep their data in another kind of database.
const NONE: [(&str, &str); 1] = [(
    "immich",
    "there is no preset for Immich: it keeps its data in PostgreSQL, which packvault does not back up; use \
     `pg_dumpall`, or Immich's own database dumps",
)];

const PRESETS: [Preset; 6] = [
    Preset {
        name: "vaultwarden",
        title: "Vaultwarden",
        source: "https://github.com/dani-garcia/vaultwarden/wiki/Backing-up-your-vault",
        tried: None,
        section: r#"# The home is the folder above Vaultwarden's `data`: the repository format keeps the name
# `attachments` at the top of a snapshot for itself.
[archive.vaultwarden]
profile = "sqlite"
home = "/srv/vaultwarden"
database = "data/db.sqlite3"
files = ["data/attachments/**", "data/sends/**", "data/config.json", "data/rsa_key*"]
optional = ["data/attachments/**", "data/sends/**", "data/config.json"]
# These hold secrets, and the repository is not encrypted: keep it where only you can read it.
secrets = ["data/config.json", "data/rsa_key*"]
allow_plaintext_secrets = true
[archive.vaultwarden.stats]
users = "SELECT count(*) FROM users"
ciphers = "SELECT count(*) FROM ciphers"
"#,
    },
    Preset {
        name: "paperless-ngx",
        title: "Paperless-ngx with SQLite",
        source: "https://docs.paperless-ngx.com/administration/#backup",
        tried: None,
        section: r#"# `data` and `media` are the folders of PAPERLESS_DATA_DIR and PAPERLESS_MEDIA_ROOT. The search
# index is left out: `document_index reindex` makes it anew. `media` is not optional: an empty one
# is a disk that is not mounted.
[archive.paperless]
profile = "sqlite"
home = "/srv/paperless"
database = "data/db.sqlite3"
files = ["media/**", "data/**"]
exclude = ["data/index/**", "data/log/**"]
optional = ["data/**", "data/index/**", "data/log/**"]
[archive.paperless.stats]
documents = "SELECT count(*) FROM documents_document"
"#,
    },
    Preset {
        name: "home-assistant",
        title: "Home Assistant",
        source: "https://www.home-assistant.io/integrations/recorder/",
        tried: Some("2025.4.4"),
        section: r#"# The home is the configuration folder. `.storage` holds what was set up in the browser, tokens
# included; `*.db` are databases of integrations, such as zigbee.db.
[archive.home-assistant]
profile = "sqlite"
home = "/srv/homeassistant"
database = "home-assistant_v2.db"
files = ["*.yaml", ".HA_VERSION", ".storage/**", "*.db", "blueprints/**", "custom_components/**", "www/**"]
exclude = ["**/__pycache__/**"]
optional = [".HA_VERSION", "*.db", "blueprints/**", "custom_components/**", "www/**", "secrets.yaml"]
# These hold secrets, and the repository is not encrypted: keep it where only you can read it.
secrets = ["secrets.yaml", ".storage/**"]
allow_plaintext_secrets = true
[archive.home-assistant.stats]
states = "SELECT count(*) FROM states"
"#,
    },
    Preset {
        name: "mealie",
        title: "Mealie with SQLite",
        source: "https://docs.mealie.io/documentation/getting-started/installation/sqlite/",
        tried: None,
        section: r#"# The home is the folder that is `/app/data` in the container.
[archive.mealie]
profile = "sqlite"
home = "/srv/mealie"
database = "mealie.db"
files = ["recipes/**", "users/**", "groups/**", "templates/**", ".secret*"]
optional = ["recipes/**", "users/**", "groups/**", "templates/**", ".secret*"]
# These hold secrets, and the repository is not encrypted: keep it where only you can read it.
secrets = [".secret*"]
allow_plaintext_secrets = true
[archive.mealie.stats]
recipes = "SELECT count(*) FROM recipes"
"#,
    },
    Preset {
        name: "calibre-web",
        title: "Calibre-Web",
        source: "https://github.com/janeczku/calibre-web/wiki/Configuration",
        tried: Some("0.6.27"),
        section: r#"# The home holds two folders: `config` (CALIBRE_DBPATH, `/config` in containers) and `books`, the
# library of Calibre. `app.db` are the users and what was set up in the browser.
[archive.calibre-web]
profile = "sqlite"
home = "/srv/calibre-web"
database = "books/metadata.db"
files = ["books/**", "config/app.db", "config/gdrive.db", "config/.key", "config/client_secrets.json"]
optional = ["books/**", "config/gdrive.db", "config/.key", "config/client_secrets.json"]
# These hold secrets, and the repository is not encrypted: keep it where only you can read it.
secrets = ["config/.key", "config/client_secrets.json"]
allow_plaintext_secrets = true
[archive.calibre-web.stats]
books = "SELECT count(*) FROM books"
"#,
    },
    Preset {
        name: "actual",
        title: "Actual Budget, its server",
        source: "https://actualbudget.org/docs/config/",
        tried: Some("25.6.0"),
        section: r#"# The home is the folder of ACTUAL_DATA_DIR, `/data` in containers. Each budget is a database and a
# file in `user-files`.
[archive.actual]
profile = "sqlite"
home = "/srv/actual"
database = "server-files/account.sqlite"
files = ["user-files/**", ".migrate", "config.json"]
optional = ["user-files/**", ".migrate", "config.json"]
# This may hold secrets, and the repository is not encrypted: keep it where only you can read it.
secrets = ["config.json"]
allow_plaintext_secrets = true
[archive.actual.stats]
budgets = "SELECT count(*) FROM files"
"#,
    },
];

/// Prints the sections that were asked for.
pub fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let Command::Presets { name } = &arguments.command;
    let text = match name {
        None => all(),
        Some(name) => one(name)?,
    };
    session.print(&text)?;
    Ok(Exit::Done)
}

fn all() -> String {
    let mut text = String::new();
    for preset in &PRESETS {
        text.push_str(&preset.text());
        text.push('\n');
    }
    for (_, why) in NONE {
        text.push_str(&format!("# {why}\n"));
    }
    text
}

fn one(name: &str) -> Result<String> {
    let wanted = name.to_ascii_lowercase();
    if let Some(preset) = PRESETS.iter().find(|preset| preset.name == wanted) {
        return Ok(preset.text());
    }
    if let Some((_, why)) = NONE.iter().find(|(none, _)| *none == wanted) {
        return Err(Error::new(ErrorKind::Unsupported, *why));
    }
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    let message = format!("there is no preset {name:?}; there are {}", names.join(", "));
    Err(Error::new(ErrorKind::Usage, message))
}

impl Preset {
    fn text(&self) -> String {
        let Self { title, source, section, tried, .. } = self;
        let tried = match tried {
            Some(version) => format!("Tried with version {version}"),
            None => "Not tried with the application itself".to_owned(),
        };
        format!("# {title}. Paths from {source}\n# {tried}.\n{section}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immich_has_none_and_the_message_says_why() {
        assert!(one("Immich").unwrap_err().to_string().contains("PostgreSQL"));
        assert!(all().contains("PostgreSQL"));
    }

    #[test]
    fn an_unknown_name_gets_the_list() {
        assert!(one("x").unwrap_err().to_string().contains("vaultwarden, paperless-ngx"));
    }
}
