//! SIGTERM and SIGINT: a call that is told to stop still answers, and leaves nothing half done.
//!
//! The signal sets a flag. ADD looks at it when its work is done and wherever it may wait long; then it
//! fails, and the failure undoes. The other commands go on to their end, which is near. A wait ends within a
//! second: for a lock, for the kernel, and for a program, which is told to stop in its turn. A wait that
//! begins after the signal is an undo's, and has some seconds. However many signals come (timeout(1) sends
//! two), none cuts that short; SIGQUIT and SIGKILL do.

use crate::spec::{Code, Coded, Error, Result};
use nix::errno::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

static TOLD: OnceLock<Arc<AtomicBool>> = OnceLock::new();

thread_local! {
    /// When what this thread does has to be over.
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sees to it that from now on a signal is noticed rather than fatal. Once is enough, also for the calls that follow
/// within this process.
///
/// # Errors
/// Code 5: what sigaction(2) says.
pub fn watch() -> Result<()> {
    if TOLD.get().is_some() {
        return Ok(());
    }
    let told = Arc::default();
    for signal in [SIGTERM, SIGINT] {
        flag::register(signal, Arc::clone(&told)).io("watch for SIGTERM and SIGINT")?;
    }
    // Of two threads that are here at once, one registers a flag that nobody looks at: the one that lost.
    let _ = TOLD.set(told);
    Ok(())
}

/// Does `work`, whose waits end at `deadline` as they do at a signal: what is called within this process can't be sent
/// one. A deadline that is there already stays where it is the earlier one.
pub fn within<T>(deadline: Option<Instant>, work: impl FnOnce() -> T) -> T {
    /// Puts the old one back, also when the work panics.
    struct Restore(Option<Instant>);
    impl Drop for Restore {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
        }
    }
    let _restore = Restore(DEADLINE.get());
    DEADLINE.set(deadline.into_iter().chain(DEADLINE.get()).min());
    work()
}

/// When what this thread does has to be over; for the threads that it starts ([`within`]).
#[must_use]
pub fn deadline() -> Option<Instant> {
    DEADLINE.get()
}

fn is_late() -> bool {
    deadline().is_some_and(|deadline| deadline <= Instant::now())
}

/// A wait that ends: when its time is over, at the thread's deadline, and at SIGTERM. One that begins after either of
/// these is an undo's: neither ends it, but it is short.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    deadline: Option<Instant>,
    heeds_signals: bool,
}

impl Wait {
    /// How often to look: a signal that comes just before somebody sleeps does not wake her.
    const LOOK_UP: Duration = Duration::from_millis(200);
    /// How long an undo waits.
    const OF_UNDO: Duration = Duration::from_secs(5);

    /// Begins one without a limit of its own.
    #[must_use]
    pub fn begin() -> Self {
        let told = is_told();
        let deadline = if told || is_late() { Some(Instant::now() + Self::OF_UNDO) } else { deadline() };
        Self { deadline, heeds_signals: !told }
    }

    /// Begins one that ends after `limit`.
    #[must_use]
    pub fn of(limit: Duration) -> Self {
        Self::begin().until(Instant::now() + limit)
    }

    /// Begins one that no signal ends.
    #[must_use]
    pub fn of_exactly(limit: Duration) -> Self {
        Self { deadline: Some(Instant::now() + limit), heeds_signals: false }
    }

    /// The same, with an end at `deadline` at the latest.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: self.deadline.into_iter().chain([deadline]).min(), ..self }
    }

    /// Whether a signal has ended it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.heeds_signals && is_told()
    }

    /// How long to sleep before this is asked again; `None` when it is over.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(Self::LOOK_UP).min(Self::LOOK_UP);
        (!left.is_zero() && !self.is_stopped()).then_some(left)
    }

    /// Why it is over: `EINTR` or `ETIMEDOUT`.
    #[must_use]
    pub fn errno(&self) -> Errno {
        if self.is_stopped() { Errno::EINTR } else { Errno::ETIMEDOUT }
    }
}

/// Whether a signal has come.
#[must_use]
pub fn is_told() -> bool {
    TOLD.get().is_some_and(|told| told.load(Ordering::Relaxed))
}

/// Whether to go on.
///
/// # Errors
/// Code 11 once a signal has come, or when it is too late.
pub fn go_on() -> Result<()> {
    if is_late() {
        return Err(Error::new(Code::TRY_AGAIN, "the time is over")
            .details("what had been done was undone, and the call can be repeated"));
    }
    if is_told() {
        return Err(Error::new(Code::TRY_AGAIN, "stopped by a signal")
            .details("SIGTERM or SIGINT came; what had been done was undone, and the call can be repeated"));
    }
    Ok(())
}
