//! One run of a plugin, as a runtime does it.

use crate::netns::Container;
use serde_json::Value;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use wait_timeout::ChildExt;

/// The folder of the plugins under test: `CNI_BIN_DIR`, else where cargo puts them.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn bin_dir() -> PathBuf {
    let built = || std::env::current_exe().ok()?.parent()?.parent().map(Path::to_owned);
    let dir = std::env::var_os("CNI_BIN_DIR").map(PathBuf::from).or_else(built).unwrap_or_default();
    assert!(
        dir.join("bridge").is_file(),
        "no bridge in {}; run `cargo build --workspace` first",
        dir.display()
    );
    dir
}

/// Whether the plugins under test are one executable, which calls its delegates without starting a program.
#[must_use]
pub fn calls_inside() -> bool {
    let file =
        |plugin: &str| std::fs::metadata(bin_dir().join(plugin)).map(|found| (found.dev(), found.ino())).ok();
    file("bridge") == file("host-local")
}

/// The reference plugins' newest release: `CNI_REFERENCE_DIR`, else where `scripts/peers` puts it.
///
/// # Panics
/// When it is not there: a comparison that can't be made fails.
#[must_use]
pub fn reference_dir() -> PathBuf {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/peers/reference");
    let dir = std::env::var_os("CNI_REFERENCE_DIR").map_or_else(|| built.into(), PathBuf::from);
    assert!(dir.join("bridge").is_file(), "no {}; run `scripts/peers reference` first", dir.display());
    dir
}

/// The reference plugins that old nodes have: Debian's 1.1.1, of 2022.
pub const OLD_REFERENCE: &str = "/usr/lib/cni";

/// A run of a plugin that is to be.
#[derive(Clone)]
pub struct Call {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, OsString)>,
    stdin: Vec<u8>,
    limit: Option<Duration>,
    hold_stdin: bool,
}

impl Call {
    /// A run of our plugin of that name, with nothing but `CNI_PATH` in its environment.
    #[must_use]
    pub fn new(plugin: &str) -> Self {
        Self::of(&bin_dir(), plugin)
    }

    /// A run of the plugin of that name in `dir`, which is also its `CNI_PATH`.
    #[must_use]
    pub fn of(dir: &Path, plugin: &str) -> Self {
        let call = Self {
            program: dir.join(plugin),
            args: vec![],
            env: vec![],
            stdin: vec![],
            limit: None,
            hold_stdin: false,
        };
        call.env("CNI_PATH", dir.as_os_str())
    }

    /// Gives it arguments, which plugins do not have.
    #[must_use]
    pub fn args(mut self, words: &[String]) -> Self {
        self.args = words.to_vec();
        self
    }

    /// Runs it through `program` (strace, time, a shell, …), which gets these words in front of it.
    #[must_use]
    pub fn through(mut self, program: &str, words: &[&str]) -> Self {
        let plugin = std::mem::replace(&mut self.program, program.into());
        let words = words.iter().map(ToString::to_string).chain([plugin.display().to_string()]);
        self.args = words.chain(std::mem::take(&mut self.args)).collect();
        self
    }

    /// Runs another program, with all else as it is.
    #[must_use]
    pub fn program(mut self, dir: &Path, name: &str) -> Self {
        self.program = dir.join(name);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.retain(|(known, _)| known != key);
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.env.retain(|(known, _)| known != key);
        self
    }

    /// The command, with a config.
    #[must_use]
    pub fn command(self, command: &str, conf: &Value) -> Self {
        self.env("CNI_COMMAND", command).stdin(conf.to_string())
    }

    /// stdin's bytes.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Kills it, and what it started, when it runs longer; its exit code is `None` then.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Leaves stdin open for as long as it runs. Only with a limit.
    #[must_use]
    pub fn hold_stdin(mut self) -> Self {
        self.hold_stdin = true;
        self
    }

    /// What it consists of.
    #[must_use]
    pub fn parts(&self) -> Parts<'_> {
        Parts { program: &self.program, args: &self.args, env: &self.env, stdin: &self.stdin }
    }

    /// Container ID and interface name.
    #[must_use]
    pub fn attachment(self, container_id: &str, ifname: &str) -> Self {
        self.env("CNI_CONTAINERID", container_id).env("CNI_IFNAME", ifname)
    }

    /// The container's namespace.
    #[must_use]
    pub fn netns(self, container: &Container) -> Self {
        self.env("CNI_NETNS", container.path())
    }

    /// Runs it, and counts its system calls, its children's included, and the programs that it starts.
    ///
    /// # Panics
    /// When it fails, or strace does.
    #[must_use]
    pub fn cost(&self) -> (usize, usize) {
        let Ok(trace) = tempfile::NamedTempFile::new() else { panic!("no temporary file") };
        let words = ["-f", "-qq", "-o", &trace.path().to_string_lossy()];
        let answer = self.clone().through("/usr/bin/strace", &words).run();
        assert!(answer.is_ok(), "{}", answer.dump());
        let text = std::fs::read_to_string(trace.path()).unwrap_or_default();
        // A call that another process's line cuts in two counts once; signals and exits are no calls.
        let is_call = |line: &&str| ![" <... ", " --- ", " +++ "].iter().any(|other| line.contains(other));
        let is_exec = |line: &&str| line.contains("execve") && line.ends_with(" = 0");
        (text.lines().filter(is_call).count(), text.lines().filter(is_exec).count() - 1)
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn run(&self) -> Answer {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        if self.limit.is_some() {
            // What it starts goes with it.
            command.process_group(0);
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut child) = child else { panic!("{}: {child:?}", self.program.display()) };
        let ended = match self.limit {
            Some(limit) => self.run_limited(child, limit),
            None => self.feed(child.stdin.take()).and_then(|_| child.wait_with_output()),
        };
        match ended {
            Ok(output) => Answer {
                call: self.clone(),
                code: output.status.code(),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            },
            Err(error) => panic!("{}: {error}", self.program.display()),
        }
    }

    /// As [`Self::run`], for a plugin of others whose ADD gives up when duplicate address detection takes more than
    /// five seconds. The kernel does that for all namespaces in one queue, so other tests can make this long. Such an
    /// ADD is taken back, and asked again.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn run_again_if_tentative(&self) -> Answer {
        const TRIES: usize = 6;
        for _ in 1..TRIES {
            let answer = self.run();
            if answer.is_ok() || !answer.stdout.contains("still has tentative addresses") {
                return answer;
            }
            self.clone().env("CNI_COMMAND", "DEL").run().ok();
        }
        self.run()
    }
}

