//! One page that needs nothing beside itself.

use super::contest::{Contest, Entrant};
use super::measure::{Measured, VERBS};
use super::{plots, stats};
use crate::report::document;
use maud::{Markup, PreEscaped, html as markup};
use std::io;

/// The page: how the entrants stand to each other, then plots and numbers of each config.
///
/// # Errors
/// When a plot can't be drawn.
pub fn page(entrants: &[Entrant], measured: &[(Contest, Measured)], machine: &str) -> io::Result<String> {
    let held: Vec<&(Contest, Measured)> =
        measured.iter().filter(|(contest, _)| contest.plugin == "host-local").collect();
    let mut sections = Vec::new();
    if held.len() > 1 {
        sections.push(figures("Cost against leases held", plots::leases(entrants, &held)?));
    }
    for (contest, found) in measured {
        let mut plots = Vec::new();
        if let Some(load) = found.loads.first() {
            plots.extend(plots::distributions(entrants, contest, load)?);
        }
        if found.loads.len() > 1 {
            plots.extend(plots::latency(entrants, contest, found)?);
        }
        sections.push(figures(&contest.name, plots));
    }
    let body = markup! {
        header { h1 { "How long CNI plugins take" } p { (machine) } }
        (overview(entrants, measured))
        @for section in &sections { (section) }
    };
    Ok(document("How long CNI plugins take", &body))
}

fn figures(title: &str, plots: Vec<String>) -> Markup {
    markup! { section { h2 { (title) } div.plots { @for plot in plots { (PreEscaped(plot)) } } } }
}

/// One call at a time: medians, and the ratios to the first.
fn overview(entrants: &[Entrant], measured: &[(Contest, Measured)]) -> Markup {
    markup! {
        section id="overview" {
            table {
                thead { tr {
                    th { "config" } th { "verb" }
                    @for entrant in entrants { th { (entrant.name) ", ms" } }
                    @for entrant in entrants.iter().skip(1) { th { (entrant.name) " ÷ " (entrants[0].name) " (80 % of rounds)" } }
                } }
                tbody {
                    @for (contest, found) in measured {
                        @for (v, verb) in VERBS.iter().enumerate() {
                            @let load = found.loads.first();
                            @let sides = load.map(|load| load.sides.as_slice()).unwrap_or_default();
                            tr {
                                th { (contest.name) } td { (verb) }
                                @for s in 0..entrants.len() {
                                    td.number { @if let Some(side) = sides.get(s) { (format!("{:.2}", side.times(v).p50)) } }
                                }
                                @for s in 1..entrants.len() {
                                    td.number { @if let Some(side) = sides.get(s) { (stats::ratio(&side.rounds(v), &sides[0].rounds(v)).to_string()) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
