//! What was done in a run of a case, so that a person can do it again by hand.

use cni_harness::call::{Answer, Call, Parts};
use std::fmt::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// One thing that was done.
#[derive(Debug, Clone)]
pub struct Step {
    /// As a line of shell, every word with anything special in it in single quotes.
    line: String,
    /// What came out.
    pub saw: String,
    /// A result, as later configs hold it.
    result: Option<String>,
}

/// All that was done in a run, in order.
#[derive(Debug, Default)]
pub struct Steps(Mutex<Vec<Step>>);

impl Steps {
    /// One thing more.
    pub fn note(&self, step: Step) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What texts are cut to in a report, in characters.
const LONGEST: usize = 1500;
/// Lines of a script that are longer, in bytes, are left out: no shell takes a word of that length.
const LONGEST_LINE: usize = 100_000;

impl Step {
    /// A line of shell.
    #[must_use]
    pub fn shell(line: impl Into<String>) -> Self {
        Self { line: line.into(), saw: String::new(), result: None }
    }

    /// A command in the namespace at `path`.
    #[must_use]
    pub fn inside(path: &Path, command: &str) -> Self {
        Self::shell(format!("nsenter --net='{}' {command}", path.display()))
    }

    /// A call of a plugin. `stdin` is a shell command that makes its stdin, where that is better than the bytes themselves.
    #[must_use]
    pub fn call(call: &Call, stdin: Option<&str>, answer: &Answer) -> Self {
        let Parts { program, args, env, stdin: bytes } = call.parts();
        let stdin = stdin
            .map_or_else(|| format!("printf %s {}", quote(&String::from_utf8_lossy(bytes))), str::to_owned);
        let mut words = vec!["env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        words.extend(env.iter().map(|(key, value)| format!("{key}={}", quote(&value.to_string_lossy()))));
        words.push(quote(&program.to_string_lossy()));
        words.extend(args.iter().map(|word| quote(word)));
        let code = answer.code.map_or("killed".to_owned(), |code| format!("exit code {code}"));
        let mut saw = code;
        for (name, text) in [("stdout", &answer.stdout), ("stderr", &answer.stderr)] {
            if !text.trim().is_empty() {
                let _ = write!(saw, "\n{name}: {}", cut(text.trim()));
            }
        }
        let result =
            serde_json::from_str::<serde_json::Value>(&answer.stdout).ok().filter(|_| answer.is_ok());
        Self {
            line: format!("{stdin} | {}", words.join(" ")),
            saw,
            result: result.map(|json| json.to_string()),
        }
    }

    /// The line with its file names as they were.
    #[must_use]
    pub fn line(&self) -> String {
        cut(&self.line)
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}… ({} bytes)", text.get(..at).unwrap_or_default(), text.len()),
        None => text.to_owned(),
    }
}

/// A word for the shell.
#[must_use]
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:%@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The steps as a script that does the same in a namespace of its own, with `dir` in place of the run's folder.
#[must_use]
pub fn by_hand(steps: &[Step], dir: &Path) -> String {
    let mut lines = vec![
        "unshare -rnm bash <<'BY_HAND'".to_owned(),
        "DIR=$(mktemp -d); trap 'kill $(jobs -p); rm -rf \"$DIR\"' EXIT; ip link set lo up".to_owned(),
    ];
    let dir = dir.to_string_lossy();
    for (at, step) in steps.iter().enumerate() {
        let mut line = step.line.clone();
        for (n, earlier) in steps.iter().enumerate().take(at) {
            if let Some(result) = earlier.result.as_deref().filter(|result| result.len() > 2) {
                line = line.replace(&result.replace('\'', r"'\''"), &format!("'\"$R{n}\"'"));
            }
        }
        line = line.replace(&*dir, "'\"$DIR\"'");
        let later = steps.get(at + 1..).unwrap_or_default();
        let used =
            step.result.as_deref().is_some_and(|result| later.iter().any(|step| step.line.contains(result)));
        if line.len() > LONGEST_LINE {
            line =
                format!("# a call with {} bytes of config or environment, too long for a shell", line.len());
        }
        lines.push(if used { format!("R{at}=$({line}); echo \"$R{at}\"") } else { line });
    }
    lines.push("BY_HAND".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted() {
        assert_eq!(quote("a-b=c"), "a-b=c");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
    }

    #[test]
    fn names_of_the_run_become_variables() {
        let steps = [
            Step { line: "add '/tmp/x/a'".into(), saw: String::new(), result: Some(r#"{"a":1}"#.into()) },
            Step {
                line: r#"check '{"prevResult":{"a":1},"d":"/tmp/x"}'"#.into(),
                saw: String::new(),
                result: None,
            },
        ];
        let script = by_hand(&steps, Path::new("/tmp/x"));
        assert!(script.contains(r#"R0=$(add ''"$DIR"'/a'); echo "$R0""#), "{script}");
        assert!(script.contains(r#"check '{"prevResult":'"$R0"',"d":"'"$DIR"'"}'"#), "{script}");
    }
}