impl Call {
    /// Gives the plugin its stdin, which is given back when it is to stay open.
    fn feed(&self, stdin: Option<impl Write>) -> io::Result<Option<impl Write>> {
        let Some(mut stdin) = stdin else { return Ok(None) };
        match stdin.write_all(&self.stdin) {
            // It did not want to read it all.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(self.hold_stdin.then_some(stdin)),
        }
    }

    fn run_limited(&self, mut child: Child, limit: Duration) -> io::Result<Output> {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        std::thread::scope(|scope| {
            let feeding = scope.spawn(move || self.feed(stdin));
            let out = scope.spawn(move || read_all(stdout));
            let err = scope.spawn(move || read_all(stderr));
            let status = if let Some(status) = child.wait_timeout(limit)? {
                status
            } else {
                let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
                // It may have ended just now.
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
                child.wait()?
            };
            let died = |_| io::Error::other("a reader died");
            drop(feeding.join().map_err(died)??);
            Ok(Output { status, stdout: out.join().map_err(died)??, stderr: err.join().map_err(died)?? })
        })
    }
}

/// What a call consists of.
pub struct Parts<'a> {
    /// The executable.
    pub program: &'a Path,
    /// Its arguments.
    pub args: &'a [String],
    /// The variables set for it.
    pub env: &'a [(String, OsString)],
    /// stdin's bytes.
    pub stdin: &'a [u8],
}

fn read_all(pipe: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What a plugin answered.
pub struct Answer {
    call: Call,
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

impl Answer {
    /// Whether the exit code is 0.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.code == Some(0)
    }

    /// stdout as JSON; `null` when it is empty.
    ///
    /// # Panics
    /// When it is neither.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        if self.stdout.is_empty() {
            return Value::Null;
        }
        match serde_json::from_str(&self.stdout) {
            Ok(json) => json,
            Err(error) => panic!("stdout is no JSON: {error}\n{}", self.dump()),
        }
    }

    /// The result of a call that has to succeed.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert!(self.is_ok(), "expected success\n{}", self.dump());
        self.json()
    }

    /// The message of a call that has to fail with `code`, and with a well-formed error.
    ///
    /// # Panics
    /// When it succeeded, or failed in another way.
    #[track_caller]
    pub fn fails(&self, code: u32) -> String {
        assert_eq!(self.code, Some(1), "expected exit code 1\n{}", self.dump());
        let json = self.json();
        let version = json["cniVersion"].as_str().unwrap_or_default();
        assert!(!version.is_empty(), "the error names no cniVersion\n{}", self.dump());
        assert_eq!(json["code"], code, "expected error code {code}\n{}", self.dump());
        let message = json["msg"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "the error says nothing\n{}", self.dump());
        format!("{message}: {}", json["details"].as_str().unwrap_or_default())
    }

    /// Everything about the call, for a person who wants to know why.
    #[must_use]
    pub fn dump(&self) -> String {
        let show = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output();
            output.map_or_else(
                |error| error.to_string(),
                |output| String::from_utf8_lossy(&output.stdout).into_owned(),
            )
        };
        let env: Vec<String> =
            self.call.env.iter().map(|(key, value)| format!("{key}={}", value.to_string_lossy())).collect();
        format!(
            "--- {} with\n{}\n--- stdin\n{:.2000}\n--- exit code {:?}, stdout\n{:.4000}\n--- stderr\n{:.4000}\n--- ip addr\n{}--- nft list ruleset\n{}",
            self.call.program.display(),
            env.join("\n"),
            String::from_utf8_lossy(&self.call.stdin),
            self.code,
            self.stdout,
            self.stderr,
            show("ip", &["addr"]),
            show("nft", &["list", "ruleset"]),
        )
    }
}

/// The time in milliseconds that so many percent of `times` stay below.
#[must_use]
pub fn percentile(times: &[std::time::Duration], part: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = (sorted.len() * part / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}
