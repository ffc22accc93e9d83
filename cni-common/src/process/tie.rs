//! A process that does not outlive us.
//!
//! A runtime that has lost patience kills the plugin and calls DEL. What the plugin had started would go on,
//! and lease an address or make an interface after DEL has said that all is free.
//!
//! This is the one module of the suite with `unsafe` code. The kernel takes the wish to be told of a parent's
//! death (`PR_SET_PDEATHSIG`, prctl(2)) from the process that wishes only, so it has to be uttered between
//! fork(2) and execve(2), and what runs there must not allocate, lock or panic: the two calls below are bare
//! system calls.

#![allow(unsafe_code, reason = "between fork and exec; see above")]

use rustix::io::Errno;
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Sees to it that what `command` starts gets SIGTERM when the thread that starts it ends, however it ends.
/// Plugins of this suite undo then what they had done.
pub(super) fn to_our_life(command: &mut Command) {
    let us = getpid();
    // SAFETY: the closure makes two system calls, whose wrappers touch nothing but registers.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::TERM))?;
            // Somebody killed us before the wish was known.
            if getppid() == Some(us) { Ok(()) } else { Err(Errno::SRCH.into()) }
        });
    }
}
