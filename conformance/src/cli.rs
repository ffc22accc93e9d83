//! The command line.

use crate::cases;
use crate::compare::{self, Comparison, compare};
use crate::report::{self, Ending, Report};
use crate::suite::expect::Expectations;
use crate::suite::run::{Record, plan, run};
use crate::suite::subject::{KNOWN, Subject};
use crate::suite::{Case, Role, apart};
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Judges CNI plugins: any folder of executables, clause by clause, in namespaces of its own. Works as root, and without root where
/// users may make namespaces. Never touches the machine's own network.
#[derive(Parser)]
#[command(name = "cni-conformance", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tries every case on every plugin. Exit code 0: all as expected, 1: deviations, 2: could not run.
    Run(RunArgs),
    /// Puts the same configs through the plugins of two folders and tells what differs. Exit code 0: nothing but what is known,
    /// 1: differences, 2: could not run.
    Compare(CompareArgs),
    /// Lists the cases.
    List,
}

#[derive(Args)]
struct RunArgs {
    /// The folder of the plugins and their delegates.
    #[arg(long, value_name = "DIR")]
    plugin_dir: PathBuf,
    /// Only this plugin; may be repeated. Without it, all in the folder whose names are known.
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// A plugin's config, a list of them, or a network's: what the plugins are tried with. `$DIR` in it becomes a folder for state.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only cases of this ID or PLUGIN/ID; `*` stands for any text; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    filter: Vec<String>,
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

#[derive(Args)]
struct CompareArgs {
    /// A folder of plugins; to be given twice.
    #[arg(long, value_name = "DIR", required = true)]
    plugin_dir: Vec<PathBuf>,
    /// Only this plugin; may be repeated. Without it, all that are in both folders and have a known name.
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// As for `run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only these PLUGIN/CONFIG; `*` stands for any text; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    filter: Vec<String>,
    /// Known differences: a line `PLUGIN/CONFIG:ASPECT REASON` for each.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// All as JSON, not what differs as text.
    #[arg(long)]
    json: bool,
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

/// What could not be run.
const COULD_NOT_RUN: u8 = 2;

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell when this fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(COULD_NOT_RUN));
        }
    };
    let done = match cli.command {
        Command::Run(args) => run_command(&args),
        Command::Compare(args) => compare_command(&args),
        Command::List => list().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "cni-conformance: {error}");
        ExitCode::from(COULD_NOT_RUN)
    })
}

fn list() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for Case { id, level, section, words, .. } in cases::all() {
        writeln!(out, "{id:32} {:10} {section}: {words}", level.name())?;
    }
    Ok(())
}

fn run_command(args: &RunArgs) -> io::Result<ExitCode> {
    let dir = args.plugin_dir.canonicalize().map_err(|error| told(&args.plugin_dir, &error))?;
    let known = args.expect.as_deref().map(Expectations::read).transpose()?.unwrap_or_default();
    // Written where we can still see it.
    let html = args
        .html
        .as_deref()
        .map(|path| fs::File::create(path).map_err(|error| told(path, &error)))
        .transpose()?;
    let config = args
        .config
        .as_deref()
        .map(|path| path.canonicalize().map_err(|error| told(path, &error)))
        .transpose()?;
    apart::enter(&[&dir])?;
    let subjects = subjects(&dir, &args.plugin, config.as_deref())?;
    let mut cases = cases::all();
    if args.newest {
        for case in &mut cases {
            case.each = false;
        }
    }
    let units = plan(&subjects, &cases, &args.filter);
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
    let whole = args.filter.is_empty() && args.plugin.is_empty() && !args.newest;
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

fn compare_command(args: &CompareArgs) -> io::Result<ExitCode> {
    let [first, second] = args.plugin_dir.as_slice() else {
        return Err(io::Error::other("--plugin-dir is to be given twice"));
    };
    let real = |dir: &Path| dir.canonicalize().map_err(|error| told(dir, &error));
    let (first, second) = (real(first)?, real(second)?);
    let known = args.known.as_deref().map(Expectations::read).transpose()?.unwrap_or_default();
    let config = args
        .config
        .as_deref()
        .map(|path| path.canonicalize().map_err(|error| told(path, &error)))
        .transpose()?;
    apart::enter(&[&first, &second])?;
    let of = |dir: &Path| subjects(dir, &args.plugin, config.as_deref());
    let (ours, theirs) = (of(&first)?, of(&second)?);
    let other =
        |one: &Subject| theirs.iter().find(|other| other.name == one.name && one.role != Role::Unknown);
    let pairs: Vec<(Subject, Subject)> =
        ours.iter().filter_map(|one| Some((one.clone(), other(one)?.clone()))).collect();
    if pairs.is_empty() {
        return Err(io::Error::other("no plugin that a config is known for is in both folders"));
    }
    std::panic::set_hook(Box::new(|_| ()));
    let comparisons = compare(&pairs, &args.filter, &known);
    let text = if args.json {
        serde_json::to_string_pretty(&comparisons)? + "\n"
    } else {
        compare::table(&comparisons, &first.display().to_string(), &second.display().to_string())
    };
    io::stdout().write_all(text.as_bytes())?;
    let unknown = |one: &Comparison| one.differences.iter().any(|difference| difference.reason.is_empty());
    Ok(if comparisons.is_empty() || comparisons.iter().any(|one| !one.broken.is_empty()) {
        ExitCode::from(COULD_NOT_RUN)
    } else if comparisons.iter().any(unknown) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// The plugins that are meant: those of the config, else those named, else those in the folder that have a known name.
fn subjects(dir: &Path, named: &[String], config: Option<&Path>) -> io::Result<Vec<Subject>> {
    let mut found = match config {
        Some(file) => Subject::of_file(dir, file)?,
        None if named.is_empty() => {
            let there = KNOWN.iter().filter(|name| dir.join(name).is_file());
            there.map(|name| Subject::find(dir, name)).collect::<io::Result<_>>()?
        }
        None => vec![],
    };
    if !named.is_empty() {
        found.retain(|subject| named.contains(&subject.name));
        for name in named.iter().filter(|name| config.is_none() || !name.is_empty()) {
            if !found.iter().any(|subject| subject.name == *name) {
                found.push(Subject::find(dir, name)?);
            }
        }
    }
    if found.is_empty() {
        let why = format!("no plugin that is known in {}; name one with --plugin or --config", dir.display());
        return Err(io::Error::other(why));
    }
    Ok(found)
}

/// How far it is: a bar on a terminal, else a line for what somebody has to look at.
struct Progress(Option<ProgressBar>);

impl Progress {
    fn new(all: usize) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(Some(all as u64), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    fn tell(&self, record: &Record) {
        let line = || format!("{} {}", record.outcome.name(), record.name);
        match &self.0 {
            Some(bar) => {
                if record.outcome.is_bad() {
                    bar.println(line());
                }
                bar.set_message(record.name.clone());
                bar.inc(1);
            }
            None if record.outcome.is_bad() => {
                let _ = writeln!(io::stderr(), "{}", line());
            }
            None => (),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
