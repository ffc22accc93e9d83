//! The command line: what each command takes, and what it does with it.

mod bench;
mod compare;
mod faults;
mod load;
mod run;

use crate::cases;
use crate::suite::Case;
use crate::suite::expect::Expectations;
use crate::suite::run::Record;
use crate::suite::subject::{KNOWN, Subject};
use clap::{Args, Parser, Subcommand};
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
    Run(run::RunArgs),
    /// Puts the same configs through the plugins of two folders and tells what differs. Exit code 0: nothing but what is known,
    /// 1: differences, 2: could not run.
    Compare(compare::CompareArgs),
    /// Times plugins, whole processes from the outside, in turn with those that they are compared with. Exit code 0, or 2 when it could
    /// not run.
    Bench(bench::BenchArgs),
    /// Breaks whole chains: every system call of every process kills it, or fails; then DEL and GC, and all has to be as before.
    /// Exit code 0: it was each time, 1: it was not, 2: could not run.
    Faults(faults::FaultsArgs),
    /// Holds many attachments of one chain at once, and tells what an ADD and a DEL take as their number grows; then what DELs after a
    /// reboot take, and GC. Exit code 0, 1 when operations failed and had to be repeated, 2 when something did not work at all.
    Load(load::LoadArgs),
    /// Lists the cases.
    List,
}

/// What is meant of a folder.
#[derive(Args)]
struct Selection {
    /// Only this plugin; may be repeated. Without it, all that are there and have a known name.
    #[arg(long, value_name = "NAME")]
    plugin: Vec<String>,
    /// A plugin's config, a list of them, or a network's: what the plugins are tried with. `$DIR` in it becomes a folder for state.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only what has this name; `*` stands for any text; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    filter: Vec<String>,
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
        Command::Run(args) => run::run_command(&args),
        Command::Compare(args) => compare::compare_command(&args),
        Command::Bench(args) => bench::bench_command(&args),
        Command::Faults(args) => faults::faults_command(&args),
        Command::Load(args) => load::load_command(&args),
        Command::List => list().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "cni-conformance: {error}");
        ExitCode::from(COULD_NOT_RUN)
    })
}

fn list() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for Case { id, level, section, words, versions: (first, last), .. } in cases::all() {
        writeln!(out, "{id:32} {:10} {first}–{last}  {section}: {words}", level.name())?;
    }
    Ok(())
}

fn told(path: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// A file or folder by its full name: later we may be elsewhere.
fn real(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().map_err(|error| told(path, &error))
}

/// A file to write, opened while it can still be seen.
fn create(path: &Path) -> io::Result<fs::File> {
    fs::File::create(path).map_err(|error| told(path, &error))
}

/// What is known, if there is a file that says so.
fn read_known(file: Option<&Path>) -> io::Result<Expectations> {
    Ok(file.map(Expectations::read).transpose()?.unwrap_or_default())
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

    /// One step more, which was about `name`.
    fn step(&self, name: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(name.to_owned());
            bar.inc(1);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
