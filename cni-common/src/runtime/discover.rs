//! Which network a folder of configs stands for.

use super::list::{ConfList, files_in};
use crate::spec::{Code, Error, Result};
use std::path::{Path, PathBuf};

/// A network, and what stood in front of it.
#[derive(Debug)]
pub struct Found {
    /// The network.
    pub list: ConfList,
    /// Its file.
    pub file: PathBuf,
    /// Files in front of it that are of no use, and why.
    pub skipped: Vec<(PathBuf, Error)>,
}

/// The first config of `folder`, in the byte order of the files' names, that can be read and that `usable` accepts.
///
/// # Errors
/// Code 7, in kubelet's words, when there is none; each file that was skipped is named with its reason.
pub fn discover(folder: &Path, usable: impl Fn(&ConfList) -> Result<()>) -> Result<Found> {
    let files = files_in(folder, &["conf", "conflist", "json"])?;
    if files.is_empty() {
        return Err(Error::new(Code::INVALID_CONFIG, format!("no networks found in {}", folder.display())));
    }
    let mut skipped = Vec::new();
    for file in files {
        match ConfList::load(&file).and_then(|list| usable(&list).map(|()| list)) {
            Ok(list) => return Ok(Found { list, file, skipped }),
            Err(error) => skipped.push((file, error)),
        }
    }
    let reasons: Vec<String> =
        skipped.iter().map(|(file, error)| format!("{}: {error}", file.display())).collect();
    Err(Error::config(format!("no valid networks found in {}", folder.display())).details(reasons.join("; ")))
}
