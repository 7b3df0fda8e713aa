//! The tables: a block for each server and delay, and the ratios of all of them at the end.

use super::packvault::NAMES;
use super::round::{Round, Subject};
use super::servers::Kind;
use crate::support::median::median;
use crate::support::process::Usage;

const MEBIBYTE: f64 = (1 << 20) as f64;

/// The ratios of one server and delay, in the order of [`NAMES`].
pub struct Line {
    kind: Kind,
    delay_millis: u64,
    ratios: [f64; NAMES.len()],
    peak_mebibytes: f64,
}

/// Medians over the rounds.
struct Medians {
    wall_seconds: f64,
    cpu_seconds: f64,
    peak_mebibytes: f64,
}

impl Medians {
    fn of(usages: impl Iterator<Item = Usage> + Clone) -> Self {
        Self {
            wall_seconds: median(usages.clone().map(|usage| usage.cost.wall_seconds)),
            cpu_seconds: median(usages.clone().map(|usage| usage.cost.cpu_seconds)),
            peak_mebibytes: median(usages.map(|usage| usage.peak_bytes as f64 / MEBIBYTE)),
        }
    }
}

/// Prints what is carried.
pub fn print_subject(megabytes: u64, subject: &Subject) {
    let stored = subject.stored_bytes as f64 / MEBIBYTE;
    println!("archive of {megabytes} MB, stored {stored:.0} MiB in {} packs", subject.packs.len());
}

/// Prints one server behind one line; without rounds there is nothing to print.
pub fn print_rounds(kind: Kind, delay_millis: u64, stored_bytes: u64, rounds: &[Round]) -> Option<Line> {
    let first = rounds.first()?;
    println!(
        "\n{:<20} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        format!("{}, {delay_millis} ms", kind.name()),
        "wall s",
        "MiB/s",
        "ratio",
        "local s",
        "of bound",
        "CPU s",
        "peak MiB"
    );
    let stored = stored_bytes as f64 / MEBIBYTE;
    let mut line = Line { kind, delay_millis, ratios: [0.0; NAMES.len()], peak_mebibytes: 0.0 };
    let mut best_seconds = [f64::INFINITY; 2];
    for (way, clients) in [(0, first.put.len()), (1, first.get.len())] {
        for place in 0..clients {
            let of = |round: &Round| if way == 0 { round.put[place] } else { round.get[place] };
            let medians = Medians::of(rounds.iter().map(|round| of(round).1));
            best_seconds[way] = best_seconds[way].min(medians.wall_seconds);
            let name = format!("{} {}", ["put:", "get:"][way], of(first).0);
            println!("{}", common(&name, stored, &medians, "", "", ""));
        }
    }
    for (place, name) in NAMES.iter().enumerate() {
        let medians = Medians::of(rounds.iter().map(|round| round.remote[place]));
        let local = Medians::of(rounds.iter().map(|round| round.local[place]));
        let best = best_seconds[usize::from(place > 0)];
        let ratio = best / medians.wall_seconds;
        let of_bound = best.max(local.wall_seconds) / medians.wall_seconds;
        let shown = [ratio, local.wall_seconds, of_bound].map(|number| format!("{number:.2}"));
        println!("{}", common(name, stored, &medians, &shown[0], &shown[1], &shown[2]));
        line.ratios[place] = ratio;
        line.peak_mebibytes = line.peak_mebibytes.max(medians.peak_mebibytes);
    }
    Some(line)
}

fn common(name: &str, stored: f64, medians: &Medians, ratio: &str, local: &str, bound: &str) -> String {
    let Medians { wall_seconds, cpu_seconds, peak_mebibytes } = medians;
    let rate = stored / wall_seconds;
    format!(
        "{name:<20} {wall_seconds:>8.2} {rate:>8.0} {ratio:>8} {local:>8} {bound:>8} {cpu_seconds:>8.2} \
         {peak_mebibytes:>8.0}"
    )
}

/// Prints the ratios of all servers and delays.
pub fn print_summary(lines: &[Line]) {
    println!(
        "\n{:<12} {:>8} {:>10} {:>14} {:>10} {:>10}",
        "ratio", "delay", NAMES[0], NAMES[1], NAMES[2], "peak MiB"
    );
    for Line { kind, delay_millis, ratios: [create, verify, restore], peak_mebibytes } in lines {
        let name = kind.name();
        println!(
            "{name:<12} {delay_millis:>5} ms {create:>10.2} {verify:>14.2} {restore:>10.2} {peak_mebibytes:>10.0}"
        );
    }
}
