//! One page that needs nothing beside itself.

use super::Report;
use crate::suite::case::Level;
use crate::suite::run::{Outcome, Record};
use maud::{DOCTYPE, Markup, PreEscaped, html as markup};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page: how many ended how, filters, and each run of a case, which unfolds.
#[must_use]
pub fn html(report: &Report) -> String {
    let body = markup! {
        header {
            h1 { "CNI conformance" }
            p { code { (report.plugin_dir) } ", Linux " (report.kernel) ", " (report.results.len()) " runs of cases" }
            p { "Sections are those of specification 1.1.0 unless another is named." }
        }
        (overview(report))
        (filters(report))
        main id="results" { @for record in &report.results { (result(record)) } }
        script { (PreEscaped(SCRIPT)) }
    };
    document(&format!("CNI conformance: {}", report.plugin_dir), &body)
}

/// A page of our looks, with everything in it.
#[must_use]
pub fn document(title: &str, body: &Markup) -> String {
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

fn overview(report: &Report) -> Markup {
    markup! {
        section id="overview" {
            table {
                thead { tr { th { "plugin" } th { "versions" } @for outcome in Outcome::ALL { th { (outcome.name()) } } } }
                tbody {
                    @for (plugin, versions) in &report.plugins {
                        tr {
                            th { (plugin) }
                            td { (versions.join(" ")) }
                            @for outcome in Outcome::ALL {
                                @let count = report.by_plugin(outcome).get(plugin.as_str()).copied().unwrap_or_default();
                                td.number.(outcome.name())[count > 0] { (count) }
                            }
                        }
                    }
                }
            }
            @if !report.unused_expectations.is_empty() {
                p.deviates { "Expectations about no case of this run: " (report.unused_expectations.join(", ")) }
            }
        }
    }
}

fn filters(report: &Report) -> Markup {
    let select = |name: &str, title: &str, options: Vec<String>| {
        markup! {
            label { (title) " " select id=(name) { option value="" { "all" } @for one in &options { option { (one) } } } }
        }
    };
    let levels =
        [Level::Must, Level::Should, Level::Convention].map(|level| level.name().to_owned()).to_vec();
    let outcomes = Outcome::ALL.map(|outcome| outcome.name().to_owned()).to_vec();
    markup! {
        form id="filters" {
            (select("plugin", "plugin", report.plugins.keys().cloned().collect()))
            (select("level", "level", levels))
            (select("outcome", "outcome", outcomes))
            label { "text " input id="text" type="search" placeholder="gc, netns, lease"; }
            output id="shown" {}
        }
    }
}

fn result(record: &Record) -> Markup {
    let outcome = record.outcome.name();
    markup! {
        details.result.(outcome) data-plugin=(record.plugin) data-level=(record.level.name()) data-outcome=(outcome) {
            summary {
                span.outcome { (outcome) } " " code { (record.name) } " " span.level { (record.level.name()) } " " (record.clause)
            }
            dl {
                dt { "clause" } dd { (record.section) ": " (record.clause) }
                dt { "versions" } dd { (record.versions.0) " to " (record.versions.1) "; spoken " (record.version) ", " (record.milliseconds) " ms" }
                @if !record.expected.is_empty() { dt { "expected" } dd { pre { (record.expected) } } }
                @if !record.seen.is_empty() { dt { "seen" } dd { pre { (record.seen) } } }
                @if !record.reason.is_empty() { dt { "known" } dd { (record.reason) } }
                @if !record.steps.is_empty() {
                    dt { "steps" }
                    dd { ol { @for (line, saw) in &record.steps { li { code { (line) } @if !saw.is_empty() { pre { (saw) } } } } } }
                    dt { "by hand" } dd { pre.hand { (record.by_hand) } }
                }
            }
        }
    }
}
