//! What many times say.

use cni_harness::call::percentile;
use std::fmt;
use std::time::Duration;

/// Times of one verb, in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Times {
    /// Half of them are below.
    pub p50: f64,
    /// 95 of 100 are below.
    pub p95: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// The longest.
    pub most: f64,
}

impl Times {
    /// Of these.
    #[must_use]
    pub fn of(times: &[Duration]) -> Self {
        let [p50, p95, p99, most] = [50, 95, 99, 100].map(|part| percentile(times, part));
        Self { p50, p95, p99, most }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} / {:.2} / {:.2} / {:.2}", self.p50, self.p95, self.p99, self.most)
    }
}

/// How one stands to another: the median of the ratios round by round, and what 80 of 100 rounds lie between.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio {
    /// The median.
    pub median: f64,
    /// 10 of 100 rounds are below.
    pub low: f64,
    /// 10 of 100 rounds are above.
    pub high: f64,
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}

/// The times of each round ÷ the first's of the same round: what slows the machine down slows both.
#[must_use]
pub fn ratio(these: &[Duration], first: &[Duration]) -> Ratio {
    let mut ratios: Vec<f64> =
        these.iter().zip(first).map(|(one, other)| one.as_secs_f64() / other.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    let at = |part: usize| {
        let last = ratios.len().saturating_sub(1);
        ratios.get((ratios.len() * part / 100).min(last)).copied().unwrap_or(f64::NAN)
    };
    Ratio { median: at(50), low: at(10), high: at(90) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_one_round() {
        let ms = |all: &[u64]| all.iter().map(|one| Duration::from_millis(*one)).collect::<Vec<_>>();
        // The machine was slow in the second round, for both.
        let found = ratio(&ms(&[20, 200, 22]), &ms(&[10, 100, 10]));
        for (one, want) in [(found.median, 2.0), (found.low, 2.0), (found.high, 2.2)] {
            assert!((one - want).abs() < 1e-9, "{found:?}");
        }
        assert_eq!(Times::of(&ms(&[1, 2, 3, 4])).to_string(), "3.00 / 4.00 / 4.00 / 4.00");
        assert!(ratio(&[], &[]).median.is_nan());
    }
}
