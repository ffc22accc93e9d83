//! The Test Anything Protocol, version 13 (<https://testanything.org/>).

use super::Report;
use crate::suite::run::Outcome;
use std::fmt::Write;

/// A line for each run of a case; what deviates has its reasons in a YAML block.
#[must_use]
pub fn tap(report: &Report) -> String {
    let mut text = format!("TAP version 13\n1..{}\n", report.results.len());
    for (at, record) in report.results.iter().enumerate() {
        let ok = if matches!(record.outcome, Outcome::Passed | Outcome::Untried | Outcome::UnexpectedPass) {
            "ok"
        } else {
            "not ok"
        };
        let directive = match record.outcome {
            Outcome::Untried => format!(" # SKIP {}", line(&record.seen)),
            // A pass of these is what TAP calls an unexpected success.
            Outcome::KnownDeviation | Outcome::UnexpectedPass => format!(" # TODO {}", line(&record.reason)),
            _ => String::new(),
        };
        let _ = writeln!(text, "{ok} {} - {} {}{directive}", at + 1, record.name, line(&record.clause));
        if !record.expected.is_empty() {
            let quoted = |text: &str| serde_json::json!(text).to_string();
            let _ = writeln!(
                text,
                "  ---\n  level: {}\n  section: {}",
                record.level.name(),
                quoted(&record.section)
            );
            let _ = writeln!(
                text,
                "  expected: {}\n  seen: {}\n  ...",
                quoted(&record.expected),
                quoted(&record.seen)
            );
        }
    }
    text
}

/// In one line, without what TAP takes for a directive.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('#', "\\#")
}
