//! The danger: a user believes in a backup that is not there. What he wrote was a place on another machine, or a
//! name from the configuration, and packvault took it for the name of a folder on the disk that the backup is
//! to survive. And: the password in a refused location stands in the message, and so in the mail of the
//! nightly job.

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::support::{Scratch, stderr};

/// A folder with an archive of an application; `nas` and `attic` are configured.
fn scene() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("app")).unwrap();
    // The ledger of this machine lies apart from what is looked at.
    fs::create_dir(scratch.path("state")).unwrap();
    let database = rusqlite::Connection::open(scratch.path("app/app.db")).unwrap();
    database.execute_batch("CREATE TABLE things (name TEXT); INSERT INTO things VALUES ('x');").unwrap();
    let config = format!(
        "[repository.nas]\nlocation = '{0}/nas'\n[repository.attic]\nlocation = '{0}/attic'\n",
        scratch.path("").display()
    );
    fs::write(scratch.path("config.toml"), config).unwrap();
    scratch
}

fn run(scratch: &Scratch, arguments: &[&str]) -> Output {
    let mut command = scratch.packvault(arguments);
    command.env("PACKVAULT_CONFIG", scratch.path("config.toml")).env("XDG_STATE_HOME", scratch.path("state"));
    command.output().unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_location_of_another_tool_makes_no_folder_and_is_answered_with_what_is_meant() {
    let scratch = scene();
    let before = entries(&scratch.path(""));
    for (text, meant) in [
        ("ann@nas:/volume1/mail", "did you mean sftp://ann@nas/volume1/mail?"),
        ("nas:/volume1/mail", "did you mean sftp://nas/volume1/mail?"),
        ("sftp:ann@nas:/mail", "did you mean sftp://ann@nas/mail?"),
        ("ssh://ann@nas/mail", "did you mean sftp://ann@nas/mail?"),
        ("s3:https://minio:9000/b/mail", "did you mean s3://b/mail?endpoint=https://minio:9000?"),
        ("s3:b/mail", "did you mean s3://b/mail?"),
        ("rclone:remote:mail", "rclone serve"),
        ("rest:https://nas:8000/mail", "restic"),
        ("b2:b:mail", "did you mean s3://b/mail?endpoint="),
        ("gs:b:/mail", "did you mean gs://b/mail?"),
        ("azure:c:/mail", "did you mean azblob://c/mail?"),
        ("swift:c:/mail", "rclone serve"),
        ("smb://nas/share", "mount it"),
        ("\\\\nas\\share", "mount it"),
        ("webdav://nas/x", "mount it"),
        ("https://nas/x", "an S3-compatible store is named"),
        ("C:\\backup", "Windows"),
        ("~/backup", "did you mean"),
        ("$HOME/backup", "write out"),
        ("/mnt/$USER/backup", "write out"),
        ("\"./backup\"", "quotes"),
        ("./borg::mail", "did you mean ./borg?"),
        (" /mnt/nas", "white space"),
        ("", "empty"),
        ("nass", "did you mean nas?"),
        ("usb", "did you mean ./usb? the configuration has attic, nas"),
    ] {
        for arguments in [
            &["init"][..],
            &["list"],
            &["verify"],
            &["restore", "--target", "out"],
            &["create", "--database", "app/app.db"],
        ] {
            let output = run(&scratch, &[arguments, &["--repo", text]].concat());
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{arguments:?} {text:?}: {said}");
            assert!(said.contains(meant) && said.contains("--repo: "), "{text:?}: {said}");
        }
        if !text.is_empty() {
            let mut command = scratch.packvault(&["init"]);
            command.env("XDG_STATE_HOME", scratch.path("state"));
            let output = command.env("PACKVAULT_REPO", text).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{text}: {}", stderr(&output));
            assert!(stderr(&output).contains("PACKVAULT_REPO: "), "{}", stderr(&output));
        }
        assert_eq!(entries(&scratch.path("")), before, "{text:?} made something");
    }
}

#[test]
fn the_same_in_the_configuration_is_refused_with_its_key() {
    let scratch = scene();
    for (text, meant) in [
        ("ann@nas:/volume1/mail", "did you mean sftp://ann@nas/volume1/mail?"),
        ("s3:b/mail", "did you mean s3://b/mail?"),
        ("backup/mail", "is a relative path"),
        ("/mnt/nas ", "white space"),
    ] {
        for (config, key) in [
            (format!("default_repository = '{text}'"), "default_repository: "),
            (
                format!("default_repository = 'x'\n[repository.x]\nlocation = '{text}'"),
                "repository.x.location: ",
            ),
        ] {
            fs::write(scratch.path("config.toml"), config).unwrap();
            let output = run(&scratch, &["init"]);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{text}: {said}");
            assert!(said.contains(meant) && said.contains(key), "{text}: {said}");
        }
    }
    fs::write(scratch.path("config.toml"), "default_repository = 'usb'\n[repository.nas]\nlocation = '/x'")
        .unwrap();
    let said = stderr(&run(&scratch, &["init"]));
    assert!(said.contains("default_repository: no repository is called usb"), "{said}");
    assert!(!scratch.path("usb").exists());
}

#[test]
fn a_word_is_a_name_even_where_a_folder_of_that_name_lies_and_a_folder_has_a_slash() {
    let scratch = scene();
    assert!(run(&scratch, &["init", "--repo", "./usb"]).status.success());
    let output = run(&scratch, &["list", "--repo", "usb"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let url = format!("file://{}", scratch.path("usb").display());
    for text in ["./usb", "usb/", &url] {
        let output = run(&scratch, &["list", "--repo", text]);
        assert_eq!(output.status.code(), Some(0), "{text}: {}", stderr(&output));
    }
    for (here, text) in [("usb", "."), ("app", "../usb")] {
        let mut command = scratch.packvault(&["list", "--repo", text]);
        assert!(command.current_dir(scratch.path(here)).output().unwrap().status.success(), "{text}");
    }
}

#[test]
fn a_path_whose_tilde_no_shell_has_expanded_makes_no_folder() {
    let scratch = scene();
    assert!(run(&scratch, &["init", "--repo", "./usb"]).status.success());
    let before = entries(&scratch.path(""));
    let home = scratch.path("");
    let meant = format!("did you mean {}", home.to_str().unwrap().trim_end_matches('/'));
    for arguments in [
        &["restore", "--repo", "./usb", "--target", "~/out"][..],
        &["create", "--repo", "./usb", "--database", "~/app/app.db"],
        &["create", "--repo", "./usb", "~/app"],
        &["create", "--repo", "./usb", "--database", "app/app.db", "--spool", "~/spool"],
    ] {
        let output = run(&scratch, arguments);
        let said = stderr(&output);
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
        assert!(said.contains(&meant), "{arguments:?}: {said}");
        assert_eq!(entries(&scratch.path("")), before, "{arguments:?} made something");
    }
}

/// Every place that a location can be given in, by mistake too.
#[test]
fn no_message_repeats_a_secret_of_a_refused_location() {
    let scratch = scene();
    let texts = [
        "sftp://ann:hunter2@nas/b",
        "sftp://ann%3Ahunter2@nas/b",
        "ann:hunter2@nas:/b",
        "s3://b?endpoint=https://ann:hunter2@127.0.0.1:9",
        "s3://b?endpoint=https%3A%2F%2Fann%3Ahunter2%40127.0.0.1:9",
        "s3://b?endpoint=https://127.0.0.1:9/?token=hunter2",
        "s3://b?secret_access_key=hunter2",
        "rest:https://ann:hunter2@nas/",
        "webdav://ann:hunter2@nas/b",
        "file:///b?password=hunter2",
        "s3://b?endpoint=https://127.0.0.1:hunter2",
        "s3://b?region=ann:hunter2@127.0.0.1",
        "sftp://ann;hunter2@nas/b",
    ];
    for text in texts {
        let option = format!("--repo={text}");
        let uses: [&[&str]; 9] = [
            &["list", "--repo", text],
            &["list", "--json", &option],
            &["create", "--repo", text, "--database", "app/app.db"],
            &["create", text],
            &["restore", text, "--target", "out", "--repo", "./none"],
            &["restore", "--target", text, "--repo", text],
            &["verify", text],
            &["list", text, text, text],
            &["create", "--database", text, "--repo", text],
        ];
        for arguments in uses {
            let output = run(&scratch, arguments);
            let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
            assert_ne!(output.status.code(), Some(0), "{arguments:?}");
            assert!(!said.contains("hunter2"), "{arguments:?}: {said}");
        }
        for name in ["PACKVAULT_REPO", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"] {
            let mut command = scratch.packvault(&["list"]);
            if name != "PACKVAULT_REPO" {
                command.args(["--repo", "s3://b"]);
            }
            let output = command.env(name, text).output().unwrap();
            assert_ne!(output.status.code(), Some(0), "{name}={text}");
            assert!(!stderr(&output).contains("hunter2"), "{name}: {}", stderr(&output));
        }
        for config in [
            format!("default_repository = '{text}'"),
            format!("default_repository = 'x'\n[repository.x]\nlocation = '{text}'"),
            format!("default_repository = 'x'\n[repository.x]\nlocation = 's3://b'\nendpoint = '{text}'"),
            format!(
                "default_repository = 'x'\n[repository.x]\nlocation = 's3://b'\nsecret_access_key = '{text}'"
            ),
            format!("default_repository = 'x'\n[repository.x]\nlocation = 's3://b'\npassword = '{text}'"),
            format!("default_repository = 'x'\n[repository.x]\nlocation = 's3://b'\nssh_options = '{text}'"),
            format!(
                "default_repository = 'x'\n[repository.x]\nlocation = 's3://b'\naccess_key_id = 'A'\nsecret_access_key = {{ env = '{text}' }}"
            ),
            format!(
                "default_repository = 'x'\n[repository.x]\nlocation = 's3://b'\naccess_key_id = 'A'\nsecret_access_key = {{ command = ['{text}'] }}"
            ),
            format!(
                "default_repository = 'x'\n[repository.x]\nlocation = 's3://b'\naccess_key_id = ['{text}']"
            ),
        ] {
            fs::write(scratch.path("config.toml"), &config).unwrap();
            let output = run(&scratch, &["list"]);
            assert_ne!(output.status.code(), Some(0), "{config}");
            assert!(!stderr(&output).contains("hunter2"), "{config}: {}", stderr(&output));
        }
    }
}
