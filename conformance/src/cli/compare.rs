//! `compare`.

use super::{COULD_NOT_RUN, Selection, read_known, real, subjects};
use crate::compare::{self, Comparison, compare};
use crate::suite::subject::Subject;
use crate::suite::{Role, apart};
use clap::Args;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct CompareArgs {
    /// A folder of plugins; to be given twice.
    #[arg(long, value_name = "DIR", required = true)]
    plugin_dir: Vec<PathBuf>,
    /// `--filter` is about configs: PLUGIN/CONFIG.
    #[command(flatten)]
    only: Selection,
    /// Known differences: a line `PLUGIN/CONFIG:ASPECT REASON` for each.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// All as JSON, not what differs as text.
    #[arg(long)]
    json: bool,
}

pub(super) fn compare_command(args: &CompareArgs) -> io::Result<ExitCode> {
    let [first, second] = args.plugin_dir.as_slice() else {
        return Err(io::Error::other("--plugin-dir is to be given twice"));
    };
    let (first, second) = (real(first)?, real(second)?);
    let known = read_known(args.known.as_deref())?;
    let config = args.only.config.as_deref().map(real).transpose()?;
    apart::enter(&[&first, &second])?;
    let of = |dir: &Path| subjects(dir, &args.only.plugin, config.as_deref());
    let (ours, theirs) = (of(&first)?, of(&second)?);
    let other =
        |one: &Subject| theirs.iter().find(|other| other.name == one.name && one.role != Role::Unknown);
    let pairs: Vec<(Subject, Subject)> =
        ours.iter().filter_map(|one| Some((one.clone(), other(one)?.clone()))).collect();
    if pairs.is_empty() {
        return Err(io::Error::other("no plugin that a config is known for is in both folders"));
    }
    std::panic::set_hook(Box::new(|_| ()));
    let comparisons = compare(&pairs, &args.only.filter, &known);
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
