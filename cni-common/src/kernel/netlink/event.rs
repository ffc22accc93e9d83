//! Waiting for the kernel to say that something happened, instead of asking again and again.

use super::RouteNetlinkMessage;
use super::socket::Socket;
use crate::kernel::refusal::Refusal;
use crate::stop::Wait;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::Duration;

/// A group of events (`RTNLGRP_*`, rtnetlink(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// A link came, went or changed.
    Link,
    /// An IPv6 address came, went or changed.
    Ipv6Addr,
    /// An IPv6 route came, went or changed, of whatever table.
    Ipv6Route,
}

impl Group {
    const fn number(self) -> u32 {
        match self {
            Self::Link => 1,
            Self::Ipv6Addr => 9,
            Self::Ipv6Route => 11,
        }
    }
}

/// Waits until `ready` says so. It is asked once after `events` is subscribed, so that nothing falls between, and
/// again after each event. Other links' events wake us, too; `ready` looks for itself.
///
/// # Errors
/// `ETIMEDOUT` after `limit`; `EINTR` when a signal told us to stop; what `ready` or the socket say.
pub fn wait<T>(
    events: &mut Socket,
    group: Group,
    limit: Duration,
    mut ready: impl FnMut() -> Result<Option<T>, Refusal>,
) -> Result<T, Refusal> {
    let wait = Wait::of(limit);
    events.subscribe(group.number())?;
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        let Some(left) = wait.left() else {
            return Err(Refusal::new("wait for the kernel", wait.errno()));
        };
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(events.raw().as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => drain(events)?,
            Err(errno) => return Err(Refusal::new("wait for the kernel", errno)),
        }
    }
}

/// What can't be read whole wakes us as well, as do events lost to a full buffer: `ready` is asked either way.
fn drain(events: &mut Socket) -> Result<(), Refusal> {
    match events.receive::<RouteNetlinkMessage>() {
        Err(refusal) if !matches!(refusal.errno, Errno::ENOBUFS | Errno::EBADMSG | Errno::EMSGSIZE) => {
            Err(refusal)
        }
        _ => Ok(()),
    }
}
