//! Progress as JSON lines on standard error, for programs. Each line is one object; `event` says which:
//!
//! - `begin`: a stage begins: `stage`, `unit` (`bytes`, `pages`, `items`, `steps`), `total` or null;
//! - `advance`: a running stage: also `done`, `step` or null, `seconds`; at most twice a second while `done`
//!   moves, every ten seconds while it does not;
//! - `step`: the stage is busy with something new: the same fields;
//! - `end`: the stage is over: the same fields, with the final numbers;
//! - `remark`: `text` for a person.

use std::io::Write;
use std::time::Duration;

use packvault::progress::Unit;
use serde::Serialize;

use super::lines::LastLines;
use super::{Painter, View};

/// Between two lines of a stage whose number moves.
const LINE_EVERY: Duration = Duration::from_millis(500);

/// Between two lines of a stage whose number does not move.
const SILENT_LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes one object per line.
pub(in crate::cli) struct Json<W> {
    writer: W,
    last_lines: LastLines,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event<'a> {
    Begin { stage: &'a str, unit: &'a str, total: Option<u64> },
    Advance(Numbers<'a>),
    Step(Numbers<'a>),
    End(Numbers<'a>),
    Remark { text: &'a str },
}

#[derive(Serialize)]
struct Numbers<'a> {
    stage: &'a str,
    unit: &'a str,
    total: Option<u64>,
    done: u64,
    step: Option<&'a str>,
    seconds: f64,
}

impl<'a> Numbers<'a> {
    fn of(view: &View<'a>) -> Self {
        Self {
            stage: view.stage.name(),
            unit: unit_name(view.unit),
            total: view.total,
            done: view.done,
            step: view.step,
            seconds: view.elapsed.as_millis() as f64 / 1000.0,
        }
    }
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "bytes",
        Unit::Pages => "pages",
        Unit::Items => "items",
        Unit::Steps => "steps",
    }
}

impl<W: Write + Send> Json<W> {
    pub(in crate::cli) fn new(writer: W) -> Self {
        Self { writer, last_lines: LastLines::default() }
    }

    /// Writes the line in one piece; a reader that has gone is no reason to stop.
    fn line(&mut self, event: &Event<'_>) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = self.writer.write_all(&line);
            let _ = self.writer.flush();
        }
    }
}

impl<W: Write + Send> Painter for Json<W> {
    fn begin(&mut self, view: &View<'_>) {
        let (stage, unit) = (view.stage.name(), unit_name(view.unit));
        self.line(&Event::Begin { stage, unit, total: view.total });
        self.last_lines.note(view);
    }

    fn step(&mut self, view: &View<'_>) {
        self.line(&Event::Step(Numbers::of(view)));
        self.last_lines.note(view);
    }

    fn tick(&mut self, view: &View<'_>) {
        let Some(last) = self.last_lines.of(view) else { return };
        let wait = if view.done == last.done { SILENT_LINE_EVERY } else { LINE_EVERY };
        if last.age(view) >= wait {
            self.line(&Event::Advance(Numbers::of(view)));
            self.last_lines.note(view);
        }
    }

    fn end(&mut self, view: &View<'_>) {
        self.line(&Event::End(Numbers::of(view)));
        self.last_lines.forget(view);
    }

    fn remark(&mut self, text: &str) {
        self.line(&Event::Remark { text });
    }

    fn close(&mut self) {}
}

#[cfg(test)]
mod tests {
    use packvault::progress::{Progress, Stage};

    use super::super::tests::Stand;
    use super::*;

    #[test]
    fn every_event_is_one_object_on_one_line() {
        let stand = Stand::default();
        let renderer = stand.renderer(Json::new(stand.clone()));
        renderer.begin(Stage::Proof, Unit::Steps, Some(2));
        renderer.step(Stage::Proof, "integrity check");
        renderer.advance(Stage::Proof, 1);
        stand.pass(&renderer, Duration::from_millis(700));
        renderer.remark("a\nb");
        renderer.end(Stage::Proof);
        let expected = r#"{"event":"begin","stage":"proof","unit":"steps","total":2}
{"event":"step","stage":"proof","unit":"steps","total":2,"done":0,"step":"integrity check","seconds":0.0}
{"event":"advance","stage":"proof","unit":"steps","total":2,"done":1,"step":"integrity check","seconds":0.5}
{"event":"remark","text":"a\nb"}
{"event":"end","stage":"proof","unit":"steps","total":2,"done":1,"step":"integrity check","seconds":0.7}
"#;
        assert_eq!(stand.written(), expected);
    }

    #[test]
    fn a_silent_stage_says_every_ten_seconds_that_it_lives() {
        let stand = Stand::default();
        let renderer = stand.renderer(Json::new(stand.clone()));
        renderer.begin(Stage::Freeze, Unit::Steps, None);
        stand.pass(&renderer, Duration::from_secs(25));
        assert_eq!(stand.written().lines().filter(|line| line.contains("advance")).count(), 2);
    }
}
