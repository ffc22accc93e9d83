//! Waiting for a process, but not for ever.

use crate::stop::Wait;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::time::Duration;

/// How often to look where the kernel can't wake us.
const PAUSE: Duration = Duration::from_millis(5);

/// How `child` ended; `None` when `wait` was over before. Nothing that fails on the way keeps it from being seen.
///
/// # Errors
/// What waitpid(2) says.
pub(super) fn wait_within(child: &mut Child, wait: &Wait) -> io::Result<Option<ExitStatus>> {
    // None before Linux 5.3, or when no file can be had.
    let ending = pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    loop {
        let left = wait.left();
        let nap = left.unwrap_or_default();
        let woken = ending.as_ref().is_ok_and(|ending| {
            let timeout = PollTimeout::try_from(nap).unwrap_or(PollTimeout::MAX);
            poll(&mut [PollFd::new(ending.as_fd(), PollFlags::POLLIN)], timeout).is_ok()
        });
        match child.try_wait() {
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            ended => return ended,
        }
        if left.is_none() {
            return Ok(None);
        }
        if !woken {
            std::thread::sleep(PAUSE.min(nap));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Instant;

    #[test]
    fn it_ends_in_time_or_goes_on() {
        let mut quick = Command::new("true").spawn().unwrap();
        assert!(wait_within(&mut quick, &Wait::of(Duration::from_secs(20))).unwrap().unwrap().success());
        let mut slow = Command::new("sleep").arg("20").spawn().unwrap();
        let begun = Instant::now();
        assert!(wait_within(&mut slow, &Wait::of(Duration::from_millis(50))).unwrap().is_none());
        assert!(begun.elapsed() >= Duration::from_millis(50));
        slow.kill().unwrap();
        assert!(!wait_within(&mut slow, &Wait::begin()).unwrap().unwrap().success());
    }
}
