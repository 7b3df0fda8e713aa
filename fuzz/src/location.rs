//! Locations: paths and URLs. Input: the text; once more with a password put into it.

use packvault::Location;

use super::input::valid_text;

const PASSWORD: &str = "hunter2";

/// Parses a location.
pub fn run(data: &[u8]) {
    let text = valid_text(data);
    if let Ok(location) = Location::parse(text) {
        let shown = location.to_string();
        let again = Location::parse(&shown);
        assert_eq!(again.map(|again| again.to_string()).ok().as_deref(), Some(shown.as_str()), "{text:?}");
    }
    let Some((scheme, rest)) = text.split_once("://") else { return };
    if Location::is_url(text) && !text.to_ascii_lowercase().contains(PASSWORD) {
        check_secrecy(&format!("{scheme}://ann:{PASSWORD}@{rest}"));
    }
}

/// Neither the error nor the location shows the password of a URL.
fn check_secrecy(url: &str) {
    let shown = match Location::parse(url) {
        Ok(location) => format!("{location} {location:?}"),
        Err(error) => format!("{} {error:?}", error.chain()),
    };
    assert!(!shown.contains(PASSWORD), "{shown}");
}
