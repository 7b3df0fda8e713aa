//! The page for a safe: the key of a repository as text, and the same text as a QR code made of characters.

use packvault::{Error, ErrorKind, Result};
use qrcode::{Color, EcLevel, QrCode};
use zeroize::Zeroizing;

use super::text::escape;

/// Light modules around the code, without which no camera finds it.
const QUIET_MODULES: usize = 4;

/// Returns the page.
pub fn page(location: &str, recovery_key: &str, qr: Option<&str>) -> String {
    let location = escape(location);
    let mut page = format!(
        "# The recovery key of a packvault repository. Whoever has it can read everything in there.
# It lay at {location}
# To use it, type the lines below the comments into a file, or read the code with a telephone:
#   packvault restore --repo LOCATION --identity FILE --target FOLDER
#   packvault key add NAME --repo LOCATION --identity FILE

{recovery_key}"
    );
    if let Some(qr) = qr {
        page.push('\n');
        page.push_str(qr);
    }
    page
}

/// Returns a QR code of the text, two modules to a character; each line is a comment of the page. What is drawn is
/// light on a terminal, which is dark, and ink on paper.
pub fn qr(text: &str, on_dark: bool) -> Result<Zeroizing<String>> {
    let failed = |error| Error::caused(ErrorKind::Io, "cannot make a QR code of the key", error);
    let code = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::M).map_err(failed)?;
    let width = code.width();
    let is_dark = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(QUIET_MODULES).filter(|at| *at < width);
        matches!((inside(x), inside(y)), (Some(x), Some(y)) if code[(x, y)] == Color::Dark)
    };
    let side = width + 2 * QUIET_MODULES;
    // Room for all of it: a text that grows leaves copies behind.
    let mut drawn = Zeroizing::new(String::with_capacity(4 * side * side));
    for y in (0..side).step_by(2) {
        drawn.push_str("# ");
        for x in 0..side {
            drawn.push(match (is_dark(x, y) != on_dark, is_dark(x, y + 1) != on_dark) {
                (false, false) => ' ',
                (false, true) => '\u{2584}',
                (true, false) => '\u{2580}',
                (true, true) => '\u{2588}',
            });
        }
        drawn.push('\n');
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use packvault::format::{RepoId, RepositoryKey, recovery_page};

    use super::*;

    fn key() -> Zeroizing<String> {
        let id = RepoId::parse("5d61e8af-fa85-4c85-a408-d2e53ac0ed20").unwrap();
        recovery_page::encode(&id, &RepositoryKey::from_bytes([0xa7; 32]))
    }

    #[test]
    fn the_whole_page_is_read_back_as_it_is() {
        let (key, qr) = (key(), qr(&key(), false).unwrap());
        let page = page("s3://bucket/a", &key, Some(&qr));
        assert_eq!(recovery_page::parse(&page).unwrap().1.expose(), &[0xa7; 32]);
        assert!(recovery_page::is_one(&page) && page.contains("s3://bucket/a"));
        assert!(page.lines().all(|line| line.chars().count() <= 96));
    }

    #[test]
    fn the_code_is_square_with_a_light_border() {
        let (qr, paper) = (qr(&key(), true).unwrap(), super::qr(&key(), false).unwrap());
        assert_eq!(qr.matches('\u{2588}').count(), paper.matches(' ').count() - paper.lines().count());
        let lines: Vec<Vec<char>> = qr.lines().map(|line| line.chars().skip(2).collect()).collect();
        let side = lines[0].len();
        assert_eq!(lines.len(), side.div_ceil(2));
        assert!(lines.iter().all(|line| line.len() == side));
        assert!(lines[..2].iter().all(|line| line.iter().all(|c| *c == '\u{2588}')), "the border");
        // The corner that every code begins with: seven dark modules.
        assert_eq!(lines[2][4..11], [' ', '\u{2584}', '\u{2584}', '\u{2584}', '\u{2584}', '\u{2584}', ' ']);
    }
}
