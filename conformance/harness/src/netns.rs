//! Namespaces for tests. None has a name or a mount: when the test process ends, they are gone.

use cni_common::kernel::netlink::{Socket, link};
use cni_common::kernel::netns::Netns;
use cni_common::spec::Coded;
use nix::sched::{CloneFlags, unshare};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};

/// The index of `lo`, the first link of every namespace.
const LOOPBACK: u32 = 1;

/// The machine of a test: the calling thread is moved into a network namespace of its own.
pub struct Host;

impl Drop for Host {
    /// What plugins keep for as long as the machine runs (our `bridge` a lock a namespace) must not pile up
    /// on the one that tests.
    fn drop(&mut self) {
        if let Ok(meta) = std::fs::metadata("/proc/thread-self/ns/net") {
            let _ = std::fs::remove_file(format!("/run/cni/bridge.{}.lock", meta.ino()));
        }
    }
}

impl Host {
    /// Moves the calling thread into a new namespace, `lo` up. What the thread starts from now on runs there.
    ///
    /// # Panics
    /// When namespaces can't be had: a test that can't run fails.
    #[must_use]
    pub fn enter() -> Self {
        let moved = unshare(CloneFlags::CLONE_NEWNET);
        assert!(moved.is_ok(), "no network namespace: {moved:?}; tests run under `unshare -rn` or as root");
        let lo = link::set_up(LOOPBACK, true);
        let up = Socket::route().and_then(|mut socket| socket.ack(lo));
        assert!(up.is_ok(), "lo does not come up: {up:?}");
        Self
    }

    /// Runs `ip` with these arguments.
    ///
    /// # Panics
    /// When it fails.
    #[allow(clippy::unused_self, reason = "only who entered a namespace may change the network")]
    pub fn ip(&self, args: &str) -> String {
        succeed(Command::new("ip").args(args.split_whitespace()))
    }

    /// As [`Self::ip`] for each line, by one process.
    ///
    /// # Panics
    /// When one fails.
    #[allow(clippy::unused_self, reason = "only who entered a namespace may change the network")]
    pub fn ip_all(&self, lines: &[&str]) {
        must_batch(lines);
    }

    /// Runs a program on the host and gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[allow(clippy::unused_self, reason = "only who entered a namespace may change the network")]
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        succeed(Command::new(program).args(args))
    }
}

/// Does something inside the network namespace at `netns`, as `nsenter` does, without a program more to start: what the calling thread
/// starts meanwhile runs there, too.
///
/// # Errors
/// When the path leads to no network namespace, it may not be entered, or `work` fails.
pub fn within<T>(netns: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let work = || work().io("work inside a namespace");
    Netns::open(netns).and_then(|netns| netns.run(work)).map_err(io::Error::other)
}

/// A network namespace to attach.
pub struct Container(File);

impl Container {
    /// A new one, `lo` down, as a runtime makes it.
    ///
    /// # Panics
    /// When namespaces can't be had.
    #[must_use]
    pub fn new() -> Self {
        let made = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                File::open("/proc/thread-self/ns/net")
            });
            thread.join()
        });
        match made {
            Ok(Ok(file)) => Self(renumbered(file)),
            other => panic!("no network namespace: {other:?}"),
        }
    }

    /// The value of `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs a program inside, whatever it returns.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn try_run(&self, program: &str, args: &[&str]) -> Output {
        let output = within(self.path().as_ref(), || Command::new(program).args(args).output());
        match output {
            Ok(output) => output,
            Err(error) => panic!("{program}: {error}"),
        }
    }

    /// Runs `ip` inside.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, args: &str) -> String {
        let output = self.try_run("ip", &args.split_whitespace().collect::<Vec<_>>());
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// As [`Self::ip`] for each line, by one process.
    ///
    /// # Panics
    /// When one fails.
    pub fn ip_all(&self, lines: &[&str]) {
        let done = within(self.path().as_ref(), || {
            must_batch(lines);
            Ok(())
        });
        assert!(done.is_ok(), "{lines:?}: {done:?}");
    }

    /// Whether one ping inside is answered.
    #[must_use]
    pub fn pings(&self, address: &str) -> bool {
        self.try_run("ping", &["-c", "1", "-W", "2", address]).status.success()
    }
}

/// The same open file under a number that comes again only after hundreds of others: a container's path must not lead to
/// another container as soon as the first is gone.
fn renumbered(file: File) -> File {
    static MADE: AtomicI32 = AtomicI32::new(0);
    const NUMBERS: i32 = 400;
    // Below the limit of open files that each process has, 1,024 as a rule.
    let least = 500 + MADE.fetch_add(1, Ordering::Relaxed).rem_euclid(NUMBERS);
    rustix::io::fcntl_dupfd_cloexec(&file, least).map_or(file, File::from)
}

impl Default for Container {
    fn default() -> Self {
        Self::new()
    }
}

fn succeed(command: &mut Command) -> String {
    match command.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => panic!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{command:?}: {error}"),
    }
}

fn must_batch(lines: &[&str]) {
    if let Err(why) = ip_batch(&[], lines) {
        panic!("{why}");
    }
}

/// What `ip` prints for each line, in one process: tests start so many programs that it shows.
///
/// # Errors
/// What it said to the first line that failed.
pub fn ip_batch(words: &[&str], lines: &[&str]) -> Result<String, String> {
    let started = Command::new("ip")
        .args(words)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.map_err(|error| format!("ip: {error}"))?;
    // A few lines fit into the pipe. Whether they were read is seen by the exit code.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(lines.join("\n").as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("ip {lines:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
