//! Files that other processes share: the lock that they wait on, and how a file appears whole or not at all.

use fs2::FileExt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// An exclusive flock(2), held until it is dropped.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Waits for the lock on the file at `path`, which is made with `mode` if it is not there.
    ///
    /// # Errors
    /// What open(2) or flock(2) say.
    pub fn exclusive(path: &Path, mode: u32) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)?;
        file.lock_exclusive()?;
        Ok(Self(file))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file lets go of the lock anyway.
        let _ = FileExt::unlock(&self.0);
    }
}

/// Makes the file at `path`, mode 0600, with exactly `content`, or not at all: it is written to `aside` (same
/// folder) and then linked. Callers hold a lock, so one `aside` is enough; one that a killed process left is
/// replaced.
///
/// # Errors
/// `AlreadyExists` when there is something at `path`; it is not touched. Else what the file system says.
pub fn create_whole(path: &Path, aside: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = match create_new(aside) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(aside)?;
            create_new(aside)
        }
        other => other,
    }?;
    let made = file.write_all(content).and_then(|()| std::fs::hard_link(aside, path));
    // One that can't be removed is replaced by the next; it must not make what was done look undone.
    let _ = std::fs::remove_file(aside);
    made
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Writes `content` over the file at `path`, mode 0600. For hints whose loss harms nobody: a reader may find it
/// torn.
///
/// # Errors
/// What the file system says.
pub fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)?;
    file.write_all(content)
}
