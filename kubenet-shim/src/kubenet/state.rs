//! What outlives a process: the node's range, and since when it is missed. What is known of each pod is in the result cache
//! beside them.
//!
//! ```text
//! /var/lib/cni/kubenet/pod-cidr             10.1.0.0/24,fd00:1::/64
//! /var/lib/cni/kubenet/waiting              2026-11-24T12:00:00Z: without a range since
//! /var/lib/cni/kubenet/results/kubenet-…    one file a pod, libcni's format
//! /var/lib/cni/kubenet/locks/NN             what is done to one pod is done one after the other; there while it is
//! ```

use crate::cidr;
use cni_common::disk::{self, PassingLock, Patience};
use cni_common::owner::reference_digest;
use cni_common::spec::{Code, Coded, Error, Result};
use ipnet::IpNet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The file of the node's range.
pub const POD_CIDR: &str = "pod-cidr";
const WAITING: &str = "waiting";
/// Two ranges, or a time, in bytes.
const MOST: u64 = 1 << 10;

/// The node's range, as it was last told; none when it was not.
///
/// # Errors
/// Code 7 when the file holds something else, code 5 when it can't be read.
pub fn pod_cidrs(state_dir: &Path) -> Result<Vec<IpNet>> {
    let file = state_dir.join(POD_CIDR);
    match disk::read_own_text(&file, MOST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        text => cidr::pod_cidrs(text.io(format!("read {}", file.display()))?.trim())
            .map_err(|error| error.context(format!("{} is damaged", file.display()))),
    }
}

/// Keeps the node's range.
///
/// # Errors
/// Code 5: what the file system says.
pub fn keep_pod_cidrs(state_dir: &Path, cidrs: &[IpNet]) -> Result<()> {
    write(state_dir, POD_CIDR, &cidr::to_text(cidrs))?;
    match std::fs::remove_file(state_dir.join(WAITING)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).io(format!("remove {}", state_dir.join(WAITING).display()))
        }
        _ => Ok(()),
    }
}

/// Notes that the range is missed from now on, unless that is known.
///
/// # Errors
/// Code 5: what the file system says.
pub fn wait_for_pod_cidrs(state_dir: &Path) -> Result<()> {
    if waiting_since(state_dir).is_some() {
        return Ok(());
    }
    write(state_dir, WAITING, &humantime::format_rfc3339_seconds(SystemTime::now()).to_string())
}

/// Since when the range is missed, if somebody noted it.
#[must_use]
pub fn waiting_since(state_dir: &Path) -> Option<String> {
    let text = disk::read_own_text(&state_dir.join(WAITING), MOST).ok()?;
    let text = text.trim();
    humantime::parse_rfc3339(text).is_ok().then(|| text.to_owned())
}

/// Waits until nobody else is at work on that pod, and keeps others waiting until it is dropped. Pods share a
/// few files, since one that a killed process leaves stays.
///
/// # Errors
/// Code 11 when the other does not come to an end within `patience`; code 5: what the file system says.
pub fn lock_pod(state_dir: &Path, pod: &str, patience: Duration) -> Result<PassingLock> {
    let folder = state_dir.join("locks");
    let doing = format!("lock pod {pod} in {}", folder.display());
    disk::distrust(state_dir, disk::HARM, |text| cni_common::log!("{text}")).io(&doing)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).io(&doing)?;
    let patience = Patience { say_after: Duration::from_secs(10), give_up_after: patience };
    let say = |holder: &str| cni_common::log!("waiting for pod {pod}: {holder}");
    let lock = PassingLock::take(&folder.join(reference_digest(&[pod], 2)), patience, say);
    lock.map_err(|error| {
        let passes = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted);
        Error::new(if passes { Code::TRY_AGAIN } else { Code::IO }, doing).details(error)
    })
}

fn write(state_dir: &Path, name: &str, text: &str) -> Result<()> {
    let file = state_dir.join(name);
    // The range has to outlive a crash: the node gets it once only.
    disk::write_atomic(&file, format!("{text}\n").as_bytes(), true).io(format!("write {}", file.display()))
}
