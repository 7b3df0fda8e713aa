//! Locations as other tools write them: refused, with what packvault would be told instead.
//!
//! A text that is no URL would otherwise be the name of a folder, and a backup to `nas:/volume1` would lie in
//! a folder of that name on the very disk it was made to survive. So only what cannot be meant otherwise is a
//! path: it begins with a slash or `./`, or has a slash and nothing that another tool reads as a host.
//!
//! A refused text may hold a password. What is said in return is put together from parts that are letters,
//! digits and a few marks; where any part is not, the form is shown and not the text.

/// What a text that is no URL of ours looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Path,
    Bare,
    Tilde,
    Variable,
    Windows,
    Share,
    /// A text in quotes that nobody took away.
    Quoted,
    /// A path with a name behind `::`, as Borg writes an archive of a repository.
    Archive,
    /// Something with a colon before the first slash, or a user before a host.
    Tool,
}

/// Returns why the text is no location, and what may be meant; `None` if it is a path.
pub(super) fn refusal(text: &str) -> Option<String> {
    match shape(text) {
        Shape::Path => None,
        Shape::Bare => Some(format!(
            "{} is no name from the configuration; a folder is named with a slash in it: did you mean {}?",
            shown(text, "a bare word"),
            shown(&format!("./{text}"), "./folder")
        )),
        Shape::Tilde => Some("a `~` stands for no folder here; write the whole path".to_owned()),
        Shape::Variable => {
            Some("a `$` stands for no variable here; write out what the variable holds".to_owned())
        }
        Shape::Windows => Some(
            "this is a path of Windows; name the folder as this machine does, such as /mnt/c/backup"
                .to_owned(),
        ),
        Shape::Share => Some(
            "a share of a network is no location: mount it, and name the folder it is mounted on, such as \
             /mnt/nas/backup"
                .to_owned(),
        ),
        Shape::Quoted => Some(
            "the quotes are part of the text here, for no shell has taken them away (an env file of Docker \
             keeps them); leave them out"
                .to_owned(),
        ),
        Shape::Archive => {
            let folder = text.split("::").next().unwrap_or_default();
            Some(format!(
                "`::` parts a repository of Borg from a name in it, and packvault has no such names: did you \
                 mean {}?",
                shown(folder, "/folder")
            ))
        }
        Shape::Tool => Some(tool(text)),
    }
}

/// Returns what is said of `scheme://rest` where the scheme is none of packvault's.
pub(super) fn refused_scheme(scheme: &str, rest: &str) -> String {
    let known = "packvault knows paths, s3://bucket/folder, sftp://user@host/folder, \
                 azblob://container/folder and gs://bucket/folder";
    let hint = hint(scheme, rest).map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("unknown kind of storage {scheme}://; {known}{hint}")
}

/// Returns whether the text is one word: a name from the configuration, or a mistake.
pub(super) fn is_bare_word(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && shape(text) == Shape::Bare
}

fn shape(text: &str) -> Shape {
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| text.starts_with(beginning));
    if starts(&["//", "\\\\"]) {
        return Shape::Share;
    }
    if starts(&["\"", "'"]) {
        return Shape::Quoted;
    }
    // `./$x` is the way to name a folder that is called so.
    if !starts(&["./", "../"]) && text.split('/').any(|part| part.starts_with('$')) {
        return Shape::Variable;
    }
    if starts(&["/", "./", "../"]) || matches!(text, "." | "..") {
        return if text.contains("::") { Shape::Archive } else { Shape::Path };
    }
    if text.starts_with('~') {
        return Shape::Tilde;
    }
    if is_windows(text) {
        return Shape::Windows;
    }
    let first = text.split('/').next().unwrap_or_default();
    if first.contains([':', '@']) {
        Shape::Tool
    } else if text.contains('/') {
        Shape::Path
    } else {
        Shape::Bare
    }
}

/// `C:\backup`, `c:/backup`, `C:`, and any text that parts folders with backslashes.
fn is_windows(text: &str) -> bool {
    let mut characters = text.chars();
    let drive = characters.next().is_some_and(|letter| letter.is_ascii_alphabetic())
        && characters.next() == Some(':')
        && matches!(characters.next(), None | Some('/' | '\\'));
    drive || (text.contains('\\') && !text.contains('/'))
}

