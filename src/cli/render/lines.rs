//! What lines have said of the stages that run.

use std::time::Duration;

use packvault::progress::Stage;

use super::View;

/// The last line of each running stage.
#[derive(Default)]
pub(super) struct LastLines(Vec<LastLine>);

/// What a line said.
#[derive(Clone, Copy)]
pub(super) struct LastLine {
    stage: Stage,
    elapsed: Duration,
    pub(super) done: u64,
}

impl LastLines {
    /// Notes that a line says this of a stage.
    pub(super) fn note(&mut self, view: &View<'_>) {
        self.forget(view);
        self.0.push(LastLine { stage: view.stage, elapsed: view.elapsed, done: view.done });
    }

    /// Forgets a stage that is over.
    pub(super) fn forget(&mut self, view: &View<'_>) {
        self.0.retain(|last| last.stage != view.stage);
    }

    /// Returns what the last line of the stage said.
    pub(super) fn of(&self, view: &View<'_>) -> Option<LastLine> {
        self.0.iter().find(|last| last.stage == view.stage).copied()
    }
}

impl LastLine {
    /// Returns how long ago it was.
    pub(super) fn age(&self, view: &View<'_>) -> Duration {
        view.elapsed.saturating_sub(self.elapsed)
    }
}
