//! The tables: what the parts cost, what the commands cost beside them, how memory grows.

use super::commands::{NAMES, Round};
use super::parts::Parts;
use crate::support::median::{median, median_cost};
use crate::support::process::Cost;

const MEBIBYTE: f64 = (1 << 20) as f64;

/// Prints what each part costs alone.
pub fn print_parts(megabytes: u64, parts: &Parts) {
    let (database, attachments) = (parts.database_bytes, parts.attachments_bytes);
    let raw = database + attachments;
    println!(
        "\narchive of {megabytes} MB: database {} MB, attachments {} MB, stored {} MB",
        mega(database),
        mega(attachments),
        mega(parts.stored_bytes)
    );
    println!("\n{:<18} {:>9} {:>9} {:>9} {:>9}", "part", "MB", "CPU s", "wall s", "MB/CPU s");
    print_part("read", raw, parts.read);
    print_part("hash pages", database, parts.hash_pages);
    print_part("hash database", database, parts.hash_database);
    print_part("hash attachments", attachments, parts.hash_attachments);
    print_part("compress", raw, parts.compress);
    print_part("write stored", parts.stored_bytes, parts.write_stored);
    print_part("read stored", parts.stored_bytes, parts.read_stored);
    print_part("decompress", parts.frame_bytes, parts.decompress);
    print_part("write raw", raw, parts.write_raw);
    print_part("check database", database, parts.check);
}

fn print_part(name: &str, bytes: u64, cost: Cost) {
    let rate = bytes as f64 / 1e6 / cost.cpu_seconds.max(1e-9);
    let Cost { cpu_seconds, wall_seconds } = cost;
    println!("{name:<18} {:>9} {cpu_seconds:>9.2} {wall_seconds:>9.2} {rate:>9.0}", mega(bytes));
}

/// Prints what each command costs beside the sum of its parts; without rounds, the sums alone.
pub fn print_commands(rounds: &[Round], parts: &Parts, jobs: u32) {
    println!(
        "\n{:<18} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "command", "CPU s", "parts", "ratio", "wall s", "CPU/jobs", "peak MiB"
    );
    for (place, (name, sum)) in NAMES.iter().zip(part_sums(parts)).enumerate() {
        if rounds.is_empty() {
            println!("{name:<18} {:>9} {:>9.2}", "-", sum.cpu_seconds);
            continue;
        }
        let cost = median_cost(rounds.iter().map(|round| round[place].cost));
        println!(
            "{name:<18} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>9.0}",
            cost.cpu_seconds,
            sum.cpu_seconds,
            cost.cpu_seconds / sum.cpu_seconds,
            cost.wall_seconds,
            cost.cpu_seconds / f64::from(jobs.max(1)),
            peak_mebibytes(rounds, place),
        );
    }
}

/// Prints what sealing and opening cost: the CPU time of each command beside that of the same in a plain repository, round
/// by round, so that a machine whose speed changes changes both.
pub fn print_sealing(plain: &[Round], encrypted: &[Round]) {
    if encrypted.is_empty() {
        return;
    }
    println!(
        "\n{:<18} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "encrypted", "CPU s", "plain", "ratio", "wall s", "peak MiB"
    );
    for (place, name) in NAMES.iter().enumerate() {
        let cost = |rounds: &[Round]| median_cost(rounds.iter().map(|round| round[place].cost));
        let pairs = plain.iter().zip(encrypted);
        let ratio =
            median(pairs.map(|(plain, sealed)| {
                sealed[place].cost.cpu_seconds / plain[place].cost.cpu_seconds.max(1e-9)
            }));
        println!(
            "{name:<18} {:>9.2} {:>9.2} {ratio:>9.2} {:>9.2} {:>9.0}",
            cost(encrypted).cpu_seconds,
            cost(plain).cpu_seconds,
            cost(encrypted).wall_seconds,
            peak_mebibytes(encrypted, place),
        );
    }
}

/// Prints how the peak memory of each command grows when the archive doubles.
pub fn print_growth(single: &[Round], double: &[Round]) {
    if single.is_empty() {
        return;
    }
    println!("\n{:<18} {:>9} {:>9} {:>9}", "peak memory", "MiB", "doubled", "growth");
    for (place, name) in NAMES.iter().enumerate() {
        let (before, after) = (peak_mebibytes(single, place), peak_mebibytes(double, place));
        println!("{name:<18} {before:>9.0} {after:>9.0} {:>8.0}%", (after / before - 1.0) * 100.0);
    }
}

/// Returns the sums of parts, in the order of the commands.
fn part_sums(parts: &Parts) -> [Cost; NAMES.len()] {
    [parts.create(), parts.unchanged(), parts.verify(), parts.restore(), parts.restore_checked()]
}

fn peak_mebibytes(rounds: &[Round], place: usize) -> f64 {
    median(rounds.iter().map(|round| round[place].peak_bytes as f64 / MEBIBYTE))
}

fn mega(bytes: u64) -> u64 {
    (bytes as f64 / 1e6).round() as u64
}
