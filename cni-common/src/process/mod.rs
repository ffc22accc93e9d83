//! Programs that we start, plugins and the machine's own: they end when we do, and nobody waits for one for ever.

pub mod program;
mod tie;
mod wait;

use crate::spec::{Code, Coded, Error, Result};
use crate::stop::Wait;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use wait::wait_within;

/// How long a program that was told to stop may take to undo.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same when we were told to stop ourselves: whoever told us waits for us.
const PATIENCE_WHEN_STOPPED: Duration = Duration::from_millis(500);
/// What is read of a program's output, in bytes.
const MOST: usize = 16 << 20;

/// Runs one of the machine's programs with `input`, for as long as `limit`, and gives all that it said.
///
/// # Errors
/// As [`Process::start`] and [`Process::output`].
pub fn run(command: Command, input: &[u8], limit: Duration) -> Result<Output> {
    let title = command.get_program().display().to_string();
    Process::start(command, title, input)?.output(Some(Instant::now() + limit))
}

/// A program that is running. Dropped without [`Process::output`], it is waited for and its answer is lost.
#[derive(Debug)]
pub struct Process {
    title: String,
    child: Option<Child>,
    // Files in memory, not pipes: nobody has to read while the program runs, and none of the three can block.
    stdout: File,
    stderr: File,
    wait: Wait,
}

impl Process {
    /// Starts `command` with `stdin` as its input; `title` is for messages. What would change the code that
    /// it runs (`LD_PRELOAD` and its like) it does not inherit. It gets SIGTERM when the thread that calls
    /// this ends.
    ///
    /// # Errors
    /// Code 5 when it can't be started.
    pub fn start(mut command: Command, title: String, stdin: &[u8]) -> Result<Self> {
        let doing = format!("start {title} ({})", command.get_program().display());
        let input = memory(c"cni-stdin").io(&doing)?;
        input.write_all_at(stdin, 0).io(&doing)?;
        let (stdout, stderr) = (memory(c"cni-stdout").io(&doing)?, memory(c"cni-stderr").io(&doing)?);
        for name in program::linker_variables() {
            command.env_remove(name);
        }
        command.stdin(input).stdout(Stdio::from(stdout.try_clone().io(&doing)?));
        command.stderr(Stdio::from(stderr.try_clone().io(&doing)?));
        tie::to_our_life(&mut command);
        let wait = Wait::begin();
        let child = spawn(&mut command).io(&doing)?;
        Ok(Self { title, child: Some(child), stdout, stderr, wait })
    }

    /// Waits until it ends and gives all that it said. At `deadline`, or when we are told to stop, it is told
    /// to stop (SIGTERM, at which our plugins undo), and a while later killed.
    ///
    /// # Errors
    /// Code 11 when it did not end in time.
    pub fn output(mut self, deadline: Option<Instant>) -> Result<Output> {
        let doing = format!("run {}", self.title);
        let Some(mut child) = self.child.take() else { return Err(Error::new(Code::INTERNAL, doing)) };
        let status = self.ended(&mut child, deadline).io(&doing)??;
        let stdout = read_back(&self.stdout).io(&doing)?;
        let stderr = read_back(&self.stderr).io(&doing)?;
        Ok(Output { status, stdout, stderr })
    }

    fn ended(&self, child: &mut Child, deadline: Option<Instant>) -> io::Result<Result<ExitStatus>> {
        let wait = deadline.map_or(self.wait, |deadline| self.wait.until(deadline));
        if let Some(status) = wait_within(child, &wait)? {
            return Ok(Ok(status));
        }
        let stopped = wait.is_stopped();
        let told =
            i32::try_from(child.id()).is_ok_and(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok());
        let patience = if stopped { PATIENCE_WHEN_STOPPED } else { PATIENCE };
        let how = match wait_within(child, &Wait::of_exactly(patience))? {
            // It was done already: what it did is known, and can be undone.
            Some(status) if status.success() => return Ok(Ok(status)),
            Some(_) if told => "it was told to stop and did",
            // A child that is gone can't be killed, which is all that could go wrong.
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                "it was killed; a DEL cleans up after it"
            }
        };
        let msg = if stopped {
            format!("stopped by a signal while {} was at work", self.title)
        } else {
            format!("{} did not answer in time", self.title)
        };
        Ok(Err(Error::new(Code::TRY_AGAIN, msg).details(how)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its status can't matter to somebody who did not wait for it; a zombie would.
            let _ = self.ended(&mut child, None);
        }
    }
}

/// "Text file busy" means that somebody is copying the program's file this moment; there is no event to wait for.
fn spawn(command: &mut Command) -> io::Result<Child> {
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
    while bytes.len() < MOST {
        match file.read_at(&mut chunk, bytes.len() as u64)? {
            len if len < chunk.len() => {
                bytes.extend_from_slice(&chunk[..len]);
                return Ok(bytes);
            }
            _ => bytes.extend_from_slice(&chunk),
        }
    }
    Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it said more than {MOST} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(words: &[&str]) -> Process {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Process::start(command, words[0].to_owned(), b"said").unwrap()
    }

    #[test]
    fn it_says_what_it_read_and_how_it_ended() {
        let output = start(&["cat"]).output(None).unwrap();
        assert_eq!((output.status.success(), output.stdout.as_slice()), (true, b"said".as_slice()));
        assert_eq!(start(&["false"]).output(None).unwrap().status.code(), Some(1));
    }

    #[test]
    fn one_that_does_not_end_in_time_is_told_to_stop() {
        let error = start(&["sleep", "60"]).output(Some(Instant::now())).unwrap_err();
        assert_eq!(error.code, Code::TRY_AGAIN);
        assert!(error.to_string().contains("told to stop and did"), "{error}");
    }

    #[test]
    fn it_ends_with_the_thread_that_started_it() {
        let mut process = std::thread::spawn(|| start(&["sleep", "60"])).join().unwrap();
        let mut child = process.child.take().unwrap();
        let wait = Wait::of(Duration::from_secs(20));
        assert!(!wait_within(&mut child, &wait).unwrap().unwrap().success());
    }
}
