//! `JUnit`'s XML, as continuous integration reads it.

use super::Report;
use crate::suite::run::{Outcome, Record};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use std::io;
use std::time::Duration;

/// A test suite for each plugin, a test case for each run of a case.
///
/// # Errors
/// When it can't be written as XML.
pub fn junit(report: &Report) -> io::Result<String> {
    let mut all = quick_junit::Report::new("cni-conformance");
    for plugin in report.plugins.keys() {
        let mut suite = TestSuite::new(plugin.as_str());
        suite.add_test_cases(report.results.iter().filter(|record| record.plugin == *plugin).map(test_case));
        all.add_test_suite(suite);
    }
    all.to_string().map_err(io::Error::other)
}

fn test_case(record: &Record) -> TestCase {
    let status = match record.outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::KnownDeviation | Outcome::Untried => {
            let mut status = TestCaseStatus::skipped();
            let why = if record.reason.is_empty() { &record.seen } else { &record.reason };
            status.set_message(why.as_str());
            status
        }
        Outcome::Deviates | Outcome::UnexpectedPass => failed(NonSuccessKind::Failure, record),
        Outcome::Broken => failed(NonSuccessKind::Error, record),
    };
    let mut case = TestCase::new(record.name.as_str(), status);
    case.set_classname(format!("{}.{}", record.plugin, record.case.split('.').next().unwrap_or_default()));
    case.set_time(Duration::from_millis(record.milliseconds));
    case
}

fn failed(kind: NonSuccessKind, record: &Record) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(record.level.name());
    status.set_message(format!("{}: {}", record.section, record.clause));
    status.set_description(format!(
        "expected: {}\nseen: {}\n\nby hand:\n{}",
        record.expected, record.seen, record.by_hand
    ));
    status
}
