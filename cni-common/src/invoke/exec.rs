//! One run of a plugin. It goes on while we do other work; [`Running::wait`] reads its answer.

use super::program::linker_variables;
use super::wait::wait_within;
use crate::plugin::Command;
use crate::spec::{Code, Coded, Error, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a plugin that was told to stop may take to undo.
const PATIENCE: Duration = Duration::from_secs(10);

/// A plugin that is running. Dropped without [`Running::wait`], it is waited for and its answer is lost.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Option<Child>,
    // Files in memory, not pipes: nobody has to read while the plugin runs, and none of the three can block.
    stdout: File,
    stderr: File,
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

    /// Starts any program; `name` is for messages. What would change the code that it runs (`LD_PRELOAD` and its like) it does not inherit.
    ///
    /// # Errors
    /// Code 5 when it can't be started.
    pub fn spawn(mut program: std::process::Command, name: &str, stdin: &[u8]) -> Result<Self> {
        let doing = format!("start plugin {name:?} ({})", program.get_program().display());
        let input = memory(c"cni-stdin").io(&doing)?;
        input.write_all_at(stdin, 0).io(&doing)?;
        let (stdout, stderr) = (memory(c"cni-stdout").io(&doing)?, memory(c"cni-stderr").io(&doing)?);
        for name in linker_variables() {
            program.env_remove(name);
        }
        program.stdin(input).stdout(Stdio::from(stdout.try_clone().io(&doing)?));
        program.stderr(Stdio::from(stderr.try_clone().io(&doing)?));
        let child = spawn(&mut program).io(&doing)?;
        Ok(Self { name: name.to_owned(), child: Some(child), stdout, stderr })
    }

    /// Waits until it ends and gives what it printed. What it wrote to stderr goes to ours.
    ///
    /// # Errors
    /// The plugin's own error, code and all; code 5 when it failed without one.
    pub fn wait(self) -> Result<Vec<u8>> {
        self.wait_until(None)
    }

    /// As [`Running::wait`], but not for ever: at `deadline` it is told to stop (SIGTERM, at which our plugins undo), and a
    /// while later killed.
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

    /// Waits until it ends, or `deadline`, and gives all that it said.
    ///
    /// # Errors
    /// Code 11 when it did not end in time.
    pub fn output(mut self, deadline: Option<Instant>) -> Result<Output> {
        let doing = format!("run plugin {:?}", self.name);
        let Some(mut child) = self.child.take() else { return Err(Error::new(Code::INTERNAL, doing)) };
        let status = match deadline {
            None => child.wait().io(&doing)?,
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                match wait_within(&mut child, left).io(&doing)? {
                    Some(status) => status,
                    None => return Err(self.stop(&mut child)),
                }
            }
        };
        let stdout = read_back(&self.stdout).io(&doing)?;
        let stderr = read_back(&self.stderr).io(&doing)?;
        Ok(Output { status, stdout, stderr })
    }

    fn stop(&self, child: &mut Child) -> Error {
        let pid = i32::try_from(child.id()).map(Pid::from_raw);
        let told = pid.is_ok_and(|pid| kill(pid, Signal::SIGTERM).is_ok());
        let how = match wait_within(child, PATIENCE) {
            Ok(Some(_)) if told => "it was told to stop and did",
            // A child that is gone can't be killed, which is all that could go wrong.
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                "it was killed; a DEL cleans up after it"
            }
        };
        let msg = format!("plugin {:?} did not answer in time", self.name);
        Error::new(Code::TRY_AGAIN, msg).details(how)
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

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its status can't matter to somebody who did not wait for it; a zombie would.
            let _ = child.wait();
        }
    }
}

/// "Text file busy" means that somebody is copying the plugin's file this moment; there is no event to wait for.
fn spawn(command: &mut std::process::Command) -> io::Result<Child> {
    const TRIES: u32 = 20;
    for _ in 1..TRIES {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(100));
            }
            other => return other,
        }
    }
    command.spawn()
}

fn memory(name: &CStr) -> io::Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC).map(File::from)?)
}

fn read_back(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        match file.read_at(&mut chunk, bytes.len() as u64)? {
            len if len < chunk.len() => {
                bytes.extend_from_slice(&chunk[..len]);
                return Ok(bytes);
            }
            _ => bytes.extend_from_slice(&chunk),
        }
    }
}
