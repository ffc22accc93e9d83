//! How long plugins take: whole processes from the outside, those who are compared in turn, in one run.
//!
//! * [`contest`]: what is done, in which networks, by whom.
//! * [`measure`]: rounds in turn; times, system calls, programs, memory.
//! * [`stats`]: percentiles, and ratios with their spread.
//! * [`plots`], [`page`]: for a person to look at; [`table`] for a terminal.

pub mod contest;
pub mod measure;
pub mod page;
pub mod plots;
pub mod stats;

use contest::{Contest, Entrant};
use measure::{Measured, VERBS};
use stats::Times;
use std::fmt::Write;

/// What all contests showed, as Markdown.
#[must_use]
pub fn table(entrants: &[Entrant], measured: &[(Contest, Measured)]) -> String {
    let names: Vec<&str> = entrants.iter().map(|entrant| entrant.name.as_str()).collect();
    let mut text = String::from("Milliseconds, p50 / p95 / p99 / most\n\n");
    let ratios: Vec<String> = names.iter().skip(1).map(|name| format!("{name} ÷ {}", names[0])).collect();
    let head = [
        &["config", "at once", "verb"].map(str::to_owned)[..],
        &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
        &ratios,
    ]
    .concat();
    row(&mut text, &head);
    row(&mut text, &vec!["---".to_owned(); head.len()]);
    for (contest, found) in measured {
        for load in &found.loads {
            for (v, verb) in VERBS.iter().enumerate() {
                let times: Vec<Times> = load.sides.iter().map(|side| side.times(v)).collect();
                let mut cells = vec![contest.name.clone(), load.parallel.to_string(), (*verb).to_owned()];
                cells.extend(filled(names.len(), times.iter().map(ToString::to_string)));
                let first = load.sides.first().map(|side| side.rounds(v)).unwrap_or_default();
                let ratio = |side: &measure::Side| stats::ratio(&side.rounds(v), &first).to_string();
                cells.extend(filled(names.len() - 1, load.sides.iter().skip(1).map(ratio)));
                row(&mut text, &cells);
            }
        }
    }
    text.push_str(&throughput(&names, measured));
    text.push_str(&costs(&names, measured));
    text
}

/// The cells of those who took part, and dashes: the floor has no equivalent of everything.
fn filled(all: usize, cells: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    cells.chain(std::iter::repeat("–".to_owned())).take(all)
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn throughput(names: &[&str], measured: &[(Contest, Measured)]) -> String {
    let mut text = format!(
        "\nADDs a second\n\n| config | at once | {} |\n|---|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for (contest, found) in measured {
        for load in &found.loads {
            let mut cells = vec![contest.name.clone(), load.parallel.to_string()];
            let throughput = load.sides.iter().map(|side| format!("{:.0}", side.throughput(0)));
            cells.extend(filled(names.len(), throughput));
            row(&mut text, &cells);
        }
    }
    text
}

fn costs(names: &[&str], measured: &[(Contest, Measured)]) -> String {
    let mut text = format!(
        "\nSystem calls / programs beside the plugin / peak memory in kB, delegates included\n\n| config | verb | {} |\n|---|---|{}\n",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for (contest, found) in measured {
        for (v, verb) in VERBS.iter().enumerate() {
            let mut cells = vec![contest.name.clone(), (*verb).to_owned()];
            cells.extend(filled(names.len(), found.costs.iter().map(|cost| cost[v].to_string())));
            row(&mut text, &cells);
        }
    }
    text
}