/// Returns what may be meant by `tool:rest` or `user@host:path`.
fn tool(text: &str) -> String {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let lower = name.to_ascii_lowercase();
    if let Some(hint) = hint(&lower, rest) {
        return format!("packvault does not read {lower}: locations of other tools; {hint}");
    }
    let meant = on_host(text).unwrap_or_else(|| "sftp://user@host/folder".to_owned());
    format!(
        "packvault names a folder on another machine by a URL: did you mean {meant}? A folder here is ./folder"
    )
}

/// Returns what to do instead, for the kinds of storage that other tools have.
fn hint(kind: &str, rest: &str) -> Option<String> {
    let mean = |meant: Option<String>, form: &str| {
        Some(format!("did you mean {}?", meant.unwrap_or_else(|| form.to_owned())))
    };
    let rclone = "let rclone serve it (`rclone serve s3` or `rclone serve sftp`), and name what it serves";
    match kind {
        "s3" | "s3a" | "s3n" | "minio" | "b3" => mean(s3(rest), "s3://bucket/folder"),
        "sftp" | "ssh" | "scp" | "rsync" | "ssh2" | "fish" | "sshfs" => {
            mean(on_host(rest.trim_start_matches("//")), "sftp://user@host/folder")
        }
        "b2" | "backblaze" => mean(
            container("s3://", rest).map(|place| format!("{place}?endpoint=https://s3.REGION.backblazeb2.com")),
            "s3://bucket/folder?endpoint=https://s3.REGION.backblazeb2.com",
        ),
        "gs" | "gcs" | "gcp" | "google" => mean(container("gs://", rest), "gs://bucket/folder"),
        "azure" | "az" | "azblob" | "abfs" | "abfss" | "wasb" | "wasbs" => {
            mean(container("azblob://", rest), "azblob://container/folder")
        }
        "file" | "local" | "dir" => mean(file(rest), "file:///folder, or /folder"),
        "smb" | "cifs" | "nfs" | "afp" | "webdav" | "webdavs" | "dav" | "davs" => Some(
            "mount it, and name the folder it is mounted on, such as /mnt/nas/backup".to_owned(),
        ),
        "http" | "https" => Some(
            "an S3-compatible store is named s3://bucket/folder?endpoint=https://host; what speaks WebDAV is \
             mounted, and its folder named"
                .to_owned(),
        ),
        "rest" => Some(
            "a REST server of restic keeps repositories of restic alone; name the folder it serves, or the \
             machine by sftp://user@host/folder"
                .to_owned(),
        ),
        "rclone" | "swift" | "ftp" | "ftps" | "onedrive" | "dropbox" | "drive" | "gdrive" | "box" | "mega"
        | "pcloud" | "storj" | "oss" | "cos" | "obs" | "hdfs" | "opendal" => Some(rclone.to_owned()),
        _ => None,
    }
}

/// Reads restic's `s3:https://host:9000/bucket/folder`, `s3:host/bucket/folder`, and `s3:bucket/folder`.
fn s3(rest: &str) -> Option<String> {
    let (http, rest) = match (rest.strip_prefix("https://"), rest.strip_prefix("http://")) {
        (Some(rest), _) => (Some("https"), rest),
        (_, Some(rest)) => (Some("http"), rest),
        _ => (None, rest.trim_start_matches('/')),
    };
    let (first, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_host = http.is_some() || first.contains(['.', ':']);
    if !is_host {
        return container("s3://", rest);
    }
    let place = container("s3://", path)?;
    if first.ends_with(".amazonaws.com") {
        return Some(place);
    }
    let (name, port) = first.split_once(':').unwrap_or((first, "0"));
    if !is_host_name(name) || port.is_empty() || !port.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let plain = if http == Some("http") { "&allow_http=true" } else { "" };
    Some(format!("{place}?endpoint={}://{first}{plain}", http.unwrap_or("https")))
}

/// Reads `bucket:folder`, `bucket:/folder` and `bucket/folder`.
fn container(scheme: &str, rest: &str) -> Option<String> {
    let rest = rest.trim_start_matches('/');
    let (container, folder) = rest.split_once([':', '/']).unwrap_or((rest, ""));
    let folder = folder.trim_matches('/');
    let is_sound = is_host_name(container) && (folder.is_empty() || is_plain_path(folder));
    let slash = if folder.is_empty() { "" } else { "/" };
    is_sound.then(|| format!("{scheme}{container}{slash}{folder}"))
}

fn file(rest: &str) -> Option<String> {
    (rest.starts_with('/') && is_plain_path(rest)).then(|| format!("/{}", rest.trim_start_matches('/')))
}

/// Reads `user@host:path`, `user@host/path` and their kin without a user.
fn on_host(text: &str) -> Option<String> {
    // The last one: what stands before it may be a password, and is then no user.
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, text),
    };
    let colon = place.split_once(':').filter(|(host, _)| !host.contains('/'));
    let (host, path) = colon.or_else(|| place.split_once('/'))?;
    // In a URL the colon is followed by a port.
    let (port, path) = match path.split_once('/') {
        Some((port, path)) if is_port(port) => (format!(":{port}"), format!("/{path}")),
        _ if colon.is_some() => (String::new(), path.to_owned()),
        _ => (String::new(), format!("/{path}")),
    };
    let path = match path.strip_prefix("~/") {
        Some(relative) => relative,
        None => &path,
    };
    let is_sound = is_host_name(host) && user.is_none_or(is_host_name) && is_plain_path(path);
    let user = user.map(|user| format!("{user}@")).unwrap_or_default();
    let from_home = if path.starts_with('/') { "" } else { "/~/" };
    is_sound.then(|| format!("sftp://{user}{host}{port}{from_home}{path}"))
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.len() <= 5 && text.chars().all(|c| c.is_ascii_digit())
}

