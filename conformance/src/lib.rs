//! The suite's test harness: plugins are run as a runtime runs them, as processes, against real kernels.
//!
//! * [`Host`]: a network namespace that stands for the machine. Each test has its own, so tests run side by side and
//!   none touches the machine's network.
//! * [`Container`]: a namespace to attach, valid as `CNI_NETNS`.
//! * [`Call`]: one run of a plugin; a failed expectation shows everything that went in, came out and is there.
//! * [`snapshot`]: what a machine holds, to compare before and after.

pub mod call;
pub mod netns;
pub mod snapshot;

pub use call::{Answer, Call, bin_dir};
pub use netns::{Container, Host};
pub use snapshot::{Snapshot, leases};

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Makes a file with `text`; an executable one with `mode` 0o755.
///
/// # Panics
/// When it can't.
pub fn write_file(path: &Path, text: impl AsRef<[u8]>, mode: u32) {
    let made = File::options().write(true).create(true).truncate(true).mode(mode).open(path).and_then(|mut file| {
        file.write_all(text.as_ref())?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    });
    assert!(made.is_ok(), "write {}: {made:?}", path.display());
}
