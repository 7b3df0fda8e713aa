//! The danger: a package lacks a file, holds one that does not fit the program in it, or says that it runs where it
//! does not; and nobody notices until it is installed.
//!
//! The package is made of the program under test, unpacked into a folder, and used from there. Needs `dpkg-deb`,
//! `objdump` and `strip`; what also needs `systemd-analyze` says that it did not run, unless `PACKVAULT_REQUIRE` names
//! it: then it fails.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{self, Scratch};

/// A time of files that no file of this machine has.
const EPOCH: &str = "1700000000";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}{said}", String::from_utf8_lossy(&output.stdout));
    output
}

/// Makes the package and returns its path.
fn package(scratch: &Scratch, folder: &str) -> PathBuf {
    let mut script = Command::new(root().join("packaging/deb"));
    script.arg(env!("CARGO_BIN_EXE_packvault")).arg(scratch.path(folder));
    script.env("SOURCE_DATE_EPOCH", EPOCH).env("PACKVAULT_COMPRESSION", "gzip");
    let said = succeed(&mut script).stdout;
    PathBuf::from(String::from_utf8(said).unwrap().trim_end())
}

/// Unpacks the package, as an installation would.
fn install(scratch: &Scratch, package: &Path) -> PathBuf {
    let installed = scratch.path("installed");
    succeed(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&installed));
    succeed(Command::new("dpkg-deb").arg("--control").arg(package).arg(scratch.path("control")));
    installed
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Returns what the key of a unit says.
fn of_unit<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn the_package_is_whole_belongs_together_and_is_the_same_twice() {
    let scratch = Scratch::new();
    let (first, second) = (package(&scratch, "first"), package(&scratch, "second"));
    assert!(fs::read(&first).unwrap() == fs::read(second).unwrap(), "two packages of one program differ");
    let installed = install(&scratch, &first);
    let share = installed.join("usr/share");

    let program = installed.join("usr/bin/packvault");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o7777, 0o755);
    let version = succeed(Command::new(&program).arg("--version")).stdout;
    let expected = succeed(Command::new(env!("CARGO_BIN_EXE_packvault")).arg("--version")).stdout;
    assert_eq!(version, expected);

    let help = succeed(Command::new(&program).arg("--help")).stdout;
    let help = String::from_utf8(help).unwrap();
    let pages = names(&share.join("man/man1"));
    for command in ["create", "list", "verify", "restore", "archive-presets"] {
        assert!(command.contains('-') || help.contains(&format!("\n  {command}")), "{command}: {help}");
        assert!(pages.contains(&format!("packvault-{command}.1.gz")), "{pages:?}");
    }
    for completion in [
        "bash-completion/completions/packvault",
        "zsh/vendor-completions/_packvault",
        "fish/vendor_completions.d/packvault.fish",
    ] {
        assert!(fs::read_to_string(share.join(completion)).unwrap().contains("dry-run"), "{completion}");
    }

    let doc = share.join("doc/packvault");
    for file in [
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "copyright",
        "CHANGELOG.md",
        "changelog.gz",
        "docs/install.md",
    ] {
        assert!(fs::metadata(doc.join(file)).unwrap().len() > 0, "{file}");
    }
    // Every library has its text: some megabytes, packed.
    assert!(fs::metadata(doc.join("third-party-licences.gz")).unwrap().len() > 30_000);
    let control = fs::read_to_string(scratch.path("control/control")).unwrap();
    let sums = fs::read_to_string(scratch.path("control/md5sums")).unwrap();
    assert!(control.contains(&format!("Version: {}\n", env!("CARGO_PKG_VERSION"))), "{control}");
    assert!(!control.contains('@') || control.matches('@').count() == 1, "a value is missing: {control}");
    assert!(sums.contains("usr/bin/packvault"), "{sums}");
}

