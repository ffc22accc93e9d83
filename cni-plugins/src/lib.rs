//! All plugins of the suite in one executable. Its file's name says which of them it is; under its own name it lists
//! and installs them.
//!
//! This is the one list of the suite's plugins: everything else asks `cni-plugins list`, or reads [`PLUGINS`].

mod install;

use cni_common::plugin::{Plugin, Roster, about_text};
use cni_common::spec::SpecVersion;
use install::Folder;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Every plugin of the suite, by name.
pub const PLUGINS: &[&dyn Plugin] = &[
    #[cfg(feature = "bandwidth")]
    &bandwidth::Bandwidth,
    #[cfg(feature = "bridge")]
    &bridge::Bridge,
    #[cfg(feature = "dummy")]
    &dummy::Dummy,
    #[cfg(feature = "host-local")]
    &host_local::HostLocal,
    #[cfg(feature = "kubenet-shim")]
    &kubenet_shim::plugin::KubenetShim,
    #[cfg(feature = "loopback")]
    &loopback::Loopback,
    #[cfg(feature = "portmap")]
    &portmap::Portmap,
];

/// The executable's own name.
const NAME: &str = "cni-plugins";
/// Where runtimes look for plugins.
const DEFAULT_DIR: &str = "/opt/cni/bin";

const USAGE: &str = "\
usage: cni-plugins list
       cni-plugins install [DIR] [--uninstall]
       cni-plugins NAME [WORD...]

list      prints the names of the plugins in this executable, a line each.
install   puts this executable into DIR (/opt/cni/bin), under its own name and each plugin's, as hard links, else as
          copies. What was there stays beside it as NAME.previous; --uninstall puts that back.
NAME      is that plugin, as a file of that name would be. A name may have a prefix (my-bridge).
";

/// The whole of `main`.
#[must_use]
pub fn main() -> ExitCode {
    let roster = Roster(PLUGINS);
    if let Some(code) = roster.run() {
        return code;
    }
    if std::env::var_os("CNI_COMMAND").is_some_and(|command| !command.is_empty()) {
        print(&roster.unknown_name());
        return ExitCode::FAILURE;
    }
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    match words.as_slice() {
        ["list"] => print_lines(PLUGINS.iter().map(|plugin| plugin.name())),
        ["--help" | "-h" | "help"] => print(USAGE),
        // Nomad asks each file of the folder who it is.
        [] | ["--version"] => {
            let oldest = PLUGINS.iter().map(|plugin| plugin.since()).min().unwrap_or(SpecVersion::LATEST);
            cni_common::log::write(format_args!("{}", about_text(NAME, oldest)));
            ExitCode::SUCCESS
        }
        ["install", words @ ..] => install(words),
        _ => misused(),
    }
}

fn install(words: &[&str]) -> ExitCode {
    let is_back = words.contains(&"--uninstall");
    let dirs: Vec<&&str> = words.iter().filter(|word| **word != "--uninstall").collect();
    let dir = match dirs.as_slice() {
        [] => DEFAULT_DIR,
        [dir] if !dir.is_empty() && !dir.starts_with('-') => dir,
        _ => return misused(),
    };
    let folder = Folder::new(Path::new(dir), PLUGINS.iter().map(|plugin| plugin.name()));
    let told = folder.and_then(|folder| if is_back { folder.uninstall() } else { folder.install() });
    match told {
        Ok(lines) => print_lines(lines),
        Err(error) => {
            cni_common::log!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn misused() -> ExitCode {
    cni_common::log::write(format_args!("{USAGE}"));
    ExitCode::from(2)
}

fn print_lines(lines: impl IntoIterator<Item = impl Display>) -> ExitCode {
    print(&lines.into_iter().fold(String::new(), |text, line| text + &format!("{line}\n")))
}

fn print(text: &str) -> ExitCode {
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
