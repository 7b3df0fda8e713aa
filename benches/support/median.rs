//! Medians over rounds.

use super::process::Cost;

/// Returns the median CPU and the median wall time.
pub fn median_cost(costs: impl Iterator<Item = Cost> + Clone) -> Cost {
    Cost {
        cpu_seconds: median(costs.clone().map(|cost| cost.cpu_seconds)),
        wall_seconds: median(costs.map(|cost| cost.wall_seconds)),
    }
}

/// Returns the median, the upper one of an even number; 0 of nothing.
pub fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}
