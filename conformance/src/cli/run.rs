//! `run`.

use super::{COULD_NOT_RUN, Progress, Selection, create, read_known, real, subjects};
use crate::cases;
use crate::report::{self, Ending, Report};
use crate::suite::apart;
use crate::suite::run::{plan, run};
use clap::{Args, ValueEnum};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct RunArgs {
    /// The folder of the plugins and their delegates.
    #[arg(long, value_name = "DIR")]
    plugin_dir: PathBuf,
    /// `--filter` is about cases: their IDs, or PLUGIN/ID.
    #[command(flatten)]
    only: Selection,
    /// Each case in the newest version alone that it is for, not in every one.
    #[arg(long)]
    newest: bool,
    /// Known deviations: a line `PLUGIN/CASE REASON` for each.
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// How many cases at a time; one for each core without it.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// What stdout gets.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Also writes a page to read in a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// What was not just passed, and how many
    Table,
    /// Everything; schema/report.schema.json
    Json,
    /// XML as `JUnit` writes it
    Junit,
    /// Test Anything Protocol
    Tap,
}

pub(super) fn run_command(args: &RunArgs) -> io::Result<ExitCode> {
    let dir = real(&args.plugin_dir)?;
    let known = read_known(args.expect.as_deref())?;
    let html = args.html.as_deref().map(create).transpose()?;
    let config = args.only.config.as_deref().map(real).transpose()?;
    apart::enter(&[&dir])?;
    let subjects = subjects(&dir, &args.only.plugin, config.as_deref())?;
    let mut cases = cases::all();
    if args.newest {
        for case in &mut cases {
            case.each = false;
        }
    }
    let units = plan(&subjects, &cases, &args.only.filter);
    if units.is_empty() {
        return Err(io::Error::other("no case is for these plugins and filters"));
    }
    // What the bed says when it breaks stands in the report.
    std::panic::set_hook(Box::new(|_| ()));
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let progress = Progress::new(units.len());
    let results = run(&units, jobs, &known, &|record| progress.tell(record));
    progress.end();
    let names: Vec<String> = results.iter().map(|record| record.name.clone()).collect();
    // Part of a run says nothing about the rest of the expectations.
    let whole = args.only.filter.is_empty() && args.only.plugin.is_empty() && !args.newest;
    let unused = if whole { known.unused(&names).into_iter().map(str::to_owned).collect() } else { vec![] };
    let report = Report::new(&dir, &subjects, unused, results);
    let text = match args.format {
        Format::Table => report::table(&report),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        Format::Junit => report::junit(&report)?,
        Format::Tap => report::tap(&report),
    };
    io::stdout().write_all(text.as_bytes())?;
    if let Some(mut file) = html {
        file.write_all(report::html(&report).as_bytes())?;
    }
    Ok(match report.ending() {
        Ending::AsExpected => ExitCode::SUCCESS,
        Ending::Deviations => ExitCode::FAILURE,
        Ending::CouldNotRun => ExitCode::from(COULD_NOT_RUN),
    })
}
