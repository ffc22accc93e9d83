//! Every fault at every point of a chain, by several machines at once.

use super::errors;
use super::node::{Node, Verb};
use super::wrapped::Process;
use crate::chains::Chain;
use cni_harness::faults::Point;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// When a machine panics.
const UNFIT: &str = "the machine did not do what it has to";

/// A fault to be.
#[derive(Debug, Clone)]
pub struct Fault {
    verb: Verb,
    process: Process,
    point: Point,
    /// `SIGKILL`, or an error.
    what: &'static str,
}

impl Fault {
    fn injection(&self) -> String {
        if self.what == "SIGKILL" { "signal=SIGKILL".to_owned() } else { format!("error={}", self.what) }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, process: Process { plugin, run }, point: Point { name, nth, text, .. }, what } =
            self;
        write!(f, "{}: {what} in {plugin} (run {run}) at {name} {nth}: {text:.120}", verb.name())
    }
}

/// What became of the faults of a chain.
#[derive(Debug, Default)]
pub struct Report {
    /// The chain's name.
    pub chain: String,
    /// Verb, plugin and fault → how many happened, and how many calls of that number did not come this time.
    pub tried: BTreeMap<(&'static str, String, &'static str), (usize, usize)>,
    /// What was left, lost or disturbed.
    pub broken: Vec<String>,
    /// Pings that the bystanders answered, all of them.
    pub pings: usize,
    /// Why it could not be done.
    pub failed: Option<String>,
}

impl Report {
    /// Of a chain that does not work.
    #[must_use]
    pub fn failed(chain: &Chain, why: &str) -> Self {
        Self { chain: chain.name.clone(), failed: Some(why.to_owned()), ..Self::default() }
    }
}

/// All faults there are for `chain`.
///
/// # Errors
/// Why the chain does not work without any.
pub fn faults(chain: &Chain) -> Result<Vec<Fault>, String> {
    // A machine is a thread's.
    std::thread::scope(|scope| scope.spawn(|| plan(chain)).join()).unwrap_or_else(|_| Err(UNFIT.to_owned()))
}

/// Breaks `chain` with each of `faults`, on `jobs` machines, and calls `step` after each.
#[must_use]
pub fn run(chain: &Chain, faults: &[Fault], jobs: usize, step: &(dyn Fn(&str) + Sync)) -> Report {
    let mut report = Report { chain: chain.name.clone(), ..Report::default() };
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(&mut report);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1))
            .map(|_| {
                scope.spawn(|| {
                    while let Some(fault) = work(chain, faults, &next, &shared, step) {
                        tell(&shared, |report| report.broken.push(fault));
                    }
                })
            })
            .collect();
        for worker in workers {
            if worker.join().is_err() {
                tell(&shared, |report| {
                    report.failed = Some(UNFIT.to_owned());
                });
            }
        }
    });
    report
}

