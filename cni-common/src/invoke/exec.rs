//! One run of a plugin. It goes on while we do other work; [`Running::wait`] reads its answer.

use crate::plugin::Command;
use crate::spec::{Code, Coded, Error, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

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
        let doing = format!("start plugin {name:?} ({})", program.display());
        let input = memory(c"cni-stdin").io(&doing)?;
        input.write_all_at(stdin, 0).io(&doing)?;
        let (stdout, stderr) = (memory(c"cni-stdout").io(&doing)?, memory(c"cni-stderr").io(&doing)?);
        let mut child = std::process::Command::new(program);
        child.env("CNI_COMMAND", command.as_str()).envs(extra.iter().copied());
        child.stdin(input).stdout(Stdio::from(stdout.try_clone().io(&doing)?));
        child.stderr(Stdio::from(stderr.try_clone().io(&doing)?));
        let child = spawn(&mut child).io(&doing)?;
        Ok(Self { name: name.to_owned(), child: Some(child), stdout, stderr })
    }

    /// Waits until it ends and gives what it printed. What it wrote to stderr goes to ours.
    ///
    /// # Errors
    /// The plugin's own error, code and all; code 5 when it failed without one.
    pub fn wait(mut self) -> Result<Vec<u8>> {
        let doing = format!("run plugin {:?}", self.name);
        let status = match self.child.take() {
            Some(mut child) => child.wait().io(&doing)?,
            None => return Err(Error::new(Code::INTERNAL, doing)),
        };
        let stdout = read_back(&self.stdout).io(&doing)?;
        let stderr = read_back(&self.stderr).io(&doing)?;
        // Nothing can be done about a stderr that we can't write to.
        let _ = io::stderr().write_all(&stderr);
        if status.success() {
            return Ok(stdout);
        }
        Err(Error::from_json(&stdout).unwrap_or_else(|| self.silent_failure(status, &stdout, &stderr)))
    }

    fn silent_failure(&self, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Error {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        };
        let msg = format!("plugin {:?} failed with no error message: {how}", self.name);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Error::new(Code::IO, msg).details(format!(
            "stderr {:.1000?}, stdout {:.1000?}",
            text(stderr),
            text(stdout)
        ))
    }
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
