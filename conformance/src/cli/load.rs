//! `load`.

use super::real;
use crate::chains::chains;
use crate::load::{HEAD, load};
use crate::suite::apart;
use crate::suite::subject::Subject;
use clap::Args;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct LoadArgs {
    /// The folder of the plugins: `bridge` and `host-local`; `portmap` and `bandwidth` take part where they are.
    #[arg(long, value_name = "DIR")]
    plugin_dir: PathBuf,
    /// How many attachments in the end. A Linux bridge has room for 1,023.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(10..=1023))]
    attachments: u16,
    /// The chain: `plugins, IPv4`, `plugins, both families`, `kubenet, IPv4`, `kubenet, both families`.
    #[arg(long, value_name = "NAME", default_value = "plugins, both families")]
    chain: String,
}

pub(super) fn load_command(args: &LoadArgs) -> io::Result<ExitCode> {
    let dir = real(&args.plugin_dir)?;
    let bridge = Subject::find(&dir, "bridge")?;
    apart::enter(&[&dir])?;
    cni_harness::raise_file_limit();
    let all = chains(&dir, bridge.newest());
    let Some(chain) = all.iter().find(|chain| chain.name == args.chain) else {
        let names: Vec<&str> = all.iter().map(|chain| chain.name.as_str()).collect();
        return Err(io::Error::other(format!("no chain {:?}; there are: {}", args.chain, names.join("; "))));
    };
    let mut out = io::stdout();
    writeln!(out, "{}, {}\n\n{HEAD}", dir.display(), chain.name)?;
    // What thousands of calls log would bury it.
    let stderr = nix::unistd::dup(io::stderr())?;
    nix::unistd::dup2_stderr(fs::File::options().write(true).open("/dev/null")?)?;
    let loaded = load(chain, args.attachments.into(), &|step| {
        // Nobody reads it any more: the end says so.
        let _ = writeln!(io::stdout(), "{step}");
    });
    nix::unistd::dup2_stderr(stderr)?;
    let loaded = loaded.map_err(io::Error::other)?;
    writeln!(out, "\n{loaded}")?;
    Ok(if loaded.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
