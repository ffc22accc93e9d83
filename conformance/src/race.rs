//! Several implementations do the same calls in turns, timed.

use crate::call::{Call, percentile};
use std::fmt;
use std::time::{Duration, Instant};

/// One of those who race.
pub struct Side<'a> {
    /// Its call for a verb.
    pub call: &'a dyn Fn(&str) -> Call,
    /// What has to be done after a call of that verb, outside the time.
    pub after: &'a dyn Fn(&str),
}

/// What a verb took one side. As text: median / 95th percentile in ms; system calls / programs started.
pub struct Outcome {
    times: Vec<Duration>,
    cost: (usize, usize),
}

impl Outcome {
    /// The time in ms that half of the calls stay below.
    #[must_use]
    pub fn median(&self) -> f64 {
        percentile(&self.times, 50)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (calls, programs) = self.cost;
        write!(f, "{:.1} / {:.1}; {calls} / {programs}", self.median(), percentile(&self.times, 95))
    }
}

/// Lets `sides` do each of `verbs`, in that order, `rounds` times; who begins changes. For each verb the outcome of each
/// side.
///
/// # Panics
/// When a call fails.
#[must_use]
pub fn race(sides: &[Side], verbs: &[&str], rounds: usize) -> Vec<Vec<Outcome>> {
    let timed = |side: &Side, verb: &str| {
        let call = (side.call)(verb);
        let begun = Instant::now();
        let answer = call.run();
        let took = begun.elapsed();
        assert!(answer.is_ok(), "{}", answer.dump());
        (side.after)(verb);
        took
    };
    // The first calls pay for what stays: tables, chains, modules.
    let mut outcomes: Vec<Vec<Outcome>> = verbs
        .iter()
        .map(|_| sides.iter().map(|_| Outcome { times: vec![], cost: (0, 0) }).collect())
        .collect();
    for side in sides {
        for verb in verbs {
            timed(side, verb);
        }
    }
    for round in 0..rounds {
        for s in (0..sides.len()).map(|turn| (round + turn) % sides.len()) {
            for (v, verb) in verbs.iter().enumerate() {
                outcomes[v][s].times.push(timed(&sides[s], verb));
            }
        }
    }
    for (s, side) in sides.iter().enumerate() {
        for (v, verb) in verbs.iter().enumerate() {
            outcomes[v][s].cost = (side.call)(verb).cost();
            (side.after)(verb);
        }
    }
    outcomes
}
