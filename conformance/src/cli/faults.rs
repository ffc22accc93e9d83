//! `faults`.

use super::{COULD_NOT_RUN, Progress, real};
use crate::chains::chains;
use crate::faults::run::{Fault, Report, faults, run, table};
use crate::suite::apart;
use crate::suite::expect::matches;
use crate::suite::subject::Subject;
use clap::Args;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct FaultsArgs {
    /// The folder of the plugins: `bridge` and `host-local`; `portmap`, `bandwidth` and `kubenet-shim` take part where they are.
    #[arg(long, value_name = "DIR")]
    plugin_dir: PathBuf,
    /// Only the chains of this name (`plugins, IPv4`); `*` stands for any text; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    filter: Vec<String>,
    /// Only each Nth of the faults.
    #[arg(long, value_name = "N", default_value = "1")]
    every: NonZeroUsize,
    /// How many machines at once. They mostly wait for their kernel.
    #[arg(long, value_name = "N", default_value = "8")]
    jobs: NonZeroUsize,
}

pub(super) fn faults_command(args: &FaultsArgs) -> io::Result<ExitCode> {
    let dir = real(&args.plugin_dir)?;
    if !Path::new("/usr/bin/strace").is_file() {
        return Err(io::Error::other("missing program: strace"));
    }
    let bridge = Subject::find(&dir, "bridge")?;
    apart::enter(&[&dir])?;
    cni_harness::raise_file_limit();
    let wanted = |name: &str| args.filter.is_empty() || args.filter.iter().any(|one| matches(one, name));
    let chains: Vec<_> =
        chains(&dir, bridge.newest()).into_iter().filter(|chain| wanted(&chain.name)).collect();
    if chains.is_empty() {
        return Err(io::Error::other("no chain has that name, or the folder has no bridge and host-local"));
    }
    std::panic::set_hook(Box::new(|_| ()));
    let mut reports = Vec::new();
    for chain in chains {
        let Ok(faults) = faults(&chain).inspect_err(|why| reports.push(Report::failed(&chain, why))) else {
            continue;
        };
        let faults: Vec<Fault> = faults.into_iter().step_by(args.every.get()).collect();
        writeln!(io::stderr(), "{}: {} faults", chain.name, faults.len())?;
        let progress = Progress::new(faults.len());
        reports.push(run(&chain, &faults, args.jobs.get(), &|plugin| progress.step(plugin)));
        progress.end();
    }
    io::stdout().write_all(table(&reports).as_bytes())?;
    let any = |is: fn(&Report) -> bool| reports.iter().any(is);
    Ok(if any(|report| report.failed.is_some()) {
        ExitCode::from(COULD_NOT_RUN)
    } else if any(|report| !report.broken.is_empty()) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
