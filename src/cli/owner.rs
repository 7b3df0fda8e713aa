//! `USER:GROUP` as people type it: names of this machine, or numbers.
//!
//! Names are looked up in `/etc/passwd` and `/etc/group`. Users of a directory service have a number, which `id`
//! shows.

use packvault::archive::attributes::Owners;
use packvault::{Error, ErrorKind, Result};

/// Returns the owner that the text names.
pub fn parse(text: &str) -> Result<Owners> {
    let Some((user, group)) =
        text.split_once(':').filter(|(user, group)| !user.is_empty() && !group.is_empty())
    else {
        return Err(usage(format!("{text:?} is no owner: write USER:GROUP, as in 1000:1000 or ann:users")));
    };
    Ok(Owners::Given {
        user: number(user, "user", "/etc/passwd")?,
        group: number(group, "group", "/etc/group")?,
    })
}

fn number(name: &str, noun: &str, file: &str) -> Result<u32> {
    // The largest number is the one by which system calls say "leave it as it is".
    if let Some(number) = name.parse().ok().filter(|number| *number != u32::MAX) {
        return Ok(number);
    }
    let table = std::fs::read(file).map_err(|error| {
        Error::caused(ErrorKind::Io, format!("cannot look up {noun} {name:?} in {file}"), error)
    })?;
    find(&String::from_utf8_lossy(&table), name).ok_or_else(|| {
        usage(format!("there is no {noun} {name:?} in {file}: check the name, or give the number"))
    })
}

/// Finds a name in a table whose lines are `name:password:number:...`.
fn find(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_owners_and_nothing_else_is() {
        assert_eq!(parse("0:0").unwrap(), Owners::Given { user: 0, group: 0 });
        assert_eq!(parse("root:root").unwrap(), Owners::Given { user: 0, group: 0 });
        for text in
            ["", "root", "root:", ":0", "nobody-of-that-name:0", "-1:0", "4294967295:0", "4294967296:0"]
        {
            assert_eq!(parse(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
        assert_eq!(find("a:x:1:\nab:x:2:\n", "ab"), Some(2));
    }
}
