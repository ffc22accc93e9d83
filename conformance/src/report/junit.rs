//! `JUnit`'s XML, as continuous integration reads it: what Jenkins' schema allows.

use super::Report;
use crate::suite::run::{Outcome, Record};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use std::io;

type Xml = Writer<Vec<u8>>;

/// A test suite for each plugin, a test case for each run of a case.
///
/// # Errors
/// When it can't be written as XML.
pub fn junit(report: &Report) -> io::Result<String> {
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let all: Vec<&Record> = report.results.iter().collect();
    let suites = counted(&mut xml, "testsuites", "cni-conformance", &all);
    suites.write_inner_content(|xml| {
        for plugin in report.plugins.keys() {
            let own: Vec<&Record> = all.iter().copied().filter(|record| record.plugin == *plugin).collect();
            let mut suite = counted(xml, "testsuite", plugin, &own);
            let skipped = own.iter().filter(|record| is_skipped(record.outcome)).count();
            suite = suite.with_attribute(("skipped", skipped.to_string().as_str()));
            suite.write_inner_content(|xml| own.iter().try_for_each(|record| test_case(xml, record)))?;
        }
        Ok(())
    })?;
    String::from_utf8(xml.into_inner()).map(|text| text + "\n").map_err(io::Error::other)
}

/// An element with the attributes that suites have.
fn counted<'a>(
    xml: &'a mut Xml,
    element: &'a str,
    name: &'a str,
    of: &[&Record],
) -> quick_xml::writer::ElementWriter<'a, Vec<u8>> {
    let count =
        |wanted: &[Outcome]| of.iter().filter(|record| wanted.contains(&record.outcome)).count().to_string();
    let failures = count(&[Outcome::Deviates, Outcome::UnexpectedPass]);
    let time = seconds(of.iter().map(|record| record.milliseconds).sum());
    let attributes = [
        ("name", name),
        ("tests", &of.len().to_string()),
        ("failures", &failures),
        ("errors", &count(&[Outcome::Broken])),
        ("time", &time),
    ];
    xml.create_element(element).with_attributes(attributes)
}

const fn is_skipped(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::KnownDeviation | Outcome::Untried)
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

fn test_case(xml: &mut Xml, record: &Record) -> io::Result<()> {
    let class = format!("{}.{}", record.plugin, record.case.split('.').next().unwrap_or_default());
    let time = seconds(record.milliseconds);
    let attributes = [("name", record.name.as_str()), ("classname", &class), ("time", &time)];
    let case = xml.create_element("testcase").with_attributes(attributes);
    let element = match record.outcome {
        Outcome::Passed => return case.write_empty().map(drop),
        Outcome::KnownDeviation | Outcome::Untried => "skipped",
        Outcome::Deviates | Outcome::UnexpectedPass => "failure",
        Outcome::Broken => "error",
    };
    let why = format!("expected: {}\nseen: {}\n\nby hand:\n{}", record.expected, record.seen, record.by_hand);
    let short = if record.reason.is_empty() { &record.clause } else { &record.reason };
    case.write_inner_content(|xml| {
        let inner = xml.create_element(element);
        if is_skipped(record.outcome) {
            return inner
                .write_text_content(BytesText::new(&printable(&format!("{short}\n{}", record.seen))))
                .map(drop);
        }
        let inner = inner.with_attributes([("type", record.level.name()), ("message", short)]);
        inner.write_text_content(BytesText::new(&printable(&why))).map(drop)
    })?;
    Ok(())
}

/// XML has no way to write most control characters.
fn printable(text: &str) -> String {
    text.replace(|c: char| c.is_control() && !"\n\t".contains(c), "\u{fffd}")
}
