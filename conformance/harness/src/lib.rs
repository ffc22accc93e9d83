//! The suite's test harness: plugins are run as a runtime runs them, as processes, against real kernels.
//!
//! * [`Host`]: a network namespace that stands for the machine. Each test has its own, so tests run side by side and
//!   none touches the machine's network.
//! * [`Container`]: a namespace to attach, valid as `CNI_NETNS`.
//! * [`Call`]: one run of a plugin; a failed expectation shows everything that went in, came out and is there.
//! * [`snapshot`]: what a machine holds, to compare before and after.
//! * [`traffic`]: servers inside containers, and whom they see asking.
//! * [`faults`]: each system call of a call can kill it, or fail.
//! * [`fuzz`]: input that nobody would write.

pub mod call;
pub mod faults;
pub mod fuzz;
pub mod netns;
pub mod snapshot;
pub mod traffic;

pub use call::{Answer, Call, OLD_REFERENCE, bin_dir, calls_inside, reference_dir};
pub use netns::{Container, Host};
pub use snapshot::{Snapshot, leases};

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes `text` to a file, which is made with `mode` where it is missing (0o755 for an executable one).
///
/// # Panics
/// When it can't.
pub fn write_file(path: &Path, text: impl AsRef<[u8]>, mode: u32) {
    let opened = File::options().write(true).create(true).truncate(true).mode(mode).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_ref()));
    assert!(written.is_ok(), "write {}: {written:?}", path.display());
}

/// Lets this process have as many files open as it may, for hundreds of calls at once.
///
/// # Panics
/// When the limit can't be changed.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    assert!(raised.is_ok(), "raise the limit of open files: {raised:?}");
}