fn is_host_name(text: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && !text.starts_with('-') && text.chars().all(is_legal)
}

fn is_plain_path(text: &str) -> bool {
    let is_legal = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | ',' | '~');
    !text.is_empty() && text.chars().all(is_legal)
}

/// Returns the text itself where it cannot be a secret, else what it is.
fn shown<'a>(text: &'a str, what: &'a str) -> &'a str {
    if is_plain_path(text) { text } else { what }
}

#[cfg(test)]
mod tests {
    use super::super::Location;
    use super::super::url::tests::refused;

    /// Each text, and what is said to be meant.
    const MEANT: [(&str, &str); 38] = [
        ("/mnt/borg::mail", "did you mean /mnt/borg?"),
        ("./borg::mail-{now}", "did you mean ./borg?"),
        ("nas", "did you mean ./nas?"),
        ("a word", "did you mean ./folder?"),
        ("%41", "did you mean ./folder?"),
        ("nas:/volume1/backup", "did you mean sftp://nas/volume1/backup?"),
        ("ann@nas:/volume1/backup", "did you mean sftp://ann@nas/volume1/backup?"),
        ("ann@nas:backup", "did you mean sftp://ann@nas/~/backup?"),
        ("ann@nas:~/backup", "did you mean sftp://ann@nas/~/backup?"),
        ("ann@nas/backup", "did you mean sftp://ann@nas/backup?"),
        ("ann@nas", "did you mean sftp://user@host/folder?"),
        ("nas::mail", "did you mean sftp://user@host/folder?"),
        ("[fe80::1]:/mail", "did you mean sftp://user@host/folder?"),
        ("sftp:ann@nas:/volume1", "did you mean sftp://ann@nas/volume1?"),
        ("sftp:nas:mail", "did you mean sftp://nas/~/mail?"),
        ("ssh://ann@nas:2222/mail", "did you mean sftp://ann@nas:2222/mail?"),
        ("scp://ann@nas/mail", "did you mean sftp://ann@nas/mail?"),
        ("rsync://nas/mail", "did you mean sftp://nas/mail?"),
        ("s3:https://nas:9000/b/mail", "did you mean s3://b/mail?endpoint=https://nas:9000?"),
        ("s3:http://nas:9000/b", "did you mean s3://b?endpoint=http://nas:9000&allow_http=true?"),
        ("s3:s3.eu-west-3.amazonaws.com/b/mail", "did you mean s3://b/mail?"),
        ("s3:minio.example/b/mail", "did you mean s3://b/mail?endpoint=https://minio.example?"),
        ("s3:b/mail", "did you mean s3://b/mail?"),
        ("b2:b:mail", "did you mean s3://b/mail?endpoint=https://s3.REGION.backblazeb2.com?"),
        ("b2://b/mail", "did you mean s3://b/mail?endpoint=https://s3.REGION.backblazeb2.com?"),
        ("gs:b:/mail", "did you mean gs://b/mail?"),
        ("azure:c:/mail", "did you mean azblob://c/mail?"),
        ("file:/x", "did you mean /x?"),
        ("file:x", "did you mean file:///folder, or /folder?"),
        ("local:/x", "did you mean /x?"),
        ("smb://nas/share", "mount it"),
        ("nfs://nas/share", "mount it"),
        ("//nas/share", "mount it"),
        ("\\\\nas\\share", "mount it"),
        ("C:\\backup", "a path of Windows"),
        ("c:/backup", "a path of Windows"),
        ("rclone:remote:mail", "let rclone serve it"),
        ("rest:https://nas:8000/", "a REST server of restic"),
    ];

