//! The log: lines on stderr, which runtimes keep with the container's events.

use std::borrow::Cow;
use std::io::Write;

/// Logs a line. That nobody reads stderr (a closed pipe, a full disk) must not stop the work, so failures are let be;
/// `eprintln!` would panic.
#[macro_export]
macro_rules! log {
    ($($line:tt)*) => {
        $crate::log::write(format_args!("{}\n", format_args!($($line)*)))
    };
}

/// Writes to stderr what can be written. Much of it are words of others (names in files, plugins' errors),
/// which must not steer the terminal of whoever reads the log.
pub fn write(text: std::fmt::Arguments) {
    let text = text.to_string();
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    let _ = std::io::stderr().lock().write_all(lines.join("\n").as_bytes());
}

/// `text` with its control characters as Rust writes them in a literal, `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn only_control_characters_are_escaped() {
        for (text, want) in [
            ("eth0 of container \"ä\"", "eth0 of container \"ä\""),
            ("a\u{1b}]0;x\u{7}\u{9b}2J\r\n\t", "a\\u{1b}]0;x\\u{7}\\u{9b}2J\\r\\n\\t"),
        ] {
            assert_eq!(printable(text), want);
        }
    }
}