fn tell(report: &Mutex<&mut Report>, what: impl FnOnce(&mut Report)) {
    what(&mut report.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

/// One machine, until nothing is left to do, or something broke it: then what that was.
fn work(
    chain: &Chain,
    faults: &[Fault],
    next: &AtomicUsize,
    report: &Mutex<&mut Report>,
    step: &(dyn Fn(&str) + Sync),
) -> Option<String> {
    let node = match Node::new(chain) {
        Ok(node) => node,
        Err(why) => {
            tell(report, |report| report.failed = Some(why));
            return None;
        }
    };
    if let Some(why) = &node.unchecked {
        let line = format!("without any fault: {why}; CHECK is not asked any more");
        tell(report, |report| {
            if !report.broken.contains(&line) {
                report.broken.push(line);
            }
        });
    }
    while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
        let ended = attempt(&node, fault);
        step(&fault.process.plugin);
        let happened = node.wrapped.has_happened();
        tell(report, |report| {
            let key = (fault.verb.name(), fault.process.plugin.clone(), fault.what);
            let (yes, no) = report.tried.entry(key).or_default();
            *(if happened { yes } else { no }) += 1;
        });
        if let Err(why) = ended {
            return Some(format!("{fault}\n    {why}"));
        }
    }
    match node.end() {
        Ok(pings) => {
            tell(report, |report| report.pings += pings);
            None
        }
        Err(why) => Some(why),
    }
}

/// Every system call of every process of ADD, DEL and GC, and what can befall it.
fn plan(chain: &Chain) -> Result<Vec<Fault>, String> {
    let node = Node::new(chain)?;
    let mut faults = Vec::new();
    let has_gc = chain.version.as_str() >= "1.1.0";
    for verb in [Verb::Add, Verb::Del, Verb::Gc].into_iter().filter(|verb| *verb != Verb::Gc || has_gc) {
        if verb != Verb::Add {
            node.operate(Verb::Add)?;
        }
        node.wrapped.record();
        node.operate(verb)?;
        node.wrapped.settle()?;
        node.wrapped.leave_alone();
        for (process, points) in node.wrapped.points().map_err(|error| error.to_string())? {
            for point in points {
                let of = |what| Fault { verb, process: process.clone(), point: point.clone(), what };
                faults.push(of("SIGKILL"));
                if point.ours && !point.awaits_exec {
                    faults.extend(errors::of(&point.name).iter().map(|error| of(error)));
                }
            }
        }
        if verb == Verb::Add {
            node.operate(Verb::Del)?;
        }
    }
    node.end().map(|_| faults)
}

/// Lets it happen, and looks whether all can be as before.
fn attempt(node: &Node, fault: &Fault) -> Result<(), String> {
    if fault.verb != Verb::Add {
        node.operate(Verb::Add).map_err(|why| format!("before it, {why}"))?;
    }
    node.wrapped.stderr();
    node.wrapped.arm(&fault.process, &fault.point, &fault.injection());
    let ended = node.operate(fault.verb);
    node.wrapped.settle()?;
    let stderr = node.wrapped.stderr();
    node.wrapped.leave_alone();
    if ["panicked at", "fatal error: "].iter().any(|sign| stderr.contains(sign)) {
        return Err(format!("it crashed: {stderr}"));
    }
    if let Ok(Some(result)) = ended {
        node.check(result).map_err(|why| format!("ADD succeeded, but {why}"))?;
    }
    node.operate(Verb::Del).map_err(|why| format!("after it, {why}"))?;
    node.operate(Verb::Gc).map_err(|why| format!("after it, {why}"))?;
    node.is_as_before()?;
    node.life().map_err(|why| format!("after all, {why}"))
}

/// For people: what was tried, by chain, verb and plugin, and what broke.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let _ = writeln!(text, "{}", report.chain);
        let mut rows: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        for ((verb, plugin, what), (happened, missed)) in &report.tried {
            let missed = if *missed == 0 { String::new() } else { format!(" (+{missed} not reached)") };
            rows.entry((verb, plugin)).or_default().push(format!("{what} {happened}{missed}"));
        }
        for ((verb, plugin), cells) in rows {
            let _ = writeln!(text, "  {verb:3} {plugin:12} {}", cells.join(", "));
        }
        for broken in &report.broken {
            let _ = writeln!(text, "  BROKEN {broken}");
        }
        if let Some(why) = &report.failed {
            let _ = writeln!(text, "  NOT DONE: {why}");
        }
    }
    let sum = |part: fn(&(usize, usize)) -> usize| {
        reports.iter().flat_map(|report| report.tried.values()).map(part).sum::<usize>()
    };
    let broken: usize = reports.iter().map(|report| report.broken.len()).sum();
    let pings: usize = reports.iter().map(|report| report.pings).sum();
    let _ = writeln!(
        text,
        "\n{} faults happened ({} more were not reached); after {broken} of them something was wrong. {pings} pings of bystanders were all answered",
        sum(|(yes, _)| *yes),
        sum(|(_, no)| *no),
    );
    text
}
