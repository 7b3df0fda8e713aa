//! Who may do what: why the system refused a path, in words a user can act upon.
//!
//! The system says no more than "permission denied". Here the path is walked from the root of the repository
//! down to the first folder or file that stands in the way, and its owner and mode are named. Only what the
//! same user may see is looked at, and nothing depends on the answer: it makes a message better, or is left out.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use packvault_storage::Operation;
use rustix::fs::{Access, AtFlags, FileType, Stat};

use crate::client::Client;
use crate::staging;

/// The list of users of this machine; where names come from elsewhere, the number must do.
const USERS: &str = "/etc/passwd";
/// So much of it is read.
const USERS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The bits of a mode that say who may do what.
const PERMISSIONS: u32 = 0o7777;

/// What was to be done with the last part of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To read it.
    Read,
    /// To make, replace or remove it.
    Change,
}

impl Wish {
    /// Returns what a step wishes.
    pub(crate) fn of(operation: Operation) -> Self {
        match operation {
            Operation::Open | Operation::Read | Operation::Stat | Operation::List => Self::Read,
            _ => Self::Change,
        }
    }
}

/// Says who stands in the way of the path below the root, `""` being the root itself.
pub(crate) fn explain(client: &Client, path: &str, wish: Wish) -> Option<String> {
    let (refused, last) = walk(client, path, wish);
    // What is written lies in the staging before it lies anywhere else.
    let staging = || (wish == Wish::Change).then(|| walk(client, staging::FOLDER, wish).0).flatten();
    refused.or_else(staging).or(last)
}

/// Says whose the root is, or whose the folder above it is that may not be entered.
pub(crate) fn explain_root(root: &Path) -> Option<String> {
    root.ancestors()
        .find_map(|path| Some(belongs(&path.display().to_string(), &rustix::fs::stat(path).ok()?)))
}

/// Returns the first part of the path that this user may not use as he wishes, and the last that is there.
fn walk(client: &Client, path: &str, wish: Wish) -> (Option<String>, Option<String>) {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut last = None;
    for depth in 0..=parts.len() {
        let below = parts[..depth].join("/");
        let name = if below.is_empty() { "." } else { below.as_str() };
        let Ok(stat) = rustix::fs::statat(client.root(), name, AtFlags::SYMLINK_NOFOLLOW) else { break };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        // To change an object is to change the folder that holds it.
        let changes = wish == Wish::Change && depth + 1 >= parts.len();
        let wanted = match (is_folder, changes) {
            (true, true) => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
            (true, false) => Access::READ_OK | Access::EXEC_OK,
            (false, _) => Access::READ_OK,
        };
        let place = if below.is_empty() {
            client.location().to_owned()
        } else {
            format!("{}/{below}", client.location())
        };
        let said = belongs(&place, &stat);
        if rustix::fs::accessat(client.root(), name, wanted, AtFlags::EACCESS).is_err() {
            return (Some(said), None);
        }
        last = Some(said);
    }
    (None, last)
}

fn belongs(place: &str, stat: &Stat) -> String {
    let users = users();
    let (owner, own) = (stat.st_uid, rustix::process::geteuid().as_raw());
    format!(
        "{place} belongs to {} (mode {:04o}), and this runs as {}",
        user(&users, owner),
        stat.st_mode & PERMISSIONS,
        user(&users, own)
    )
}

fn users() -> String {
    let mut text = String::new();
    // Without the list there are numbers.
    let _ = File::open(USERS).map(|file| file.take(USERS_BYTES_MAX).read_to_string(&mut text));
    text
}

fn user(users: &str, id: u32) -> String {
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(id)).then_some(name)
    });
    named.map_or_else(|| format!("user {id}"), |name| format!("{name} (user {id})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_name_where_the_machine_knows_one() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nmail:x:8:8::/var/mail:\n";
        assert_eq!(user(users, 0), "root (user 0)");
        assert_eq!(user(users, 8), "mail (user 8)");
        assert_eq!(user(users, 4001), "user 4001");
        assert_eq!(user("", 0), "user 0");
    }

    #[test]
    fn the_part_of_the_path_that_stands_in_the_way_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("packs/01")).unwrap();
        std::fs::write(folder.path().join("packs/01/a"), "x").unwrap();
        let client = Client::open(folder.path(), crate::client::Steps::ALL).unwrap();
        let explained = explain(&client, "packs/01/a", Wish::Read).unwrap();
        let path = folder.path().join("packs/01/a");
        assert!(explained.starts_with(&format!("{} belongs to ", path.display())), "{explained}");
        assert!(explained.contains("this runs as"), "{explained}");
        let explained = explain(&client, "packs/02/b", Wish::Change).unwrap();
        assert!(explained.starts_with(&format!("{} belongs", folder.path().join("packs").display())));
        if rustix::process::geteuid().is_root() {
            // Root may do anything: what it is refused, no mode tells.
            return;
        }
        std::fs::set_permissions(folder.path().join("packs"), PermissionsExt::from_mode(0o600)).unwrap();
        let explained = explain(&client, "packs/01/a", Wish::Read).unwrap();
        std::fs::set_permissions(folder.path().join("packs"), PermissionsExt::from_mode(0o700)).unwrap();
        assert!(explained.starts_with(&format!("{} belongs", folder.path().join("packs").display())));
        assert!(explained.contains("(mode 0600)"), "{explained}");
    }
}
