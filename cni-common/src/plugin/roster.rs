//! The plugins of one executable: which of them a call means, and whether a file is that very executable.

use super::run::{Plugin, run_with};
use crate::spec::{Code, Error, SpecVersion};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;

/// The plugins that this process has inside; none before [`Roster::run`].
static INSIDE: OnceLock<Roster> = OnceLock::new();

/// The plugins of an executable.
#[derive(Clone, Copy)]
pub struct Roster(pub &'static [&'static dyn Plugin]);

impl Roster {
    /// The plugin that a file of this name is: `bridge`, and with any prefix that ends with a `-`
    /// (`buildkit-cni-bridge`). Of two that fit, the one with the longer name.
    #[must_use]
    pub fn named(self, file: &str) -> Option<&'static dyn Plugin> {
        let is_end = |name: &str| {
            file.strip_suffix(name).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('-'))
        };
        let names = |plugin: &&'static dyn Plugin| [Some(plugin.name()), plugin.alias()];
        let fits = self.0.iter().flat_map(|plugin| {
            names(plugin)
                .into_iter()
                .flatten()
                .filter(|name| is_end(name))
                .map(move |name| (name.len(), *plugin))
        });
        fits.max_by_key(|(len, _)| *len).map(|(_, plugin)| plugin)
    }

    /// Runs this process as the plugin that its name means (the last part of `argv[0]`, or of the file that a link of
    /// another name leads to), or else as the one that its first word names. `None` when none does.
    #[must_use]
    pub fn run(self) -> Option<ExitCode> {
        // The first call is the process's own.
        let roster = INSIDE.get_or_init(|| self);
        let mut args = std::env::args_os();
        let me = args.next().unwrap_or_default();
        let words: Vec<OsString> = args.collect();
        let by_link = || roster.named(&file_name(std::env::current_exe().ok()?.as_os_str()));
        if let Some(plugin) = roster.named(&file_name(&me)).or_else(by_link) {
            return Some(run_with(plugin, &words));
        }
        let (first, rest) = words.split_first()?;
        let plugin = roster.0.iter().find(|plugin| *first == *plugin.name())?;
        Some(run_with(*plugin, rest))
    }

    /// The answer to a runtime that calls the executable by a name that means no plugin: an error on stdout, as the
    /// specification wants it.
    #[must_use]
    pub fn unknown_name(self) -> String {
        let me = std::env::args_os().next().unwrap_or_default();
        let names: Vec<&str> = self.0.iter().map(|plugin| plugin.name()).collect();
        Error::new(
            Code::INVALID_CONFIG,
            format!("there is no plugin {:.80?} in this executable", file_name(&me)),
        )
        .details(format!("its name says which plugin it is; it has {}", names.join(", ")))
        .to_json(SpecVersion::LATEST)
    }
}

fn file_name(path: &OsStr) -> String {
    Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The plugin that `file` would be when started, if `file` is the executable that this process runs.
#[must_use]
pub fn inside(file: &Path) -> Option<&'static dyn Plugin> {
    let roster = INSIDE.get()?;
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    // That of the file that we are, even when another has taken its place in the folder.
    let own = std::fs::metadata("/proc/self/exe").ok().map(identity)?;
    let its = std::fs::metadata(file).ok().map(identity)?;
    if own == its { roster.named(&file.file_name()?.to_string_lossy()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Living;
    use crate::plugin::{Added, Request, Target};
    use crate::spec::Result;

    struct Named(&'static str);

    impl Plugin for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn add(&self, _: &Request, _: &Target) -> Result<Added> {
            Err(Error::config("none of these is called"))
        }
        fn del(&self, _: &Request, _: &Target) -> Result<()> {
            Ok(())
        }
        fn check(&self, _: &Request, _: &Target) -> Result<()> {
            Ok(())
        }
        fn gc(&self, _: &Request, _: &Living) -> Result<()> {
            Ok(())
        }
        fn status(&self, _: &Request) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_end_of_a_name_says_which_plugin() {
        let roster = Roster(&[&Named("local"), &Named("host-local"), &Named("vlan"), &Named("bridge")]);
        for (file, want) in [
            ("bridge", Some("bridge")),
            ("buildkit-cni-bridge", Some("bridge")),
            ("host-local", Some("host-local")),
            ("x-host-local", Some("host-local")),
            ("local", Some("local")),
            ("my-local", Some("local")),
            ("macvlan", None),
            ("bridge.old", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(roster.named(file).map(Plugin::name), want, "{file:?}");
        }
    }
}
