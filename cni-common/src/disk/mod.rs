//! Files that other processes share: the lock that they wait on, how a file appears whole or not at all, and
//! what is looked at before one is read that others may have made.

#[cfg(feature = "runtime")]
mod atomic;
mod door;

#[cfg(feature = "runtime")]
pub use atomic::{PassingLock, remove, sweep, write_atomic};
pub use door::{open, open_own, overwrite, read_given, read_own, read_own_text};

use crate::stop::Wait;
use fs2::FileExt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// How long somebody waits for a lock.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// When to say who holds it.
    pub say_after: Duration,
    /// When to give up.
    pub give_up_after: Duration,
}

impl Default for Patience {
    /// A call holds the lock for a millisecond, so thousands in a queue are served within this.
    fn default() -> Self {
        Self { say_after: Duration::from_secs(10), give_up_after: Duration::from_secs(60) }
    }
}

/// A flock(2), held until it is dropped.
#[derive(Debug)]
pub struct FileLock(#[allow(dead_code, reason = "held for its lock")] File);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Exclusive,
    Shared,
}

impl Kind {
    fn take(self, file: &File) -> io::Result<()> {
        match self {
            Self::Exclusive => FileExt::lock_exclusive(file),
            Self::Shared => FileExt::lock_shared(file),
        }
    }

    fn try_take(self, file: &File) -> io::Result<()> {
        match self {
            Self::Exclusive => FileExt::try_lock_exclusive(file),
            Self::Shared => FileExt::try_lock_shared(file),
        }
    }
}

impl FileLock {
    /// Waits until nobody else has the lock on the file at `path`, which is made if it is not there. After a
    /// while `say` is told who holds it.
    ///
    /// # Errors
    /// What open(2) or flock(2) say; `TimedOut`, naming the holder, when patience is at its end;
    /// `Interrupted` at a signal.
    pub fn exclusive(path: &Path, patience: Patience, say: impl FnOnce(&str)) -> io::Result<Self> {
        Self::of(lock_file(path)?, Kind::Exclusive, patience, say)
    }

    /// As [`FileLock::exclusive`], but others may have it at once in this way.
    ///
    /// # Errors
    /// As [`FileLock::exclusive`].
    pub fn shared(path: &Path, patience: Patience, say: impl FnOnce(&str)) -> io::Result<Self> {
        Self::of(lock_file(path)?, Kind::Shared, patience, say)
    }

    /// As [`FileLock::exclusive`], but only if nobody has it; else `None`.
    ///
    /// # Errors
    /// What open(2) or flock(2) say.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        let file = lock_file(path)?;
        match Kind::Exclusive.try_take(&file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(|()| Some(Self(file))),
        }
    }

    fn of(file: File, kind: Kind, patience: Patience, say: impl FnOnce(&str)) -> io::Result<Self> {
        match kind.try_take(&file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(file, kind, patience, say).map(Self)
            }
            other => other.map(|()| Self(file)),
        }
    }
}

/// Who can open the file can take its lock, and keep everybody waiting: so nobody but root, or whoever we are.
fn lock_file(path: &Path) -> io::Result<File> {
    const OTHERS: u32 = 0o077;
    let mut options = OpenOptions::new();
    let (file, meta) = open(path, options.read(true).write(true).create(true).truncate(false).mode(0o600))?;
    // Nothing is read, so it may be of any kind.
    door::own(path, &meta)?;
    if meta.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(meta.mode() & 0o7777 & !OTHERS))?;
    }
    Ok(file)
}

