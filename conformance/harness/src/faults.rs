//! Faults at any point of one plugin's call.

use crate::{Answer, Call};
use std::collections::HashMap;

/// The program that does it.
pub const STRACE: &str = "/usr/bin/strace";

/// A system call of a run: its name, the how-manieth of that name it is (as strace counts), and whether it comes after
/// stdin was read: what comes before is the C library's start.
#[derive(Debug, Clone)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// The how-manieth of that name it is, from 1.
    pub nth: usize,
    /// Whether it is the plugin's own doing.
    pub ours: bool,
    /// The call as strace shows it.
    pub text: String,
    /// The standard library waits for a child's execve(2), on a pair of sockets that it made for that. It
    /// takes a failure, which Linux does not have there, for a bug of its own.
    pub awaits_exec: bool,
}

impl Point {
    /// Not to be failed: an exit, memory given back, a close, whose failure (which Linux does not have) may end the standard
    /// library in a panic, and brk, which Linux never answers with an error number (the C library takes it for an address).
    #[must_use]
    pub fn can_fail(&self) -> bool {
        self.ours
            && !self.awaits_exec
            && !["exit_group", "munmap", "sigaltstack", "close", "brk"].contains(&self.name.as_str())
    }
}

/// Every system call of `call`, which is run and has to succeed.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn points(call: &Call) -> Vec<Point> {
    let Ok(trace) = tempfile::NamedTempFile::new() else { panic!("no temporary file") };
    let answer = under_strace(call, &trace.path().to_string_lossy(), "trace=all");
    assert!(answer.is_ok(), "{}", answer.dump());
    let mut counter = Counter::default();
    let trace = std::fs::read_to_string(trace.path()).unwrap_or_default();
    // One counter for all: a plugin of ours that runs alone is one process.
    let points: Vec<Point> = trace.lines().filter_map(|line| counter.point(line)).collect();
    let own = points.iter().filter(|point| point.ours).count();
    assert!(points.len() > 50 && own > 10, "{} points, {own} of them ours", points.len());
    points
}

/// Numbers the system calls of one process as they come by.
#[derive(Default)]
pub struct Counter {
    counts: HashMap<String, usize>,
    ours: bool,
    /// The file by which a child tells that its execve(2) failed.
    exec_socket: Option<String>,
}

impl Counter {
    /// The call that a line of `strace -f` begins; a line may also end one, or tell a signal or an exit.
    pub fn point(&mut self, line: &str) -> Option<Point> {
        let text = line.split_once(' ')?.1.trim_start();
        let (name, _) = text.split_once('(').filter(|_| !text.starts_with(['<', '-', '+']))?;
        self.ours |= text.starts_with("read(0,");
        if let Some(rest) = text.strip_prefix("socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0, [") {
            self.exec_socket = rest.split_once(',').map(|(file, _)| file.to_owned());
        }
        let is_of = |call: &str| {
            self.exec_socket.as_ref().is_some_and(|file| {
                text.strip_prefix(call)
                    .and_then(|rest| rest.strip_prefix(file.as_str()))
                    .is_some_and(|rest| rest.starts_with([',', ')', ' ']))
            })
        };
        let awaits_exec = is_of("recvfrom(");
        if is_of("close(") {
            self.exec_socket = None;
        }
        let nth = self.counts.entry(name.to_owned()).or_default();
        *nth += 1;
        Some(Point { name: name.to_owned(), nth: *nth, ours: self.ours, text: text.to_owned(), awaits_exec })
    }
}

/// Runs `call`, and does `what` (`signal=SIGKILL`, `error=EIO`, `delay_enter=MICROSECONDS`) to it at one point.
#[must_use]
pub fn inject(call: &Call, point: &Point, what: &str) -> Answer {
    under_strace(call, "/dev/null", &format!("inject={}:{what}:when={}", point.name, point.nth))
}

fn under_strace(call: &Call, trace: &str, expression: &str) -> Answer {
    call.clone().through(STRACE, &["-f", "-qq", "-o", trace, "-e", expression]).run()
}
