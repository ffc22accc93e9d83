//! Deviations that are known: a file with a line for each, `PLUGIN/CASE REASON`. `*` stands for any text, `#` begins a comment.
//! `?` in front of a line means that the deviation does not show each time: a race.

use std::fs;
use std::io;
use std::path::Path;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    pattern: String,
    /// Whether it deviates each time.
    always: bool,
    reason: String,
}

impl Expectation {
    fn is_about(&self, name: &str) -> bool {
        let unversioned = name.split_once('@').map_or(name, |(name, _)| name);
        matches(&self.pattern, name) || matches(&self.pattern, unversioned)
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Expectations(Vec<Expectation>);

impl Expectations {
    /// Reads a file.
    ///
    /// # Errors
    /// When it can't be read, or a line is none.
    pub fn read(file: &Path) -> io::Result<Self> {
        let told = |why: String| io::Error::other(format!("{}: {why}", file.display()));
        Self::parse(&fs::read_to_string(file).map_err(|error| told(error.to_string()))?).map_err(told)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut found = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.split_once(" #").map_or(line, |(line, _)| line).trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, reason) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let reason = reason.trim();
            if !pattern.contains('/') || reason.is_empty() {
                return Err(format!("line {}: {line:?} is no `PLUGIN/CASE REASON`", at + 1));
            }
            let (pattern, always) = pattern.strip_prefix('?').map_or((pattern, true), |rest| (rest, false));
            found.push(Expectation { pattern: pattern.to_owned(), always, reason: reason.to_owned() });
        }
        Ok(Self(found))
    }

    /// Why a run of a case is known to deviate, and whether it does so each time; `name` is `PLUGIN/CASE` or
    /// `PLUGIN/CASE@VERSION`.
    #[must_use]
    pub fn reason(&self, name: &str) -> Option<(&str, bool)> {
        let known = self.0.iter().find(|one| one.is_about(name));
        known.map(|one| (one.reason.as_str(), one.always))
    }

    /// The patterns that match none of `names`.
    #[must_use]
    pub fn unused(&self, names: &[String]) -> Vec<&str> {
        let unused = self.0.iter().filter(|one| !names.iter().any(|name| one.is_about(name)));
        unused.map(|one| one.pattern.as_str()).collect()
    }
}

/// Whether a pattern, in which `*` stands for any text, matches all of `text`.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(first) else { return false };
    (0..=text.len()).any(|at| text.get(at..).is_some_and(|tail| matches(rest, tail)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match() {
        for (pattern, text, want) in [
            ("bridge/gc.a", "bridge/gc.a", true),
            ("bridge/gc.a", "bridge/gc.ab", false),
            ("*/gc.*", "host-local/gc.empty", true),
            ("*/gc.*", "host-local/add.gc.x", false),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
    }

    #[test]
    fn lines_are_read() {
        let known =
            Expectations::parse("# all\n\n*/gc.*  no GC # plugins#1\nbridge/add.a@0.4.0 why\n").unwrap();
        assert_eq!(known.reason("ptp/gc.x@1.1.0"), Some(("no GC", true)));
        assert_eq!(known.reason("bridge/add.a@0.4.0"), Some(("why", true)));
        let race = Expectations::parse("?*/many.del a race").unwrap();
        assert_eq!(race.reason("ptp/many.del"), Some(("a race", false)));
        assert_eq!(known.reason("bridge/add.a@1.0.0"), None);
        assert_eq!(known.unused(&["ptp/gc.x@1.1.0".to_owned()]), ["bridge/add.a@0.4.0"]);
        assert!(Expectations::parse("bridge why").unwrap_err().contains("line 1"));
        assert!(Expectations::parse("bridge/add.a").unwrap_err().contains("line 1"));
    }
}
