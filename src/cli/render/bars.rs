//! Progress as bars that are redrawn in place, one line per stage, for a terminal.
//!
//! Finished stages stay above the running ones until all is over; then everything is cleared, so that the
//! result stands alone.

use std::io::IsTerminal as _;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use packvault::progress::Stage;

use super::screen::Screen;
use super::{Painter, View};
use crate::cli::text::escape;

/// A stage whose total is known.
const BAR: &str = "{prefix:11}  [{bar:24}]  {msg}";

/// A stage that cannot say how far it is.
const SPINNER: &str = "{prefix:11}  {spinner}  {msg}";

/// How often bars are drawn at most, in a second.
const DRAWINGS: u8 = 20;

/// Returns where bars are drawn: on the terminal, if standard error is one.
pub(in crate::cli) fn target() -> ProgressDrawTarget {
    match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), DRAWINGS),
        false => ProgressDrawTarget::hidden(),
    }
}

/// Draws a line per stage.
pub(in crate::cli) struct Bars {
    lines: MultiProgress,
    running: Vec<(Stage, ProgressBar)>,
    finished: Vec<ProgressBar>,
}

impl Bars {
    pub(in crate::cli) fn new(target: ProgressDrawTarget) -> Self {
        Self { lines: MultiProgress::with_draw_target(target), running: Vec::new(), finished: Vec::new() }
    }

    fn bar(&self, stage: Stage) -> Option<&ProgressBar> {
        self.running.iter().find(|(running, _)| *running == stage).map(|(_, bar)| bar)
    }

    fn show(&self, view: &View<'_>) {
        if let Some(bar) = self.bar(view.stage) {
            bar.set_position(view.done);
            bar.set_message(message(view));
            bar.tick();
        }
    }
}

fn message(view: &View<'_>) -> String {
    let what = match view.step {
        Some(step) => step.to_owned(),
        None if view.has_amount() => view.amount(),
        None => String::new(),
    };
    let line = what + &view.elapsed_suffix();
    line.trim_start_matches(", ").to_owned()
}

/// The templates are constants, and a test parses them; a bar without one would still be a bar.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ").tick_chars("|/-\\ ")
}

impl Painter for Bars {
    fn begin(&mut self, view: &View<'_>) {
        let template = if view.total.is_some() { BAR } else { SPINNER };
        let bar = ProgressBar::hidden().with_style(style(template)).with_prefix(view.stage.name());
        if let Some(total) = view.total {
            bar.set_length(total);
        }
        let bar = self.lines.add(bar);
        self.running.retain(|(stage, _)| *stage != view.stage);
        self.running.push((view.stage, bar));
        self.show(view);
    }

    fn step(&mut self, view: &View<'_>) {
        self.show(view);
    }

    fn tick(&mut self, view: &View<'_>) {
        self.show(view);
    }

    fn end(&mut self, view: &View<'_>) {
        self.show(view);
        if let Some(index) = self.running.iter().position(|(stage, _)| *stage == view.stage) {
            let (_, bar) = self.running.remove(index);
            let amount = if view.has_amount() { view.amount() } else { "done".to_owned() };
            bar.abandon_with_message(amount + &view.elapsed_suffix());
            self.finished.push(bar);
        }
    }

    fn remark(&mut self, text: &str) {
        let _ = self.lines.println(escape(text));
    }

    fn close(&mut self) {
        let _ = self.lines.clear();
        // A bar that is dropped unfinished would draw itself once more.
        self.lines.set_draw_target(ProgressDrawTarget::hidden());
        self.running.clear();
        self.finished.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use indicatif::TermLike;
    use packvault::progress::{Progress, Unit};

    use super::super::tests::Stand;
    use super::*;

    /// A terminal that keeps what is written, and notes the clearing of a line as `<clear>`.
    #[derive(Clone, Default)]
    struct Screen(Stand);

    impl std::fmt::Debug for Screen {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Screen")
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }
        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.0.clone().write_all(text.as_bytes())
        }
        fn clear_line(&self) -> std::io::Result<()> {
            self.write_str("<clear>\n")
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn target(screen: &Screen) -> ProgressDrawTarget {
        ProgressDrawTarget::term_like(Box::new(screen.clone()))
    }

    #[test]
    fn the_templates_are_valid() {
        for template in [BAR, SPINNER] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }

    #[test]
    fn the_last_drawing_of_a_stage_has_its_last_number() {
        let screen = Screen::default();
        let renderer = screen.0.renderer(Bars::new(target(&screen)));
        renderer.begin(Stage::Pack, Unit::Bytes, Some(2 << 20));
        renderer.advance(Stage::Pack, 1 << 20);
        screen.0.pass(&renderer, Duration::from_secs(2));
        renderer.advance(Stage::Pack, 1 << 20);
        renderer.end(Stage::Pack);
        let written = screen.0.written();
        assert!(written.contains("pack         ["), "{written}");
        assert!(written.trim_end().ends_with("2.0 MiB, 2 s"), "{written}");
    }

    #[test]
    fn closing_clears_running_and_finished_stages() {
        let screen = Screen::default();
        let renderer = screen.0.renderer(Bars::new(target(&screen)));
        renderer.begin(Stage::Scan, Unit::Pages, Some(2));
        renderer.end(Stage::Scan);
        renderer.begin(Stage::Freeze, Unit::Steps, None);
        let before = screen.0.written().len();
        renderer.close();
        let after = screen.0.written().split_off(before);
        assert!(after.contains("<clear>"), "{after}");
        assert!(!after.contains("freeze") && !after.contains("scan"), "{after}");
        renderer.end(Stage::Freeze);
        assert_eq!(screen.0.written().len(), before + after.len());
    }

    #[test]
    fn a_remark_is_a_line_of_its_own() {
        let screen = Screen::default();
        let renderer = screen.0.renderer(Bars::new(target(&screen)));
        renderer.begin(Stage::Scan, Unit::Pages, Some(2));
        renderer.remark("waiting for the lock");
        assert!(screen.0.written().contains("waiting for the lock"));
    }
}
