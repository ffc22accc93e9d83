//! `bench`.

use super::{Progress, create, real};
use crate::bench;
use crate::bench::contest::{self, By, Contest, Entrant};
use crate::bench::measure::measure;
use crate::suite::apart;
use crate::suite::expect::matches;
use clap::Args;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct BenchArgs {
    /// The folder of the plugins and their delegates.
    #[arg(long, value_name = "DIR")]
    plugin_dir: PathBuf,
    /// Another folder, in turn with the first.
    #[arg(long, value_name = "DIR")]
    vs: Option<PathBuf>,
    /// Also the least that a bridge attachment can cost: the same kernel objects and one started program, and nothing else.
    #[arg(long)]
    floor: bool,
    /// Only these PLUGIN/CONFIG; `*` stands for any text; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    filter: Vec<String>,
    /// How many calls at once, parted by commas.
    #[arg(long, value_name = "N,N…", value_delimiter = ',', default_value = "1,4,16")]
    parallel: Vec<usize>,
    /// How many calls of each verb at each of these.
    #[arg(long, value_name = "N", default_value_t = 40)]
    runs: usize,
    /// Also writes a page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn bench_command(args: &BenchArgs) -> io::Result<ExitCode> {
    let first = real(&args.plugin_dir)?;
    let second = args.vs.as_deref().map(real).transpose()?;
    let entrants = entrants(&first, second.as_deref(), args.floor)?;
    if args.parallel.is_empty() || args.parallel.contains(&0) || args.runs == 0 {
        return Err(io::Error::other("--parallel and --runs want numbers from 1 on"));
    }
    let html = args.html.as_deref().map(create).transpose()?;
    apart::enter(&[&first, second.as_deref().unwrap_or(&first)])?;
    cni_harness::raise_file_limit();
    let wanted = |contest: &Contest| {
        args.filter.is_empty() || args.filter.iter().any(|one| matches(one, &contest.name))
    };
    // The floor has no equivalent of everything.
    let contests = contest::all().into_iter().filter(wanted);
    let contests: Vec<Contest> = contests
        .filter(|contest| {
            entrants.iter().all(|one| contest.is_for(one) || matches!(one.by, By::Floor { .. }))
        })
        .collect();
    if contests.is_empty() {
        return Err(io::Error::other("no config is for these folders and filters"));
    }
    let progress = Progress::new(contests.len());
    let mut measured = Vec::new();
    for contest in contests {
        let takes_part: Vec<Entrant> =
            entrants.iter().filter(|entrant| contest.is_for(entrant)).cloned().collect();
        measured.push((contest.clone(), measure(&contest, &takes_part, &args.parallel, args.runs)?));
        progress.step(&contest.name);
    }
    progress.end();
    let machine = machine(&entrants, args.runs);
    let text = bench::table(&entrants, &measured);
    writeln!(io::stdout(), "{text}\n{machine}")?;
    if let Some(mut file) = html {
        file.write_all(bench::page::page(&entrants, &measured, &machine)?.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Who takes part.
fn entrants(first: &Path, second: Option<&Path>, floor: bool) -> io::Result<Vec<Entrant>> {
    let plugins = |name: &str, dir: &Path| Entrant { name: name.to_owned(), by: By::Plugins(dir.to_owned()) };
    let mut entrants = vec![plugins("A", first)];
    entrants.extend(second.map(|dir| plugins("B", dir)));
    if floor {
        let program = std::env::current_exe()?.with_file_name("floor-bridge");
        if !program.is_file() {
            return Err(io::Error::other(format!(
                "no {}: it is built beside this program",
                program.display()
            )));
        }
        for (name, with_child) in [("floor", false), ("floor + program", true)] {
            let by = By::Floor { program: program.clone(), with_child };
            entrants.push(Entrant { name: name.to_owned(), by });
        }
    }
    Ok(entrants)
}

/// What a reader has to know of the numbers.
fn machine(entrants: &[Entrant], runs: usize) -> String {
    let kernel = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let folders: Vec<String> = entrants
        .iter()
        .map(|entrant| match &entrant.by {
            By::Plugins(dir) => format!("{}: {}", entrant.name, dir.display()),
            By::Floor { with_child: false, .. } => {
                format!("{}: a bare program that makes the same kernel objects", entrant.name)
            }
            By::Floor { with_child: true, .. } => {
                format!("{}: the same, which starts a program", entrant.name)
            }
        })
        .collect();
    format!("{}; {} calls of each verb and load, {cores} cores, Linux {kernel}", folders.join("; "), runs)
}
