//! Rounds in turn.

use super::contest::{By, Contest, Entrant, Ground};
use super::stats::Times;
use cni_harness::call::Call;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is timed, in this order.
pub const VERBS: [&str; 2] = ["ADD", "DEL"];

/// One contest's outcome.
pub struct Measured {
    /// By how many there were at once.
    pub loads: Vec<Load>,
    /// What a call of each verb costs each entrant.
    pub costs: Vec<[Cost; 2]>,
}

/// So many at once.
pub struct Load {
    /// How many.
    pub parallel: usize,
    /// Each entrant, in the order of the command line.
    pub sides: Vec<Side>,
}

/// One entrant's rounds: for each verb, the times of a round's calls, and the time from the first's begin to the last's end.
#[derive(Default)]
pub struct Side([Vec<(Vec<Duration>, Duration)>; 2]);

impl Side {
    /// All times of a verb.
    #[must_use]
    pub fn all(&self, verb: usize) -> Vec<Duration> {
        self.0[verb].iter().flat_map(|(times, _)| times.iter().copied()).collect()
    }

    /// Their percentiles.
    #[must_use]
    pub fn times(&self, verb: usize) -> Times {
        Times::of(&self.all(verb))
    }

    /// The mean of each round.
    #[must_use]
    pub fn rounds(&self, verb: usize) -> Vec<Duration> {
        let mean = |(times, _): &(Vec<Duration>, Duration)| {
            times.iter().sum::<Duration>() / u32::try_from(times.len().max(1)).unwrap_or(u32::MAX)
        };
        self.0[verb].iter().map(mean).collect()
    }

    /// Calls a second.
    #[must_use]
    pub fn throughput(&self, verb: usize) -> f64 {
        let wall: Duration = self.0[verb].iter().map(|(_, wall)| *wall).sum();
        let calls = u32::try_from(self.all(verb).len()).unwrap_or(u32::MAX);
        f64::from(calls) / wall.as_secs_f64()
    }
}

/// What one call costs besides time; `None` where the program that counts is missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    calls: Option<(usize, usize)>,
    memory: Option<usize>,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.calls {
            Some((calls, programs)) => write!(f, "{calls} / {programs} / ")?,
            None => write!(f, "– / – / ")?,
        }
        match self.memory {
            Some(memory) => write!(f, "{memory}"),
            None => write!(f, "–"),
        }
    }
}

/// Lets all entrants do `contest` in turn: about `runs` calls of each verb at each of the loads.
///
/// # Errors
/// When a call fails.
///
/// # Panics
/// When the machine for it can't be had.
pub fn measure(
    contest: &Contest,
    entrants: &[Entrant],
    loads: &[usize],
    runs: usize,
) -> io::Result<Measured> {
    let most = loads.iter().copied().max().unwrap_or(1);
    let ground = Ground::new(contest, entrants, most);
    let bench = Bench { contest, entrants, ground };
    // The first calls pay for what stays: bridges, tables, chains.
    for side in 0..entrants.len() {
        bench.round(side, 1)?;
    }
    let mut measured = Measured { loads: vec![], costs: vec![] };
    for parallel in loads.iter().copied() {
        let mut sides: Vec<Side> = entrants.iter().map(|_| Side::default()).collect();
        for round in 0..runs.div_ceil(parallel).max(5) {
            // Each round in another order: what one leaves to the kernel to clean up, the next one pays.
            for side in (0..entrants.len()).map(|turn| (round + turn) % entrants.len()) {
                for (all, new) in sides[side].0.iter_mut().zip(bench.round(side, parallel)?) {
                    all.push(new);
                }
            }
        }
        measured.loads.push(Load { parallel, sides });
    }
    measured.costs = (0..entrants.len()).map(|side| bench.cost(side)).collect();
    Ok(measured)
}

struct Bench<'a> {
    contest: &'a Contest,
    entrants: &'a [Entrant],
    ground: Ground,
}

impl Bench<'_> {
    fn call(&self, side: usize, verb: &str, n: usize) -> Call {
        self.ground.call(self.contest, (side, &self.entrants[side]), verb, n)
    }

    /// The times of ADD and of DEL with `parallel` at once.
    fn round(&self, side: usize, parallel: usize) -> io::Result<[(Vec<Duration>, Duration); 2]> {
        let timed = |verb: &str| -> io::Result<(Vec<Duration>, Duration)> {
            let calls: Vec<Call> = (0..parallel).map(|n| self.call(side, verb, n)).collect();
            let begun = Instant::now();
            let times = if let [one] = calls.as_slice() { vec![time(one)] } else { at_once(&calls) };
            let wall = begun.elapsed();
            Ok((times.into_iter().collect::<io::Result<_>>()?, wall))
        };
        let done = [timed(VERBS[0])?, timed(VERBS[1])?];
        (0..parallel).for_each(|n| self.ground.clean(self.contest, n));
        Ok(done)
    }

    /// System calls, programs and memory of one ADD and one DEL.
    fn cost(&self, side: usize) -> [Cost; 2] {
        let mut costs = [Cost::default(); 2];
        for (cost, verb) in costs.iter_mut().zip(VERBS) {
            if Path::new("/usr/bin/strace").is_file() {
                cost.calls = Some(self.call(side, verb, 0).cost());
            }
        }
        self.ground.clean(self.contest, 0);
        for (cost, verb) in costs.iter_mut().zip(VERBS) {
            cost.memory = self.memory(side, verb);
        }
        self.ground.clean(self.contest, 0);
        costs
    }

    fn memory(&self, side: usize, verb: &str) -> Option<usize> {
        const TIME: &str = "/usr/bin/time";
        let call = self.call(side, verb, 0);
        if !Path::new(TIME).is_file() {
            return None;
        }
        call.through(TIME, &["-f", "%M"]).run().stderr.lines().last()?.parse().ok()
    }
}

fn time(call: &Call) -> io::Result<Duration> {
    let begun = Instant::now();
    let answer = call.run();
    let took = begun.elapsed();
    if answer.is_ok() { Ok(took) } else { Err(io::Error::other(answer.dump())) }
}

fn at_once(calls: &[Call]) -> Vec<io::Result<Duration>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = calls.iter().map(|call| scope.spawn(move || time(call))).collect();
        let died = |_| Err(io::Error::other("the thread of a call died"));
        running.into_iter().map(|one| one.join().unwrap_or_else(died)).collect()
    })
}

impl Contest {
    /// Whether it is for this entrant.
    #[must_use]
    pub fn is_for(&self, entrant: &Entrant) -> bool {
        match &entrant.by {
            By::Plugins(dir) => dir.join(&self.plugin).is_file(),
            By::Floor { .. } => self.floor.is_some(),
        }
    }
}
