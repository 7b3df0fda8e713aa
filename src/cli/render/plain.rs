//! Progress as plain lines, for pipes and log files: one when a stage ends, one for a new step, and one
//! every ten seconds in between, so that a log never falls silent while work goes on.

use std::io::Write;
use std::time::Duration;

use super::lines::LastLines;
use super::{Painter, View};
use crate::cli::text::{duration, escape};

/// Between two lines of a stage that is running.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes lines.
pub(in crate::cli) struct Plain<W> {
    writer: W,
    last_lines: LastLines,
}

impl<W: Write + Send> Plain<W> {
    pub(in crate::cli) fn new(writer: W) -> Self {
        Self { writer, last_lines: LastLines::default() }
    }

    /// Writes the line in one piece, so that lines of several processes do not mix.
    fn line(&mut self, text: String) {
        // Whoever read the progress may have gone; the operation itself goes on.
        let _ = self.writer.write_all((text + "\n").as_bytes());
        let _ = self.writer.flush();
    }
}

impl<W: Write + Send> Painter for Plain<W> {
    fn begin(&mut self, view: &View<'_>) {
        self.last_lines.note(view);
    }

    fn step(&mut self, view: &View<'_>) {
        let step = view.step.unwrap_or_default();
        self.line(format!("{}: {step}", view.stage.name()));
        self.last_lines.note(view);
    }

    fn tick(&mut self, view: &View<'_>) {
        let Some(last) = self.last_lines.of(view) else { return };
        if last.age(view) < LINE_EVERY {
            return;
        }
        let (stage, moved) = (view.stage.name(), view.done != last.done);
        let line = match view.step {
            _ if moved => format!("{stage}: {}{}", view.amount(), view.elapsed_suffix()),
            Some(step) => format!("still in {stage} ({step}), {}", duration(view.elapsed)),
            None => format!("still in {stage}, {}", duration(view.elapsed)),
        };
        self.line(line);
        self.last_lines.note(view);
    }

    fn end(&mut self, view: &View<'_>) {
        let amount = if view.has_amount() { view.amount() } else { "done".to_owned() };
        self.line(format!("{}: {amount}{}", view.stage.name(), view.elapsed_suffix()));
        self.last_lines.forget(view);
    }

    fn remark(&mut self, text: &str) {
        self.line(escape(text));
    }

    fn close(&mut self) {}
}

#[cfg(test)]
mod tests {
    use packvault::progress::{Progress, Stage, Unit};

    use super::super::tests::Stand;
    use super::*;

    #[test]
    fn a_quick_stage_is_one_line_without_a_time() {
        let stand = Stand::default();
        let renderer = stand.renderer(Plain::new(stand.clone()));
        renderer.begin(Stage::Freeze, Unit::Steps, None);
        stand.pass(&renderer, Duration::from_millis(900));
        renderer.end(Stage::Freeze);
        renderer.begin(Stage::Scan, Unit::Pages, Some(1500));
        renderer.advance(Stage::Scan, 1500);
        renderer.end(Stage::Scan);
        assert_eq!(stand.written(), "freeze: done\nscan: 1,500 pages\n");
    }

    #[test]
    fn a_silent_stage_keeps_counting_its_time() {
        let stand = Stand::default();
        let renderer = stand.renderer(Plain::new(stand.clone()));
        renderer.begin(Stage::Freeze, Unit::Steps, None);
        stand.pass(&renderer, Duration::from_secs(25));
        renderer.end(Stage::Freeze);
        assert_eq!(stand.written(), "still in freeze, 10 s\nstill in freeze, 20 s\nfreeze: done, 25 s\n");
    }

    #[test]
    fn a_working_stage_shows_its_numbers_and_the_last_one_is_true() {
        let stand = Stand::default();
        let renderer = stand.renderer(Plain::new(stand.clone()));
        renderer.begin(Stage::Pack, Unit::Bytes, Some(600 << 20));
        renderer.advance(Stage::Pack, 120 << 20);
        stand.pass(&renderer, Duration::from_secs(10));
        renderer.advance(Stage::Pack, 480 << 20);
        renderer.end(Stage::Pack);
        assert_eq!(stand.written(), "pack: 120 MiB of 600 MiB, 10 s\npack: 600 MiB, 10 s\n");
    }

    #[test]
    fn steps_and_remarks_are_lines_and_hostile_ones_are_harmless() {
        let stand = Stand::default();
        let renderer = stand.renderer(Plain::new(stand.clone()));
        renderer.begin(Stage::Proof, Unit::Steps, Some(2));
        renderer.step(Stage::Proof, "integrity check");
        stand.pass(&renderer, Duration::from_secs(10));
        renderer.remark("waiting for \x1b[2J");
        renderer.advance(Stage::Proof, 1);
        renderer.end(Stage::Proof);
        let expected = "\
proof: integrity check
still in proof (integrity check), 10 s
waiting for \\u{1b}[2J
proof: 1 of 2 steps, 10 s
";
        assert_eq!(stand.written(), expected);
    }

    #[test]
    fn stages_that_overlap_have_their_own_lines() {
        let stand = Stand::default();
        let renderer = stand.renderer(Plain::new(stand.clone()));
        renderer.begin(Stage::Scan, Unit::Pages, None);
        stand.pass(&renderer, Duration::from_secs(5));
        renderer.begin(Stage::Pack, Unit::Bytes, None);
        stand.pass(&renderer, Duration::from_secs(5));
        renderer.end(Stage::Scan);
        stand.pass(&renderer, Duration::from_secs(5));
        assert_eq!(stand.written(), "still in scan, 10 s\nscan: done, 10 s\nstill in pack, 10 s\n");
    }
}
