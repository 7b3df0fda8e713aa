//! Why an ssh ended, out of its last words, in a sentence that says what to do.

use std::sync::Arc;

use packvault_storage::ErrorKind;

use crate::error::{Breakage, legible};

/// Sentences for what ssh says when it ends, and what to do about it.
const REASONS: [(&str, ErrorKind, &str); 12] = [
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        ErrorKind::Denied,
        "the server's host key is not the one known to ssh; find out why, and only then change known_hosts",
    ),
    (
        "Host key verification failed",
        ErrorKind::Denied,
        "the server's host key is not known to ssh; connect once with ssh by hand and compare its fingerprint",
    ),
    (
        "Permission denied",
        ErrorKind::Denied,
        "the server lets us not log in; check the user, and that `ssh` reaches the server without a password",
    ),
    (
        "Too many authentication failures",
        ErrorKind::Denied,
        "the server lets us not log in: too many keys were tried; name one with IdentityFile and IdentitiesOnly",
    ),
    (
        "Could not resolve hostname",
        ErrorKind::Connection,
        "no server of that name is found; check the host and the network",
    ),
    (
        "Connection refused",
        ErrorKind::Connection,
        "nothing listens there; check host and port, and that the server's SSH service runs",
    ),
    ("No route to host", ErrorKind::Connection, "no way leads to the server; check the host and the network"),
    (
        "Network is unreachable",
        ErrorKind::Connection,
        "no way leads to the server; check the host and the network",
    ),
    ("timed out", ErrorKind::Timeout, "the server did not answer in time; check host, port and firewall"),
    (
        "subsystem request failed",
        ErrorKind::Config,
        "the server has no SFTP; switch it on there (`Subsystem sftp` in sshd_config)",
    ),
    (
        "This service allows sftp connections only",
        ErrorKind::Config,
        "the server's SFTP is not to be reached by ssh's subsystem",
    ),
    ("Bad configuration option", ErrorKind::Config, "ssh does not understand its configuration"),
];

/// Says why an ssh that ended did so.
pub(crate) fn explain(stderr: &str, code: Option<i32>, was_greeted: bool) -> Arc<Breakage> {
    let said = last_words(stderr);
    let known = REASONS.iter().find(|(words, ..)| stderr.contains(words));
    let with_words = |text: &str| match said.is_empty() {
        true => text.to_owned(),
        false => format!("{text} (ssh says: {said})"),
    };
    match known {
        // A session that once began is worth another try, whatever ended it.
        _ if was_greeted => {
            Breakage::new(ErrorKind::Connection, with_words("the connection to the server broke"))
        }
        Some((_, kind, text)) => Breakage::new(*kind, with_words(text)),
        None if code == Some(127) => {
            Breakage::new(ErrorKind::Config, with_words("the program ssh cannot be run"))
        }
        None if said.is_empty() => Breakage::new(
            ErrorKind::Connection,
            "the server closed the connection before SFTP began; does the account allow SFTP?",
        ),
        None => Breakage::new(ErrorKind::Connection, with_words("no connection to the server")),
    }
}

/// Returns the last lines that say something.
fn last_words(stderr: &str) -> String {
    let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    legible(&lines[lines.len().saturating_sub(2)..].join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_fail_has_its_sentence_and_kind() {
        for (said, kind, words) in [
            ("Host key verification failed.", ErrorKind::Denied, "fingerprint"),
            ("me@nas: Permission denied (publickey).", ErrorKind::Denied, "log in"),
            ("ssh: Could not resolve hostname nas: x", ErrorKind::Connection, "no server of that name"),
            ("ssh: connect to host nas port 22: Connection refused", ErrorKind::Connection, "port"),
            ("ssh: connect to host nas port 22: Connection timed out", ErrorKind::Timeout, "firewall"),
            ("subsystem request failed on channel 0", ErrorKind::Config, "Subsystem sftp"),
            ("something new", ErrorKind::Connection, "something new"),
            ("", ErrorKind::Connection, "before SFTP began"),
        ] {
            let breakage = explain(said, Some(255), false);
            assert_eq!(breakage.kind, kind, "{said}");
            assert!(breakage.text.contains(words), "{}", breakage.text);
        }
        let later = explain("Permission denied", Some(255), true);
        assert_eq!(later.kind, ErrorKind::Connection);
    }
}
