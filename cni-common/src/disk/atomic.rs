//! Files that are replaced whole, by several processes, any of which may be killed: what is not in its place yet is aside, as
//! `.NAME.new`, and locked as long as its writer lives.

use super::{FileLock, Kind, Patience, create_new};
use fs2::FileExt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The end of the name of a file that is not in its place yet.
const ASIDE: &str = ".new";

/// Puts a file with exactly `content`, mode 0600, in the place of whatever is at `path`: a reader finds the old or the new one,
/// whole. Its folder is made where it is missing, mode 0700. `durable` waits until a crash of the machine can't undo it. What a
/// killed writer left aside goes with the next write, [`remove`] or [`sweep`].
///
/// # Errors
/// What the file system says; then what was there is there.
pub fn write_atomic(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let aside = aside_of(path);
    let FileLock(file) = &create_aside(&aside)?;
    let put = (&*file).write_all(content).and_then(|()| {
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&aside, path)
    });
    put.inspect_err(|_| {
        let _ = std::fs::remove_file(&aside);
    })
}

/// Removes the file at `path`, if it is there, and what a killed writer of it left aside.
///
/// # Errors
/// What the file system says.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Mostly there is none.
    let _ = sweep_one(&aside_of(path));
    Ok(())
}

fn aside_of(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}{ASIDE}", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// A new file, which nobody else writes or removes while we hold it. One that is there waits for its writer, and goes when that
/// was killed: what is in it, and whose it is, we do not know.
fn create_aside(aside: &Path) -> io::Result<FileLock> {
    loop {
        match create_new(aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let lock = FileLock::exclusive(aside, Patience::default(), |_| {})?;
                if is_at(&lock.0, aside)? {
                    std::fs::remove_file(aside)?;
                }
            }
            file => {
                let lock = FileLock::of(file?, Kind::Exclusive, Patience::default(), |_| {});
                // Somebody may have taken it for a dead writer's before it was locked.
                let ours = lock.and_then(|lock| Ok(is_at(&lock.0, aside)?.then_some(lock)));
                if let Some(lock) = ours.inspect_err(|_| drop(sweep_one(aside)))? {
                    return Ok(lock);
                }
            }
        }
    }
}

/// A lock whose file is there only as long as somebody has it, or waits for it.
#[derive(Debug)]
pub struct PassingLock {
    path: PathBuf,
    _lock: FileLock,
}

impl PassingLock {
    /// Waits until nobody else has the lock of that name, as [`FileLock::exclusive`] does.
    ///
    /// # Errors
    /// As [`FileLock::exclusive`].
    pub fn take(path: &Path, patience: Patience, say: impl Fn(&str)) -> io::Result<Self> {
        loop {
            let lock = FileLock::exclusive(path, patience, &say)?;
            // Else who had it has removed the file that we waited for.
            if is_at(&lock.0, path)? {
                return Ok(Self { path: path.to_owned(), _lock: lock });
            }
        }
    }
}

impl Drop for PassingLock {
    fn drop(&mut self) {
        // While it is held: whoever gets it after us sees that it is gone. One that stays harms nobody.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        there => Ok(there?.ino() == file.metadata()?.ino()),
    }
}

/// Removes from `folder` what writers left aside that were killed. What one writes just now stays.
///
/// # Errors
/// When the folder can't be read, unless it is not there.
pub fn sweep(folder: &Path) -> io::Result<()> {
    let files = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    for file in files {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') && name.ends_with(ASIDE) {
            // One that can't be opened is no writer's.
            let _ = sweep_one(&path);
        }
    }
    Ok(())
}

fn sweep_one(path: &Path) -> io::Result<()> {
    let (file, _) = super::open(path, OpenOptions::new().read(true))?;
    file.try_lock_exclusive()?;
    if is_at(&file, path)? { std::fs::remove_file(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cni_harness::write_file;

    #[test]
    fn many_writers_of_one_file_are_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results/file");
        let text = |writer: usize| writer.to_string().repeat(1 + 1000 * writer);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..200 {
                        write_atomic(path, text(writer).as_bytes(), false).unwrap();
                        let found = std::fs::read_to_string(path).unwrap();
                        assert!((0..4).any(|writer| found == text(writer)), "{} bytes", found.len());
                    }
                });
            }
            // Nobody minds who sweeps.
            let folder = path.parent().unwrap();
            scope.spawn(move || (0..200).for_each(|_| sweep(folder).unwrap()));
        });
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn one_at_a_time_has_a_passing_lock_and_no_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let inside = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (path, inside) = (&path, &inside);
                scope.spawn(move || {
                    for _ in 0..300 {
                        let lock = PassingLock::take(path, Patience::default(), |_| {}).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_writer_left_is_swept_or_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| write_file(&dir.path().join(name), "half a li", 0o600);
        ["file", ".file", "a.new", ".dead.new"].into_iter().for_each(put);
        std::os::unix::fs::symlink("file", dir.path().join(".link.new")).unwrap();
        let busy = create_aside(&dir.path().join(".busy.new")).unwrap();
        sweep(dir.path()).unwrap();
        let names = || {
            let files = std::fs::read_dir(dir.path()).unwrap().flatten();
            let mut names: Vec<String> =
                files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), [".busy.new", ".file", ".link.new", "a.new", "file"]);
        drop(busy);
        put(".busy.new");
        put(".file.new");
        remove(&dir.path().join("file")).unwrap();
        remove(&dir.path().join("file")).unwrap();
        put("file");
        write_atomic(&dir.path().join("busy"), b"all", false).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("busy")).unwrap(), "all");
        assert_eq!(names(), [".file", ".link.new", "a.new", "busy", "file"]);
        assert!(write_atomic(&dir.path().join("link"), b"all", false).is_err(), "nobody's link is followed");
        assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "half a li");
        sweep(&dir.path().join("absent")).unwrap();
    }
}
