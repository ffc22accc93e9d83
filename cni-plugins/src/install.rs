//! Putting the executable where runtimes look for plugins, and taking it away again.
//!
//! Each file is replaced by a rename, so a runtime that calls it meanwhile gets either the old or the new one.

use crate::NAME;
use anyhow::{Context, Result, bail};
use cni_common::process::{self, program};
use std::fs::{File, Permissions, hard_link, metadata, rename, symlink_metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::{NamedTempFile, TempPath};

/// The file that a runtime's plugin was before ours took its place.
const PREVIOUS: &str = ".previous";

/// A folder of plugins.
pub struct Folder {
    dir: PathBuf,
    plugins: Vec<&'static str>,
    own: Vec<u8>,
}

impl Folder {
    /// The folder `dir`, for these plugins, which the running executable has.
    ///
    /// # Errors
    /// When that can't be read.
    pub fn new(dir: &Path, plugins: impl Iterator<Item = &'static str>) -> Result<Self> {
        let own = std::fs::read("/proc/self/exe").context("read this executable")?;
        Ok(Self { dir: dir.to_owned(), plugins: plugins.collect(), own })
    }

    /// Puts the executable there, under all names. Gives what was done, a line a file.
    ///
    /// Its own name comes last: one that was stopped in between finds by that what is ours when it is run again.
    ///
    /// # Errors
    /// What the file system says. What is in its place by then stays.
    pub fn install(&self) -> Result<Vec<String>> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("make {}", self.dir.display()))?;
        let (ours, new) = (self.ours()?, self.aside(&self.own)?);
        let mut told = Vec::new();
        for name in self.plugins.iter().copied().chain([NAME]) {
            let path = self.dir.join(name);
            let there = read(&path)?;
            if there.as_ref() == Some(&self.own) && is_kept_well(&path) {
                told.push(format!("{}: is up to date", path.display()));
                continue;
            }
            // Only what was there before us counts as previous: an update of ours must not hide it.
            let previous = self.previous(name);
            let is_others = there.is_some_and(|there| !ours.contains(&there));
            if is_others && symlink_metadata(&previous).is_err() {
                hard_link(&path, &previous)
                    .or_else(|_| std::fs::copy(&path, &previous).map(drop))
                    .with_context(|| format!("keep {} as {}", path.display(), previous.display()))?;
            }
            put(self.link_aside(&new)?, &path)?;
            told.push(format!("{}: installed", path.display()));
        }
        Ok(told)
    }

    /// Takes away what is ours, and puts back what was there before.
    ///
    /// # Errors
    /// What the file system says.
    pub fn uninstall(&self) -> Result<Vec<String>> {
        let ours = self.ours()?;
        let mut told = Vec::new();
        for name in self.plugins.iter().copied().chain([NAME]) {
            let path = self.dir.join(name);
            let (there, previous) = (read(&path)?, self.previous(name));
            let has_previous = symlink_metadata(&previous).is_ok();
            if there.is_none() && !has_previous {
                continue;
            }
            let is_ours = there.is_none_or(|there| ours.contains(&there));
            let what = match (is_ours, has_previous) {
                (false, true) => "stays, it is not ours; the previous one stays beside it",
                (false, false) => "stays, it is not ours",
                (true, true) => {
                    rename(&previous, &path).with_context(|| format!("put {} back", path.display()))?;
                    "the previous one is back"
                }
                (true, false) => {
                    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
                    "removed"
                }
            };
            told.push(format!("{}: {what}", path.display()));
        }
        Ok(told)
    }

    /// What a file of ours in the folder holds: this executable, or the release that was installed before, which is there
    /// under its own name and at least one plugin's.
    fn ours(&self) -> Result<Vec<Vec<u8>>> {
        let mut ours = vec![self.own.clone()];
        if let Some(before) = read(&self.dir.join(NAME))? {
            for plugin in &self.plugins {
                if read(&self.dir.join(plugin))?.as_ref() == Some(&before) {
                    ours.push(before);
                    break;
                }
            }
        }
        Ok(ours)
    }

    fn previous(&self, plugin: &str) -> PathBuf {
        self.dir.join(format!("{plugin}{PREVIOUS}"))
    }

    /// A file with this content, in the folder, under a name that nobody asks for.
    fn aside(&self, content: &[u8]) -> Result<TempPath> {
        let failed = || format!("write into {}", self.dir.display());
        let mut file =
            tempfile::Builder::new().prefix(".cni-plugins-").tempfile_in(&self.dir).with_context(failed)?;
        std::io::Write::write_all(&mut file, content).with_context(failed)?;
        file.as_file().set_permissions(Permissions::from_mode(0o755)).with_context(failed)?;
        file.as_file().sync_all().with_context(failed)?;
        Ok(file.into_temp_path())
    }

    /// One more name of `file`, or a copy where the file system has no more.
    fn link_aside(&self, file: &Path) -> Result<TempPath> {
        // The name is free once the file is gone; nobody else takes one like it.
        let name = NamedTempFile::with_prefix_in(".cni-plugins-", &self.dir)
            .with_context(|| format!("write into {}", self.dir.display()))?
            .into_temp_path();
        std::fs::remove_file(&name)?;
        match hard_link(file, &name) {
            Ok(()) => Ok(name),
            Err(_) => self.aside(&self.own),
        }
    }
}

/// Renames `file` to `path`. Where there is `SELinux`, a file that was moved keeps the label of where it was made, and is
/// given that of its place.
fn put(file: TempPath, path: &Path) -> Result<()> {
    file.persist(path).with_context(|| format!("put {} in its place", path.display()))?;
    let Some(restorecon) = program::find("restorecon") else { return Ok(()) };
    let mut command = program::alone(&restorecon);
    command.arg(path);
    if let Err(error) = process::run(command, &[], Duration::from_secs(10)) {
        cni_common::log!("{NAME}: the label of {}: {error}", path.display());
    }
    Ok(())
}

/// What is in the file at `path`, or where that link leads; `None` when there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    /// No plugin is larger, in bytes.
    const MOST: u64 = 256 << 20;
    let failed = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    match metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A link that leads nowhere is something, and not ours.
            return Ok(symlink_metadata(path).is_ok().then(Vec::new));
        }
        found if !found.as_ref().is_ok_and(std::fs::Metadata::is_file) => {
            bail!("{} is no file; remove it, or choose another folder", path.display())
        }
        _ => {}
    }
    File::open(path).with_context(failed)?.take(MOST).read_to_end(&mut bytes).with_context(failed)?;
    Ok(Some(bytes))
}

/// Whether its mode and owner are as we set them. One that others may write to is put in its place again.
fn is_kept_well(path: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    metadata(path).is_ok_and(|found| found.mode() & 0o7777 == 0o755 && found.uid() == own)
}
