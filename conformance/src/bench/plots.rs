//! Plots as SVG.

use super::contest::{Contest, Entrant};
use super::measure::{Load, Measured, VERBS};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::io;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A line of a plot: its name, and its points.
type Line = (String, Vec<(f64, f64)>);

const SIZE: (u32, u32) = (540, 310);
/// Told apart without colour sight too (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// How many of a hundred calls took less than so many milliseconds, one at a time: a plot for each verb.
///
/// # Errors
/// When it can't be drawn.
pub fn distributions(entrants: &[Entrant], contest: &Contest, load: &Load) -> io::Result<Vec<String>> {
    let plot = |(v, verb): (usize, &&str)| {
        let lines = load.sides.iter().zip(entrants).map(|(side, entrant)| {
            let mut times: Vec<f64> = side.all(v).iter().map(|time| time.as_secs_f64() * 1000.0).collect();
            times.sort_by(f64::total_cmp);
            let all = float(times.len());
            let points = times.iter().enumerate().map(|(n, time)| (*time, float(n + 1) / all * 100.0));
            (entrant.name.clone(), points.collect())
        });
        let title = format!("{}: {verb}, {} at once", contest.name, load.parallel);
        draw(&title, ["ms", "% of calls"], &lines.collect::<Vec<Line>>())
    };
    VERBS.iter().enumerate().map(plot).collect()
}

/// The median and 95 of 100 against how many there are at once: a plot for each verb.
///
/// # Errors
/// When it can't be drawn.
pub fn latency(entrants: &[Entrant], contest: &Contest, found: &Measured) -> io::Result<Vec<String>> {
    let plot = |(v, verb): (usize, &&str)| {
        let mut lines: Vec<Line> = Vec::new();
        for (s, entrant) in entrants.iter().enumerate().take(found.costs.len()) {
            let times = |load: &Load| load.sides.get(s).map(|side| side.times(v)).unwrap_or_default();
            let points = found.loads.iter().map(|load| (float(load.parallel), times(load)));
            lines.push((
                format!("{} p50", entrant.name),
                points.clone().map(|(x, times)| (x, times.p50)).collect(),
            ));
            lines.push((format!("{} p95", entrant.name), points.map(|(x, times)| (x, times.p95)).collect()));
        }
        draw(&format!("{}: {verb}", contest.name), ["at once", "ms"], &lines)
    };
    VERBS.iter().enumerate().map(plot).collect()
}

/// The median against the leases that the network holds: a plot for each verb.
///
/// # Errors
/// When it can't be drawn.
pub fn leases(entrants: &[Entrant], measured: &[&(Contest, Measured)]) -> io::Result<Vec<String>> {
    let plot = |(v, verb): (usize, &&str)| {
        let line = |(s, entrant): (usize, &Entrant)| {
            let points = measured.iter().filter_map(|(contest, found)| {
                let side = found.loads.first()?.sides.get(s)?;
                Some((float(contest.leases), side.times(v).p50))
            });
            (entrant.name.clone(), points.collect())
        };
        let lines: Vec<Line> =
            entrants.iter().enumerate().map(line).filter(|(_, points): &Line| !points.is_empty()).collect();
        draw(&format!("host-local: {verb}, p50"), ["leases held", "ms"], &lines)
    };
    VERBS.iter().enumerate().map(plot).collect()
}

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn draw(title: &str, axes: [&str; 2], lines: &[Line]) -> io::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw_on(&area, title, axes, lines)
            .map_err(|error| io::Error::other(format!("plot {title}: {error}")))?;
    }
    Ok(svg)
}

fn draw_on<'a>(
    area: &Area<'a>,
    title: &str,
    [x, y]: [&str; 2],
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error + 'a>> {
    let most = |pick: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|(_, points)| points.iter().map(pick)).fold(0.0, f64::max)
    };
    let (right, top) = (most(|point| point.0) * 1.05, most(|point| point.1) * 1.1);
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..right.max(0.001), 0.0..top.max(0.001))?;
    chart.configure_mesh().x_desc(x).y_desc(y).light_line_style(TRANSPARENT).draw()?;
    for (n, (name, points)) in lines.iter().enumerate() {
        // With two lines an entrant, the second is thinner.
        let pairs = lines.iter().any(|(name, _)| name.ends_with(" p95"));
        let (colour, width) =
            if pairs { (COLOURS[n / 2 % 4], if n % 2 == 0 { 2 } else { 1 }) } else { (COLOURS[n % 4], 2) };
        let style = colour.stroke_width(width);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(if points.len() < 10 {
                3
            } else {
                0
            }))?
            .label(name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