#[test]
fn the_units_run_what_the_program_understands() {
    // Each is understood, and there is nothing of that here.
    let units = [("packvault@", "no archive is called recipes"), ("packvault", "there is no archive to run")];
    for (kind, (unit, reply)) in
        ["system", "user"].into_iter().flat_map(|kind| units.map(|unit| (kind, unit)))
    {
        let service = read(format!("packaging/systemd/{kind}/{unit}.service"));
        let starts = of_unit(&service, "ExecStart");
        let words: Vec<&str> = starts[0].split_whitespace().collect();
        assert_eq!((starts.len(), words[0]), (1, "/usr/bin/packvault"), "{starts:?}");
        // As systemd does it: `%i` is the instance.
        let words: Vec<String> = words[1..].iter().map(|word| word.replace("%i", "recipes")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let scratch = Scratch::new();
        let output = scratch.run(&words);
        let said = support::stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reply), "{kind}: {said}");

        let timer = read(format!("packaging/systemd/{kind}/{unit}.timer"));
        assert_eq!((of_unit(&timer, "Persistent"), of_unit(&timer, "OnCalendar").len()), (vec!["yes"], 1));
        // A page that is named is there.
        for page in of_unit(&service, "Documentation").join(" ").split_whitespace() {
            let Some(path) = page.strip_prefix("file:///usr/share/doc/packvault/") else { continue };
            assert!(root().join(path).exists(), "{page}");
        }
    }
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "systemd"),
            "PACKVAULT_REQUIRE demands systemd-analyze"
        );
        eprintln!("NOT RUN: systemd-analyze is not here (apt-get install systemd)");
        return;
    }
    for kind in ["system", "user"] {
        let scratch = Scratch::new();
        let names = ["packvault@.service", "packvault@.timer", "packvault.service", "packvault.timer"];
        for name in names {
            let unit = read(format!("packaging/systemd/{kind}/{name}"));
            // The program is not installed here.
            let unit = unit.replace("/usr/bin/packvault", env!("CARGO_BIN_EXE_packvault"));
            fs::write(scratch.path(name), unit).unwrap();
        }
        let mut verify = Command::new("systemd-analyze");
        verify.args([&format!("--{kind}"), "--man=no", "verify"]);
        verify.args(names.map(|name| scratch.path(name)));
        let output = succeed(verify.env("XDG_RUNTIME_DIR", scratch.path("")));
        assert_eq!(support::stderr(&output), "", "{kind}");
    }
}

#[test]
fn the_example_of_a_configuration_is_understood() {
    let scratch = Scratch::new();
    let home = scratch.path("srv/recipes");
    fs::create_dir_all(&home).unwrap();
    let database = rusqlite::Connection::open(home.join("recipes.db")).unwrap();
    database.execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    let own = scratch.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    let example = read("packaging/config.example.toml");
    let moved = example.replace("\"/", &format!("\"{own}/"));
    assert_ne!(moved, example);
    fs::write(scratch.path("config.toml"), moved).unwrap();
    for arguments in [&["init"][..], &["create", "recipes"], &["verify", "recipes"]] {
        let mut command = scratch.packvault(arguments);
        let output = command.env("PACKVAULT_CONFIG", scratch.path("config.toml")).output().unwrap();
        let expected = if arguments[0] == "create" { 5 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {}", support::stderr(&output));
    }
}

#[test]
fn the_linux_that_is_promised_is_the_one_that_is_checked() {
    let promised = read("packaging/needs");
    let promised = promised.lines().find_map(|line| line.strip_prefix("GLIBC_MAX=")).unwrap().to_owned();
    for page in ["README.md", "docs/install.md"] {
        assert!(
            read(page).contains(&format!("glibc {promised}")),
            "{page} does not promise glibc {promised}"
        );
    }
    succeed(Command::new(root().join("packaging/needs")).arg(env!("CARGO_BIN_EXE_packvault")));
}

#[test]
fn the_image_is_made_of_the_package_alone() {
    let dockerfile = read("packaging/Dockerfile");
    let lines = || dockerfile.lines().filter(|line| !line.starts_with('#'));
    let copied: Vec<&str> =
        lines().filter(|line| line.starts_with("COPY ") || line.starts_with("ADD ")).collect();
    assert_eq!(copied, ["COPY packvault_*.deb /tmp/packvault.deb"]);
    let last_user = lines().rfind(|line| line.starts_with("USER "));
    assert!(last_user.is_some_and(|line| line != "USER root"), "the image runs as root");
    let folders = lines().find_map(|line| line.strip_prefix("VOLUME ")).unwrap();
    let folders: Vec<String> = serde_json::from_str(folders).unwrap();
    let install = read("docs/install.md");
    for folder in folders {
        assert!(install.contains(&format!("`{folder}`")), "docs/install.md does not speak of {folder}");
    }
}
