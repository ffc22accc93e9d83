//! Every case on every subject that it is for, many at a time.

use super::bed::Bed;
use super::case::{Case, Level, On};
use super::expect::{Expectations, matches};
use super::steps::by_hand;
use super::subject::Subject;
use super::verdict::Trouble;
use super::version::VERSIONS;
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// One case on one subject in one version.
#[derive(Clone, Copy)]
pub struct Unit<'a> {
    subject: &'a Subject,
    case: Case,
    version: &'static str,
}

/// How a run of a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As the clause wants it.
    Passed,
    /// Not as the clause wants it, and nobody expected that.
    Deviates,
    /// Not as the clause wants it, which the expectations know.
    KnownDeviation,
    /// As the clause wants it, though the expectations say that it deviates: they are out of date.
    UnexpectedPass,
    /// This machine can't try it.
    Untried,
    /// The suite itself failed.
    Broken,
}

/// What a run of a case found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// `PLUGIN/CASE`, with `@VERSION` where a case is tried in several.
    pub name: String,
    /// The plugin.
    pub plugin: String,
    /// The case's ID.
    pub case: String,
    /// The version of the specification that was spoken.
    pub version: String,
    /// The first and the last version that have the clause.
    pub versions: (&'static str, &'static str),
    /// How much the clause binds.
    pub level: Level,
    /// Where the clause is.
    pub section: String,
    /// What it asks.
    pub clause: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What would have been right; empty when it passed.
    pub expected: String,
    /// What was seen instead, or why it was not tried.
    pub seen: String,
    /// Why the deviation is known.
    pub reason: String,
    /// Milliseconds that it took.
    pub milliseconds: u64,
    /// A shell script that does the same.
    pub by_hand: String,
    /// What each step of it printed: the step's line and its output.
    pub steps: Vec<(String, String)>,
}

/// What to try: each case on each subject that it is for, in each version that it is for. `filters` are case IDs or full names,
/// `*` stands for any text; without any, all.
#[must_use]
pub fn plan<'a>(subjects: &'a [Subject], cases: &[Case], filters: &[String]) -> Vec<Unit<'a>> {
    let mut units = Vec::new();
    for subject in subjects {
        for case in cases.iter().filter(|case| case.on.is(subject)) {
            // One that does not say what it speaks is asked for everything.
            let every = VERSIONS.map(str::to_owned);
            let spoken = if subject.versions.is_empty() { &every[..] } else { &subject.versions };
            let versions = case.tried_in(spoken).into_iter();
            units.extend(versions.map(|version| Unit { subject, case: *case, version }));
        }
    }
    units.retain(|unit| {
        let (name, id) = (unit.name(), unit.case.id);
        filters.is_empty() || filters.iter().any(|one| matches(one, id) || matches(one, &name))
    });
    units
}

/// Tries all of them, `jobs` at a time. `told` hears of each as it ends.
///
/// # Panics
/// When a thread can't be started.
#[must_use]
pub fn run(
    units: &[Unit],
    jobs: usize,
    known: &Expectations,
    told: &(dyn Fn(&Record) + Sync),
) -> Vec<Record> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Record)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(unit) = units.get(at) else { break };
                    let record = unit.run(known);
                    told(&record);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, record));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, record)| record).collect()
}

impl Unit<'_> {
    fn name(&self) -> String {
        let version = if self.case.each { format!("@{}", self.version) } else { String::new() };
        format!("{}/{}{version}", self.subject.name, self.case.id)
    }

    fn run(self, known: &Expectations) -> Record {
        let begun = Instant::now();
        // The bed panics when the machine does not do what it has to.
        let tried = catch_unwind(AssertUnwindSafe(|| {
            let bed = Bed::new(self.subject, self.version);
            let verdict = match bed.lacks().filter(|_| self.case.on != On::Any) {
                Some(why) => Ok(Err(Trouble::Untried(why))),
                None => catch_unwind(AssertUnwindSafe(|| (self.case.check)(&bed))),
            };
            (verdict, bed.steps(), bed.dir().to_owned())
        }));
        let (verdict, steps, dir) = tried.unwrap_or_else(|why| (Err(why), vec![], std::path::PathBuf::new()));
        let name = self.name();
        let known = known.reason(&name);
        let mut reason = known.map(|(reason, _)| reason.to_owned()).unwrap_or_default();
        let (outcome, expected, seen) = match verdict {
            Ok(Ok(())) if known.is_none_or(|(_, always)| !always) => {
                reason.clear();
                (Outcome::Passed, String::new(), String::new())
            }
            Ok(Ok(())) => (
                Outcome::UnexpectedPass,
                "a deviation, as the expectations say".to_owned(),
                "it passed".to_owned(),
            ),
            Ok(Err(Trouble::Deviation { expected, seen })) => {
                let outcome = if known.is_none() { Outcome::Deviates } else { Outcome::KnownDeviation };
                (outcome, expected, seen)
            }
            Ok(Err(Trouble::Untried(why))) => (Outcome::Untried, String::new(), why),
            Err(why) => {
                (Outcome::Broken, "the machine to do what the case needs".to_owned(), panic_text(&*why))
            }
        };
        Record {
            plugin: self.subject.name.clone(),
            case: self.case.id.to_owned(),
            version: self.version.to_owned(),
            versions: self.case.versions,
            level: self.case.level,
            section: self.case.section.to_owned(),
            clause: self.case.words.to_owned(),
            by_hand: by_hand(&steps, &dir),
            steps: steps.iter().map(|step| (step.line(), step.saw.clone())).collect(),
            milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            name,
            outcome,
            expected,
            seen,
            reason,
        }
    }
}

fn panic_text(why: &(dyn std::any::Any + Send)) -> String {
    let text = why.downcast_ref::<String>().cloned();
    text.or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked".to_owned())
}
