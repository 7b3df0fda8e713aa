use std::collections::HashMap;
use std::path::{Path, PathBuf};

use packvault::{ErrorKind, Location};

use super::*;

/// A home folder of its own, with what the test writes into it.
struct Home {
    folder: tempfile::TempDir,
    environment: Environment,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let environment = Environment { home: Some(folder.path().to_path_buf()), ..Environment::default() };
        Self { folder, environment }
    }

    fn write(self, path: &str, text: &str) -> Self {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn config(self, text: &str) -> Self {
        self.write(".config/packvault/config.toml", text)
    }

    fn load(&self) -> Settings {
        Settings::load(self.environment.clone())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn local(&self, path: &str) -> Location {
        Location::Local(self.path(path))
    }
}

const CONFIG: &str = "
    default_repository = 'usb'
    [repository.nas]
    location = '/mnt/nas/backup'
    [repository.usb]
    location = '~/usb'
    [archive.mail]
    home = '~/mail'
    repository = 'nas'
    zstd_level = 7
    [archive.chats]
    profile = 'msgvault'
    home = '/srv/chats'
";

fn local(path: &str) -> Location {
    Location::Local(PathBuf::from(path))
}

#[test]
fn without_any_file_the_environment_decides() {
    let mut home = Home::new();
    assert!(home.load().repository(None, None).unwrap_err().to_string().starts_with("no repository given"));
    home.environment.repository = Some("~/backup".into());
    // What is typed is the shell's business: no tilde is expanded here, and none makes a folder.
    let error = home.load().repository(None, None).unwrap_err().to_string();
    let meant = format!(
        "PACKVAULT_REPO: a `~` stands for no folder here: did you mean {}?",
        home.path("backup").display()
    );
    assert_eq!(error, meant);
}

#[test]
fn the_repository_is_decided_from_the_flag_downwards() {
    let mut home = Home::new().config(CONFIG).write("mail/config.toml", "[backup]\nrepo = 'own'");
    let settings = home.load();
    let mail = settings.archive(Some(Path::new("mail"))).unwrap();
    let chats = settings.archive(Some(Path::new("chats"))).unwrap();
    assert_eq!(settings.repository(Some("./usb"), Some(&mail)).unwrap().location, local("./usb"));
    assert_eq!(settings.repository(Some("usb"), Some(&mail)).unwrap().location, home.local("usb"));
    assert_eq!(settings.repository(None, Some(&mail)).unwrap().location, local("/mnt/nas/backup"));
    assert_eq!(settings.repository(None, Some(&chats)).unwrap().location, home.local("usb"));
    assert_eq!(settings.repository(None, None).unwrap().location, home.local("usb"));
    home.environment.repository = Some("/elsewhere".into());
    assert_eq!(home.load().repository(None, Some(&mail)).unwrap().location, local("/elsewhere"));
    assert_eq!(home.load().repository(Some("nas"), Some(&mail)).unwrap().location, local("/mnt/nas/backup"));
}

#[test]
fn msgvaults_own_repository_is_the_last_resort() {
    let mut home = Home::new().write(".msgvault/config.toml", "[backup]\nrepo = '~/own'");
    assert_eq!(home.load().repository(None, None).unwrap().location, home.local("own"));
    let archive = home.load().archive(None).unwrap();
    assert_eq!(home.load().repository(None, Some(&archive)).unwrap().location, home.local("own"));
    home = home.write("other/config.toml", "[backup]\nrepo = 'beside'");
    home.environment.msgvault_home = Some("~/other".into());
    assert_eq!(home.load().repository(None, None).unwrap().location, home.local("other/beside"));
}

#[test]
fn an_archive_is_a_name_or_a_folder_or_msgvaults_home() {
    let home = Home::new().config(CONFIG).write("mail/config.toml", "[data]\ndata_dir = 'data'");
    let settings = home.load();
    let named = settings.archive(Some(Path::new("mail"))).unwrap();
    assert_eq!(named.home, home.path("mail"));
    assert_eq!(named.paths().database, home.path("mail/data/msgvault.db"));
    assert_eq!(settings.archive(Some(&home.path("mail"))).unwrap().paths(), named.paths());
    assert_eq!(settings.archive(None).unwrap().home, home.path(".msgvault"));
    let error = settings.archive(Some(Path::new("mial"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let copy =
        home.write("copy/config.toml", "[data]\ndata_dir = '/elsewhere'").write("copy/msgvault.db", "");
    let found = settings.archive(Some(&copy.path("copy"))).unwrap().paths();
    assert_eq!((found.home, found.database), (copy.path("copy"), copy.path("copy/msgvault.db")));
    let home = copy;
    assert!(settings.known_homes().contains(&home.path("mail/data").into()));
}

#[test]
fn the_zstd_level_is_decided_from_the_flag_downwards() {
    let home = Home::new()
        .config(CONFIG)
        .write("mail/config.toml", "[backup]\nzstd_level = 9")
        .write("own/config.toml", "[backup]\nzstd_level = 9")
        .write("zero/config.toml", "[backup]\nzstd_level = 0")
        .write("none/config.toml", "");
    let settings = home.load();
    let level = |flag, archive: &Path| Settings::zstd_level(flag, &settings.archive(Some(archive)).unwrap());
    assert_eq!(level(Some(1), Path::new("mail")), 1);
    assert_eq!(level(None, Path::new("mail")), 7);
    assert_eq!(level(None, &home.path("own")), 9);
    assert_eq!(level(None, &home.path("zero")), 3);
    assert_eq!(level(None, &home.path("none")), 3);
}

#[test]
fn an_unknown_key_is_refused_with_its_file_and_line() {
    for (text, line, key) in [
        ("defualt_repository = 'x'", "line 1", "`defualt_repository`"),
        ("[repository.nas]\nlocation = '/x'\nuser = 'ann'", "line 3", "`user`"),
        ("[archive.mail]\nhome = '/x'\nzstd = 3", "line 3", "`zstd`"),
        (
            "[archive.mail]\nhome = '/x'\nprofile = 'other'",
            "line 3",
            "`profile` cannot be used here, expected `msgvault` or `sqlite`",
        ),
        ("[archive.mail]", "line 1", "`home`"),
    ] {
        let home = Home::new().config(text);
        let error = home.load().repository(Some("nas-of-ann"), None).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert_eq!(home.load().problem(), Some(message.as_str()));
        let parts = [".config/packvault/config.toml, ", line, key];
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn a_zstd_level_out_of_range_is_refused_by_name() {
    let home = Home::new().config("[archive.mail]\nhome = '/x'\nzstd_level = 20");
    let settings = home.load();
    let problem = settings.problem().unwrap();
    assert!(problem.ends_with("archive.mail.zstd_level is not a number from 1 to 19"), "{problem}");
    let error = settings.archive(Some(Path::new("mail"))).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Usage, problem));
    assert!(settings.known_homes().contains(&PathBuf::from("/x").into()), "it is kept out of all the same");
}

#[test]
fn a_relative_path_in_the_file_is_refused() {
    let home = Home::new().config("default_repository = 'naz'\n[repository.nas]\nlocation = '/x'");
    let error = home.load().repository(None, None).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("config.toml: default_repository: no repository is called naz; did you mean nas?"),
        "{said}"
    );
}

#[test]
fn a_configuration_file_that_was_named_must_exist() {
    let mut home = Home::new();
    home.environment.config_file = Some(home.path("missing.toml"));
    let problem = home.load().problem().unwrap().to_owned();
    assert!(problem.contains("missing.toml"), "{problem}");
    assert_eq!(home.load().repository(None, None).unwrap_err().to_string(), problem);
    let home = Home {
        environment: Environment { config_file: Some("/dev/null".into()), ..home.environment },
        ..home
    };
    assert!(home.load().repository(None, None).is_err());
    assert_eq!(home.load().problem(), None);
    let environment = Environment { config_file: Some("/dev/zero".into()), ..home.environment };
    let home = Home { environment, ..home };
    assert!(home.load().problem().is_some_and(|problem| problem.contains("/dev/zero")));
}

#[test]
fn the_configuration_lies_in_the_xdg_folder_when_there_is_one() {
    let mut home = Home::new().write("xdg/packvault/config.toml", CONFIG);
    home.environment.config_home = Some(home.path("xdg"));
    assert_eq!(home.load().repository(None, None).unwrap().location, home.local("usb"));
}

#[test]
fn what_is_in_the_environment_is_not_shown_where_it_may_be_secret() {
    let secret = |name: &str| HashMap::from([(name.to_owned(), "hunter2".to_owned())]);
    let environment = Environment {
        aws: secret("AWS_SECRET_ACCESS_KEY"),
        clouds: secret("AZURE_STORAGE_ACCOUNT_KEY"),
        repository: Some("sftp://ann:hunter2@nas/backup".into()),
        ..Environment::default()
    };
    let shown = format!("{environment:?}");
    assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hunter2"), "{shown}");
}
