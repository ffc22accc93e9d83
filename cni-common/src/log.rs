//! The log: lines on stderr, which runtimes keep with the container's events.

use std::io::Write;

/// Logs a line. That nobody reads stderr (a closed pipe, a full disk) must not stop the work, so failures are let be;
/// `eprintln!` would panic.
#[macro_export]
macro_rules! log {
    ($($line:tt)*) => {
        $crate::log::write(format_args!("{}\n", format_args!($($line)*)))
    };
}

/// Writes to stderr what can be written.
pub fn write(text: std::fmt::Arguments) {
    let _ = std::io::stderr().lock().write_fmt(text);
}
