//! The log: lines on stderr, which runtimes keep with the container's events.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::Write;

thread_local! {
    static SPEAKER: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Does `work`, whose lines begin with the name of who logs them: of several plugins that are called in one process, each
/// has its own.
pub fn speaking_as<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    struct Back(Option<&'static str>);
    impl Drop for Back {
        fn drop(&mut self) {
            SPEAKER.set(self.0);
        }
    }
    let _back = Back(SPEAKER.replace(Some(name)));
    work()
}

/// Logs a line, with the name of who speaks in front. That nobody reads stderr (a closed pipe, a full disk) must not stop
/// the work, so failures are let be;
/// `eprintln!` would panic.
#[macro_export]
macro_rules! log {
    ($($line:tt)*) => {
        $crate::log::line(format_args!($($line)*))
    };
}

/// What [`log!`](crate::log!) does.
pub fn line(text: std::fmt::Arguments) {
    match SPEAKER.get() {
        Some(name) => write(format_args!("{name}: {text}\n")),
        None => write(format_args!("{text}\n")),
    }
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
    use super::{SPEAKER, printable, speaking_as};

    #[test]
    fn a_speaker_is_heard_until_it_is_done() {
        speaking_as("one", || {
            speaking_as("other", || assert_eq!(SPEAKER.get(), Some("other")));
            assert_eq!(SPEAKER.get(), Some("one"));
        });
        assert_eq!(SPEAKER.get(), None);
    }

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
