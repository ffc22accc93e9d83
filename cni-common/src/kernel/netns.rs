//! Network namespaces. A thread that enters one ends there: no early return can leave us inside.

use crate::spec::{Code, Coded, Error, Result};
use nix::libc;
use nix::sched::CloneFlags;
use nix::sys::statfs::{FsType, fstatfs};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The magic number of nsfs, on which every namespace file lies (`linux/magic.h`).
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// An open network namespace.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// Opens the namespace at `path`, the value of `CNI_NETNS`.
    ///
    /// # Errors
    /// Code 4 when there is none, or when the path is a file, a folder, a FIFO or another kind of namespace.
    pub fn open(path: &Path) -> Result<Self> {
        let doing = format!("failed to open netns {:?}", path.display());
        // O_NONBLOCK, or a FIFO would hold us until somebody writes to it.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = file.coded(Code::BAD_ENVIRONMENT, format!("CNI_NETNS: {doing}"))?;
        let kind = fstatfs(&file).coded(Code::BAD_ENVIRONMENT, format!("CNI_NETNS: {doing}"))?.filesystem_type();
        if kind != NSFS_MAGIC {
            let details = "it is not a network namespace; want something like /run/netns/NAME or /proc/PID/ns/net";
            return Err(Error::new(Code::BAD_ENVIRONMENT, format!("CNI_NETNS: {doing}")).details(details));
        }
        Ok(Self(file))
    }

    /// Runs `work` inside.
    ///
    /// # Errors
    /// Code 4 when this is no network namespace, code 5 when it can't be entered; else what `work` says.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            #[allow(clippy::disallowed_methods, reason = "the one door into a namespace")]
            nix::sched::setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
                nix::Error::EINVAL => Error::new(Code::BAD_ENVIRONMENT, "CNI_NETNS is not a network namespace"),
                _ => Error::new(Code::IO, "enter the container's network namespace")
                    .details(format!("{errno}; the plugin needs CAP_SYS_ADMIN; run it as root")),
            })?;
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Whether this is the calling thread's own namespace.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.0.metadata().is_ok_and(|meta| is_own_inode(&meta))
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const OWN: &str = "/proc/thread-self/ns/net";

/// Whether `path` is the calling thread's own network namespace; a path that can't be looked at is not.
#[must_use]
pub fn is_own(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| is_own_inode(&meta))
}

fn is_own_inode(meta: &std::fs::Metadata) -> bool {
    std::fs::metadata(OWN).is_ok_and(|own| (own.dev(), own.ino()) == (meta.dev(), meta.ino()))
}

/// Opens the calling thread's own network namespace, to lock it or to look from it.
///
/// # Errors
/// What open(2) says.
pub fn open_own() -> io::Result<File> {
    File::open(OWN)
}