    #[test]
    fn the_locations_of_other_tools_are_refused_with_what_is_meant() {
        for (text, meant) in MEANT {
            let message = refused(text);
            assert!(message.contains(meant), "{text}: {message}");
        }
        for text in
            ["swift:c:/x", "https://host/x", "http://host", "webdav://host/x", "ftp://h/x", "C:", "a\\b"]
        {
            refused(text);
        }
    }

    /// What is said to be meant is to be pasted.
    #[test]
    fn what_is_said_to_be_meant_is_a_location() {
        let mut seen = 0;
        for (text, meant) in MEANT {
            let Some(meant) = meant.strip_prefix("did you mean ") else { continue };
            let meant = meant.trim_end_matches('?').split(", or ").next().unwrap();
            Location::parse(meant).unwrap_or_else(|error| panic!("{text}: {meant}: {error}"));
            seen += 1;
        }
        assert!(seen > 25, "only {seen} were looked at");
    }

    #[test]
    fn what_a_shell_would_have_expanded_is_refused() {
        for text in
            ["~", "~/backup", "~ann/backup", "$HOME/backup", "${HOME}/backup", "/mnt/$USER/mail", "/mnt/${X}"]
        {
            assert!(refused(text).contains("here; write"), "{text}");
        }
        for text in ["\"/mnt/nas\"", "'/mnt/nas'", "\"nas\"", "'s3://b/x'"] {
            assert!(refused(text).contains("quotes"), "{text}");
        }
        for text in [" /mnt/nas", "/mnt/nas ", "/mnt/nas\n", "\t", " "] {
            assert!(refused(text).contains("white space"), "{text:?}");
        }
        assert!(refused("/mnt/a\nb").contains("control character"));
    }

    #[test]
    fn no_part_of_a_refused_text_is_shown_that_may_be_a_secret() {
        for text in [
            "ann:hunter2@nas:/backup",
            "ann:hunter2@nas/backup",
            "ann:hun@hunter2@nas:/backup",
            "ann%3Ahunter2@nas:/backup",
            "ann@nas:/backup?password=hunter2",
            "sftp:ann:hunter2@nas:/backup",
            "ssh://ann:hunter2@nas/backup",
            "ssh://ann%3ahunter2@nas/backup",
            "scp://nas/backup?pw=hunter2",
            "s3:https://ann:hunter2@nas/b",
            "s3:https://nas/b?secret=hunter2",
            "s3:ann:hunter2@nas/b",
            "s3://b?endpoint=https://ann:hunter2@nas",
            "s3://b?endpoint=https%3A%2F%2Fann%3Ahunter2%40nas",
            "s3://b?endpoint=https://ann%3Ahunter2%40nas",
            "s3://b?endpoint=https://nas/?token=hunter2",
            "s3://b?endpoint=https://nas/%3Ftoken=hunter2",
            "s3://b?endpoint=hunter2",
            "s3://b?endpoint=https://nas:hunter2",
            "s3://b?endpoint=https://nas:hunter2/x",
            "s3://b?endpoint=https://[::1]:hunter2",
            "s3://b?hunter2=x",
            "s3://b?region=ann:hunter2@nas",
            "s3://ann:hunter2@b/x",
            "sftp://ann:hunter2@nas/b",
            "sftp://ann%3ahunter2@nas/b",
            "sftp://nas/b?password=hunter2",
            "sftp://ann;hunter2@nas/b",
            "sftp://ann;x-password=hunter2@nas/b",
            "sftp://nas;hunter2/b",
            "sftp://nas:hunter2/b",
            "file:///b?password=hunter2",
            "rest:https://ann:hunter2@nas:8000/",
            "b2:hunter2@b:x",
            "gs:b:/x?key=hunter2",
            "azure:c:/x?sig=hunter2",
            "azblob://c/x?sig=hunter2",
            "https://ann:hunter2@nas/",
            "webdav://ann:hunter2@nas/",
            "swift:c:hunter2@x",
            "smb://ann:hunter2@nas/share",
            " sftp://ann:hunter2@nas/b",
            "$X:hunter2",
            "/mnt/hunter2=x::mail",
            "'s3://ann:hunter2@b/x'",
            "hunter2=x",
        ] {
            assert!(!refused(text).contains("hunter2"), "{text}: {}", refused(text));
        }
    }
}
