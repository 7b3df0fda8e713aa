//! The terminal that bars are drawn on: whole drawings go to standard error, which waits for nobody once the user has
//! stopped the program.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;
use rustix::termios::tcgetwinsize;

use crate::cli::outlet::ERRORS;

/// Where the terminal does not say how wide it is.
const COLUMNS: u16 = 80;
/// Where it does not say how high it is.
const LINES: u16 = 24;

/// Standard error, as a terminal.
#[derive(Debug, Default)]
pub(super) struct Screen(Mutex<String>);

impl Screen {
    fn drawing(&self) -> MutexGuard<'_, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, text: &str) -> io::Result<()> {
        self.drawing().push_str(text);
        Ok(())
    }

    fn move_cursor(&self, lines: usize, direction: char) -> io::Result<()> {
        if lines == 0 { Ok(()) } else { self.add(&format!("\x1b[{lines}{direction}")) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        tcgetwinsize(io::stderr()).map_or(COLUMNS, |size| size.ws_col)
    }

    fn height(&self) -> u16 {
        tcgetwinsize(io::stderr()).map_or(LINES, |size| size.ws_row)
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(text).and_then(|()| self.add("\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add("\r\x1b[2K")
    }

    /// Draws. That nobody sees it is no reason to fail.
    fn flush(&self) -> io::Result<()> {
        let drawing = std::mem::take(&mut *self.drawing());
        if !drawing.is_empty() {
            let _ = ERRORS.write(drawing.as_bytes());
        }
        Ok(())
    }
}
