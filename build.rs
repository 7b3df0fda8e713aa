//! Tells the program which commit it is built from and for which target.
//!
//! The commit is asked for in optimised builds alone, so that a commit does not build everything anew while one works.
//! Without git, or from a package without its history, it is left out.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let variable = |name| std::env::var(name).unwrap_or_default();
    let (version, target) = (variable("CARGO_PKG_VERSION"), variable("TARGET"));
    let commit = if variable("PROFILE") == "release" { commit() } else { None };
    let described = match commit {
        Some(commit) => format!("{version} ({commit}, {target})"),
        None => format!("{version} ({target})"),
    };
    println!("cargo:rustc-env=PACKVAULT_VERSION={described}");
}

fn commit() -> Option<String> {
    // Only our own history: a package that is built below another project's folder is not that project.
    std::fs::metadata(".git").ok()?;
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if std::fs::exists(&log).is_ok_and(|exists| exists) {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
