//! For people at a terminal.

use super::Report;
use crate::suite::run::{Outcome, Record};
use std::fmt::Write;

/// Each run of a case that was not just passed, then how many of each plugin ended how.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    for record in report.results.iter().filter(|record| record.outcome != Outcome::Passed) {
        let _ = writeln!(text, "{}", one(record));
    }
    for pattern in &report.unused_expectations {
        let _ = writeln!(text, "unused expectation: no case of this run is {pattern}\n");
    }
    text.push_str(&summary(report));
    text
}

fn one(record: &Record) -> String {
    let mut text =
        format!("{} {} ({}, {})", record.outcome.name(), record.name, record.level.name(), record.section);
    let mut line = |title: &str, what: &str| {
        if !what.is_empty() {
            let _ = write!(text, "\n    {title:9} {}", what.replace('\n', "\n              "));
        }
    };
    line("asked", &record.clause);
    line("expected", &record.expected);
    line("seen", &record.seen);
    line("known", &record.reason);
    text.push('\n');
    text
}

/// How many runs of each plugin ended how.
#[must_use]
pub fn summary(report: &Report) -> String {
    let wide = report.plugins.keys().map(String::len).max().unwrap_or_default().max(6);
    let mut text = format!("{:wide$}", "plugin");
    for outcome in Outcome::ALL {
        let _ = write!(text, "  {}", outcome.name());
    }
    for plugin in report.plugins.keys() {
        let _ = write!(text, "\n{plugin:wide$}");
        for outcome in Outcome::ALL {
            let count = report.by_plugin(outcome).get(plugin.as_str()).copied().unwrap_or_default();
            let _ = write!(text, "  {count:>width$}", width = outcome.name().len());
        }
    }
    let (all, passed) = (report.results.len(), report.count(Outcome::Passed));
    let _ = writeln!(text, "\n\n{passed} of {all} passed, Linux {}, {}", report.kernel, report.plugin_dir);
    text
}
