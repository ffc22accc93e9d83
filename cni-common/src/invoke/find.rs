//! Where plugins are looked for.

use crate::disk;
use crate::plugin::Env;
use crate::spec::command::Var;
use crate::spec::{Code, Error, Result};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// `CNI_PATH`: folders, parted by `:`, the first that has the plugin wins.
#[derive(Debug, Clone, Default)]
pub struct PluginPath(Option<OsString>);

impl PluginPath {
    /// As the variables of a call have it.
    #[must_use]
    pub fn of_env(env: &Env) -> Self {
        Self(env.get(Var::Path.name()).cloned())
    }

    /// Of these folders, in order. One with a `:` in its name can't be told in a `CNI_PATH` and is left out.
    #[must_use]
    pub fn of_dirs(dirs: &[PathBuf]) -> Self {
        let tellable = dirs.iter().filter(|dir| !dir.as_os_str().as_encoded_bytes().contains(&b':'));
        Self(std::env::join_paths(tellable).ok().filter(|path| !path.is_empty()))
    }

    /// The folders.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        self.0.iter().flat_map(std::env::split_paths).collect()
    }

    /// The executable of the plugin `name`. The name comes from a config, so it must not lead out of the folders.
    ///
    /// # Errors
    /// Code 7 for a name that is a path or is not found, code 4 without `CNI_PATH`.
    pub fn find(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() {
            return Err(Error::config("no plugin name provided"));
        }
        if name.contains(['/', '\0']) || name.contains("..") {
            let error = Error::config(format!("invalid plugin name: {name:.80?}"));
            return Err(error.details("a plugin's type is the name of a file in CNI_PATH, without / or .."));
        }
        let Some(path) = &self.0 else {
            return Err(Error::new(Code::BAD_ENVIRONMENT, "required env variables [CNI_PATH] missing")
                .details(format!("it says where the plugin {name:?} is")));
        };
        let found = std::env::split_paths(path).map(|dir| dir.join(name)).find(|file| file.is_file());
        found.inspect(|file| distrust(file.parent().unwrap_or(file))).ok_or_else(|| {
            let dirs = path.to_string_lossy().replace(':', " ");
            Error::config(format!("failed to find plugin {name:.80?} in path [{dirs:.1000}]"))
        })
    }
}

/// Says who else may write to a folder of programs.
pub fn distrust(dir: &Path) {
    let say = |text: &str| crate::log!("{text}");
    if let Err(error) = disk::distrust(dir, "run anything as root from there", say) {
        crate::log!("{error}");
    }
}

impl fmt::Display for PluginPath {
    /// As the value of `CNI_PATH`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.as_deref().unwrap_or_default().to_string_lossy())
    }
}
