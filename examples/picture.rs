//! Draws what a terminal shows as an SVG: text on standard input, the picture on standard output.
//!
//! The README's picture is the demo's real output, drawn by `just picture`. Every line is stretched to its
//! columns, so the picture looks the same whatever monospaced font the reader has.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

/// Fewest columns of the card; a longer line widens it.
const COLUMNS_MIN: usize = 72;
const COLUMN_WIDTH: f64 = 9.0;
const LINE_HEIGHT: f64 = 20.0;
const FONT_SIZE: f64 = 15.0;
const MARGIN: f64 = 18.0;
/// The bar at the top with its three dots.
const BAR_HEIGHT: f64 = 34.0;

const CARD: &str = "#14181f";
const BAR: &str = "#232935";
const OUTPUT: &str = "#c9d1d9";
const COMMAND: &str = "#ffffff";
const NOTE: &str = "#7ee2a8";

fn main() -> io::Result<()> {
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    io::stdout().lock().write_all(draw(text.trim_end()).as_bytes())
}

fn draw(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0).max(COLUMNS_MIN);
    let width = columns as f64 * COLUMN_WIDTH + 2.0 * MARGIN;
    let height = BAR_HEIGHT + lines.len() as f64 * LINE_HEIGHT + 2.0 * MARGIN;
    let mut svg = frame(width, height);
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let y = BAR_HEIGHT + MARGIN + (number as f64 + 0.75) * LINE_HEIGHT;
        draw_line(&mut svg, line, y);
    }
    svg.push_str("</svg>\n");
    svg
}

fn frame(width: f64, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" \
         font-size=\"{FONT_SIZE}\">\n<title>packvault demo</title>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"10\" fill=\"{CARD}\"/>\n\
         <path d=\"M0 {BAR_HEIGHT}V10A10 10 0 0 1 10 0H{right}A10 10 0 0 1 {width} 10V{BAR_HEIGHT}Z\" \
         fill=\"{BAR}\"/>\n",
        right = width - 10.0,
    );
    for (number, colour) in ["#ff6058", "#ffbd2e", "#28c941"].iter().enumerate() {
        let (x, y) = (MARGIN + 4.0 + number as f64 * 18.0, BAR_HEIGHT / 2.0);
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"5\" fill=\"{colour}\"/>");
    }
    svg
}

fn draw_line(svg: &mut String, line: &str, y: f64) {
    let (colour, weight) = match line.chars().next() {
        Some('$') => (COMMAND, " font-weight=\"bold\""),
        Some('#') => (NOTE, ""),
        _ => (OUTPUT, ""),
    };
    // Leading blanks become distance: not every viewer keeps them.
    let shown = line.trim_start();
    let indent = line.chars().count() - shown.chars().count();
    let x = MARGIN + indent as f64 * COLUMN_WIDTH;
    let length = shown.chars().count() as f64 * COLUMN_WIDTH;
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\"{weight} textLength=\"{length}\" \
         xml:space=\"preserve\">{}</text>",
        escape(shown)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
