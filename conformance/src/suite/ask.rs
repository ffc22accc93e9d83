//! One call of a plugin, and what has to come out.

use super::steps::{Step, Steps};
use super::verdict::{Trouble, Verdict};
use crate::expect;
use cni_harness::call::{Answer, Call};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// A call to be.
#[must_use]
pub struct Ask<'a> {
    steps: &'a Steps,
    call: Call,
    /// The config.
    pub conf: Value,
    /// Bytes in place of the config, and the shell command that makes them.
    stdin: Option<(Vec<u8>, Option<String>)>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(steps: &'a Steps, call: Call, conf: Value) -> Self {
        Self { steps, call, conf, stdin: None }
    }
}

impl Ask<'_> {
    /// Sets a key of the config, by JSON pointer; its parents are made.
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let mut at = &mut self.conf;
        for key in pointer.split('/').skip(1).map(|key| key.replace("~1", "/")) {
            at = match key.parse::<usize>() {
                Ok(index) if at.is_array() => &mut at[index],
                _ => &mut at[key],
            };
        }
        *at = value.into();
        self
    }

    /// Takes a key of the config away.
    pub fn unset(mut self, key: &str) -> Self {
        if let Some(conf) = self.conf.as_object_mut() {
            conf.remove(key);
        }
        self
    }

    /// Sets a variable.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.call = self.call.env(key, value);
        self
    }

    /// Takes a variable away.
    pub fn without(mut self, key: &str) -> Self {
        self.call = self.call.without(key);
        self
    }

    /// Gives it these bytes in place of the config.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some((bytes.into(), None));
        self
    }

    /// As [`Self::stdin`], for bytes that a shell command makes.
    pub fn stdin_made(mut self, bytes: Vec<u8>, command: &str) -> Self {
        self.stdin = Some((bytes, Some(command.to_owned())));
        self
    }

    /// Leaves stdin open while it runs, for `limit` at most.
    pub fn hold_stdin(mut self, limit: Duration) -> Self {
        self.call = self.call.hold_stdin().limit(limit);
        self
    }

    /// Runs another program.
    pub fn program(mut self, dir: &Path, name: &str) -> Self {
        self.call = self.call.program(dir, name);
        self
    }

    /// Runs it through a program that gets these words in front of it.
    pub fn through(mut self, program: &str, words: &[&str]) -> Self {
        self.call = self.call.through(program, words);
        self
    }

    /// Runs it.
    pub fn run(self) -> Reply {
        let (bytes, made) = self.stdin.unwrap_or_else(|| (self.conf.to_string().into_bytes(), None));
        let call = self.call.stdin(bytes);
        let answer = call.run();
        self.steps.note(Step::call(&call, made.as_deref(), &answer));
        Reply(answer)
    }
}

/// What a plugin answered.
pub struct Reply(pub Answer);

/// An error that a plugin told.
pub struct Told {
    /// Its code.
    pub code: u64,
    /// Its message and details.
    pub text: String,
    /// All of it.
    pub json: Value,
}

impl Reply {
    /// In one line, for "seen".
    #[must_use]
    pub fn seen(&self) -> String {
        let Answer { code, stdout, stderr, .. } = &self.0;
        let code = code
            .map_or("killed by a signal or the time limit".to_owned(), |code| format!("exit code {code}"));
        let short = |text: &str| -> String {
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            line.chars().take(600).collect()
        };
        let mut seen = code;
        if !stdout.trim().is_empty() {
            let _ = write!(seen, ", stdout {}", short(stdout));
        }
        if !stderr.trim().is_empty() {
            let _ = write!(seen, ", stderr {}", short(stderr));
        }
        seen
    }

    /// It has to succeed; stdout as JSON, `null` when it is empty.
    pub fn succeeds(&self) -> Result<Value, Trouble> {
        expect!(self.0.is_ok(), "success, exit code 0", "{}", self.seen());
        if self.0.stdout.is_empty() {
            return Ok(Value::Null);
        }
        let json = serde_json::from_str(&self.0.stdout);
        json.map_err(|error| {
            Trouble::deviation("stdout is one JSON document", format!("{error}: {}", self.seen()))
        })
    }

    /// It has to succeed and to print nothing.
    pub fn is_silent(&self) -> Verdict {
        expect!(self.0.is_ok(), "success, exit code 0", "{}", self.seen());
        expect!(self.0.stdout.trim().is_empty(), "nothing on stdout", "{}", self.seen());
        Ok(())
    }

    /// It has to fail, and to say so with an error object on stdout.
    pub fn fails(&self) -> Result<Told, Trouble> {
        let failed = self.0.code.is_some_and(|code| code != 0);
        expect!(failed, "failure, an exit code other than 0", "{}", self.seen());
        let json: Value = serde_json::from_str(&self.0.stdout).unwrap_or_default();
        let (code, msg) =
            (json["code"].as_u64().unwrap_or_default(), json["msg"].as_str().unwrap_or_default());
        expect!(
            code > 0 && !msg.is_empty(),
            "an error object with code and msg on stdout",
            "{}",
            self.seen()
        );
        let text = format!("{msg}: {}", json["details"].as_str().unwrap_or_default());
        Ok(Told { code, text, json })
    }

    /// It has to fail with one of these codes.
    pub fn fails_with(&self, codes: &[u64]) -> Result<Told, Trouble> {
        let told = self.fails()?;
        expect!(codes.contains(&told.code), format!("error code {codes:?}"), "{}", self.seen());
        Ok(told)
    }

    /// It has to fail, and to name `words`.
    pub fn fails_naming(&self, words: &[&str]) -> Verdict {
        let told = self.fails()?;
        for word in words {
            expect!(told.text.contains(word), format!("an error that names {word:?}"), "{}", self.seen());
        }
        Ok(())
    }
}