/// The kernel serves those who wait in their order, but not for a limited time; so a thread waits for us, and is left
/// behind, to end with the process, when we give up.
fn wait(file: File, kind: Kind, patience: Patience, say: impl FnOnce(&str)) -> io::Result<File> {
    let (sender, receiver) = mpsc::channel();
    let waiting = file.try_clone()?;
    std::thread::Builder::new().spawn(move || {
        let answer = kind.take(&waiting);
        // The lock is held as long as any of our files of it is open.
        drop(waiting);
        // Nobody listens any more once we have given up.
        let _ = sender.send(answer);
    })?;
    if let Some(answer) = await_answer(&receiver, Wait::of(patience.say_after))? {
        return answer.map(|()| file);
    }
    say(&format!("waiting for {}", holder(&file)));
    let left = patience.give_up_after.saturating_sub(patience.say_after);
    if let Some(answer) = await_answer(&receiver, Wait::of(left))? {
        return answer.map(|()| file);
    }
    let text = format!("gave up after {} s, held by {}", patience.give_up_after.as_secs(), holder(&file));
    Err(io::Error::new(io::ErrorKind::TimedOut, text))
}

/// What the waiting thread says within `wait`.
///
/// # Errors
/// `Interrupted` when a signal ended the wait.
fn await_answer(receiver: &mpsc::Receiver<io::Result<()>>, wait: Wait) -> io::Result<Option<io::Result<()>>> {
    while let Some(left) = wait.left() {
        match receiver.recv_timeout(left) {
            Ok(answer) => return Ok(Some(answer)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the waiting thread ended"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
    if wait.is_stopped() {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped by a signal"));
    }
    Ok(None)
}

/// Who holds the flock on `file`, for people: process ID and command (`/proc/locks`, `/proc/PID/cmdline`).
fn holder(file: &File) -> String {
    let unknown = || "a process that can't be told".to_owned();
    let Ok(inode) = file.metadata().map(|meta| meta.ino()) else { return unknown() };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    // 1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF; those who wait have an arrow in front.
    let pid = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, place, ..] = words.as_slice() else { return None };
        place.rsplit(':').next().is_some_and(|number| number == inode.to_string()).then_some(*pid)
    });
    let Some(pid) = pid else { return unknown() };
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    format!("process {pid} ({command})")
}

/// What somebody may do who may write to a folder of state.
pub const HARM: &str = "change or lose what is kept there";

/// Looks whether others may have put there, or may change, what is in `dir`, which only root should; `harm`
/// is what they may do then, for people. What is missing is nobody's.
///
/// # Errors
/// `PermissionDenied` for a symbolic link that another user made. Root's are followed.
pub fn distrust(dir: &Path, harm: &str, say: impl FnOnce(&str)) -> io::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(dir) else { return Ok(()) };
    let path = dir.display();
    if meta.is_symlink() {
        let owner = meta.uid();
        if door::own(dir, &meta).is_err() {
            let why = format!("{path} is a symbolic link that user {owner} made; put a folder in its place");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        return distrust(&std::fs::canonicalize(dir)?, harm, say);
    }
    if meta.mode() & 0o002 != 0 {
        say(&format!("everybody may write to {path}, and so {harm}: chmod o-w it"));
    } else if door::own(dir, &meta).is_err() {
        say(&format!("{path} belongs to user {}, who may {harm}: chown it to root", meta.uid()));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_waiter_says_who_holds_the_lock_and_gets_it_or_gives_up() {
        let path = std::env::temp_dir().join(format!("cni-lock-{}", std::process::id()));
        let lock = |give_up: u64, said: &Mutex<String>| {
            let patience = Patience {
                say_after: Duration::from_millis(20),
                give_up_after: Duration::from_millis(give_up),
            };
            FileLock::exclusive(&path, patience, |text| *said.lock().unwrap() = text.to_owned())
        };
        let me = format!("process {}", std::process::id());
        let said = Mutex::default();
        let held = lock(1000, &said).unwrap();
        assert_eq!(*said.lock().unwrap(), "", "a lock that is free is taken at once");

        let error = lock(40, &said).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains(&me), "{error}");

        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| lock(60_000, &said).map(drop));
            while said.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            assert!(said.lock().unwrap().contains(&me), "{said:?}");
            drop(held);
            waiter.join().unwrap().unwrap();
        });
        std::fs::remove_file(&path).unwrap();
    }
}
