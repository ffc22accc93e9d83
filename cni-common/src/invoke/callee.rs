//! One run of a plugin. It goes on while we do other work; [`Running::wait`] reads its answer.

use crate::plugin::Command;
use crate::process::Process;
use crate::spec::{Code, Error, Result};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::time::Instant;

/// A plugin that is running. Dropped without [`Running::wait`], it is waited for and its answer is lost.
#[derive(Debug)]
pub struct Running {
    name: String,
    process: Process,
}

impl Running {
    /// Starts `program` as the plugin `name`, with our environment but for `CNI_COMMAND` and `extra`, and `stdin`
    /// as its input.
    ///
    /// # Errors
    /// Code 5 when it can't be started.
    pub fn start(
        program: &Path,
        name: &str,
        command: Command,
        stdin: &[u8],
        extra: &[(&str, &str)],
    ) -> Result<Self> {
        let mut child = std::process::Command::new(program);
        child.env("CNI_COMMAND", command.as_str()).envs(extra.iter().copied());
        Self::spawn(child, name, stdin)
    }

    /// Starts any program as the plugin `name`.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn spawn(program: std::process::Command, name: &str, stdin: &[u8]) -> Result<Self> {
        let process = Process::start(program, format!("plugin {name:?}"), stdin)?;
        Ok(Self { name: name.to_owned(), process })
    }

    /// Waits until it ends and gives what it printed. What it wrote to stderr goes to ours.
    ///
    /// # Errors
    /// The plugin's own error, code and all; code 5 when it failed without one; code 11 when we are told to
    /// stop meanwhile.
    pub fn wait(self) -> Result<Vec<u8>> {
        self.wait_until(None)
    }

    /// As [`Running::wait`], but not for ever.
    ///
    /// # Errors
    /// Code 11 when it did not end in time.
    pub fn wait_until(self, deadline: Option<Instant>) -> Result<Vec<u8>> {
        let name = self.name.clone();
        let Output { status, stdout, stderr } = self.output(deadline)?;
        // Nothing can be done about a stderr that we can't write to.
        let _ = io::stderr().write_all(&stderr);
        if status.success() {
            return Ok(stdout);
        }
        Err(Error::from_json(&stdout).unwrap_or_else(|| silent_failure(&name, status, &stdout, &stderr)))
    }

    /// Waits until it ends, and gives all that it said.
    ///
    /// # Errors
    /// As [`Process::output`].
    pub fn output(self, deadline: Option<Instant>) -> Result<Output> {
        self.process.output(deadline)
    }
}

fn silent_failure(name: &str, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Error {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    };
    let msg = format!("plugin {name:?} failed with no error message: {how}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Error::new(Code::IO, msg).details(format!(
        "stderr {:.1000?}, stdout {:.1000?}",
        text(stderr),
        text(stdout)
    ))
}
