//! Small drawings: plain SVG without a script, as wide as the page. Numbers and texts of ours alone are in them.

use std::fmt::Write as _;

/// The drawing, in its own units.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 120.0;
/// Marks that one drawing shows; of more, the highest of each part of the time.
const MARKS_MAX: usize = 160;

/// One value at a time; `is_bad` is drawn in another shape, not only another colour.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// When.
    pub at_ms: i64,
    /// How much.
    pub value: f64,
    /// Whether it failed.
    pub is_bad: bool,
}

/// Draws the values over a time as bars. `gaps` are shaded; `title` is for those who do not see it, and is plain text of
/// ours.
pub fn bars(title: &str, marks: &[Mark], gaps: &[(i64, i64)], (from_ms, to_ms): (i64, i64)) -> String {
    let span = (to_ms.saturating_sub(from_ms)).max(1) as f64;
    let x = |at_ms: i64| ((at_ms.saturating_sub(from_ms)) as f64 / span * WIDTH).clamp(0.0, WIDTH);
    let marks = thinned(marks, from_ms, span);
    let highest = marks.iter().map(|mark| mark.value).fold(0.0, f64::max);
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" preserveAspectRatio=\"none\">\
         <title>{title}</title>"
    );
    for (from, to) in gaps {
        let (left, right) = (x(*from), x(*to));
        let _ = write!(
            svg,
            "<rect class=\"gap\" x=\"{left:.1}\" y=\"0\" width=\"{:.1}\" height=\"{HEIGHT}\"/>",
            (right - left).max(1.0)
        );
    }
    let width = (WIDTH / MARKS_MAX as f64 * 0.7).max(1.5);
    for mark in &marks {
        // A value of nothing is still a mark: something was done.
        let share = if highest > 0.0 { mark.value / highest } else { 0.0 };
        let height = (share * (HEIGHT - 8.0)).max(3.0);
        let (left, top) = ((x(mark.at_ms) - width / 2.0).clamp(0.0, WIDTH - width), HEIGHT - height);
        let class = if mark.is_bad { "bad" } else { "bar" };
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        );
        if mark.is_bad {
            let middle = left + width / 2.0;
            let _ = write!(
                svg,
                "<path class=\"cross\" d=\"M{:.1} 2l6 6m0 -6l-6 6\"/>",
                (middle - 3.0).clamp(0.0, WIDTH - 6.0)
            );
        }
    }
    let _ = write!(svg, "<path class=\"axis\" d=\"M0 {HEIGHT}H{WIDTH}\"/></svg>");
    svg
}

/// Keeps the highest mark of each part of the time, and a bad one before others.
fn thinned(marks: &[Mark], from_ms: i64, span: f64) -> Vec<Mark> {
    let mut kept: Vec<(usize, Mark)> = Vec::new();
    for mark in marks.iter().filter(|mark| mark.value.is_finite()) {
        let part = ((mark.at_ms.saturating_sub(from_ms)) as f64 / span * MARKS_MAX as f64).max(0.0) as usize;
        match kept.last_mut() {
            Some((last, before)) if *last == part => {
                let is_bad = before.is_bad || mark.is_bad;
                if mark.value > before.value {
                    *before = *mark;
                }
                before.is_bad = is_bad;
            }
            _ => kept.push((part, *mark)),
        }
    }
    kept.into_iter().map(|(_, mark)| mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_is_bounded_and_stays_in_its_frame_whatever_the_times_are() {
        let marks: Vec<Mark> = (0..100_000)
            .map(|number| Mark { at_ms: number * 1000, value: number as f64, is_bad: number % 7_777 == 0 })
            .collect();
        let svg = bars("sizes", &marks, &[(5, 900)], (0, 100_000_000));
        assert!(svg.matches("<rect").count() <= MARKS_MAX + 3, "{}", svg.matches("<rect").count());
        assert!(
            svg.contains("class=\"bad\"") && svg.contains("class=\"gap\"") && svg.contains("class=\"cross\"")
        );
        for (from, to) in [(0, 0), (10, 5), (i64::MIN, i64::MAX)] {
            let svg = bars("x", &marks[..3], &[(i64::MIN, i64::MAX)], (from, to));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert!(bars("x", &[], &[], (0, 1)).ends_with("</svg>"));
    }
}
