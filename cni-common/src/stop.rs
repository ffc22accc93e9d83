//! SIGTERM and SIGINT: a call that is told to stop still answers, and leaves nothing half done.
//!
//! The signal sets a flag. ADD looks at it when its work is done and wherever it may wait long; then it fails, and the
//! failure undoes. The other commands go on to their end, which is near. A delegate that is running is waited for: what
//! it leases has to be freed. However many signals come (timeout(1) sends two), none cuts that short; SIGQUIT and SIGKILL do.

use crate::spec::{Code, Coded, Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static TOLD: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Sees to it that from now on a signal is noticed rather than fatal.
///
/// # Errors
/// Code 5: what sigaction(2) says.
pub(crate) fn watch() -> Result<()> {
    let told = TOLD.get_or_init(Arc::default);
    for signal in [SIGTERM, SIGINT] {
        flag::register(signal, Arc::clone(told)).io("watch for SIGTERM and SIGINT")?;
    }
    Ok(())
}

/// Whether to go on.
///
/// # Errors
/// Code 11 once a signal has come.
pub fn go_on() -> Result<()> {
    if TOLD.get().is_some_and(|told| told.load(Ordering::Relaxed)) {
        return Err(Error::new(Code::TRY_AGAIN, "stopped by a signal")
            .details("SIGTERM or SIGINT came; what had been done was undone, and the call can be repeated"));
    }
    Ok(())
}
