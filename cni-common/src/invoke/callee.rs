//! Whom a call goes to: a program, or a plugin that this very executable has inside.
//!
//! A plugin that is inside is called as a function, which spares the node a process. Nothing else differs: the plugin
//! sees the same variables and the same bytes on stdin, its answer is the same JSON, and what it made stays once the
//! caller has that answer.

use super::PluginPath;
use crate::plugin::{self, Env, Plugin, Reply};
use crate::process::Process;
use crate::spec::command::{Command, Var};
use crate::spec::{Code, Coded, Error, Result};
use crate::stop;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Output};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// A plugin that can be called.
#[derive(Clone)]
pub struct Callee {
    name: String,
    who: Who,
}

#[derive(Clone)]
enum Who {
    Program(PathBuf),
    Inside(&'static dyn Plugin),
}

impl Callee {
    /// The plugin `name`, found along `path`.
    ///
    /// # Errors
    /// As [`PluginPath::find`].
    pub fn find(path: &PluginPath, name: &str) -> Result<Self> {
        let program = path.find(name)?;
        let who = plugin::inside(&program).map_or(Who::Program(program), Who::Inside);
        Ok(Self { name: name.to_owned(), who })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls it, with `env` for its `CNI_*` variables but for `CNI_COMMAND`, and gives what it printed. What it wrote to
    /// stderr goes to ours.
    ///
    /// # Errors
    /// The plugin's own error, code and all; code 5 when it can't be started, or failed without one; code 11 when it did
    /// not end by `deadline`, or we are told to stop meanwhile.
    pub fn call(
        &self,
        command: Command,
        stdin: &[u8],
        env: &Env,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>> {
        match &self.who {
            Who::Program(program) => {
                taken(&self.name, start(&self.name, program, command, stdin, env)?.output(deadline)?)
            }
            Who::Inside(plugin) => {
                let env = env.with(&[(Var::Command.name(), command.as_str())]);
                let reply = stop::within(deadline, || plugin::serve(*plugin, &env, &mut &*stdin));
                let is_late = !reply.ok && deadline.is_some_and(|deadline| deadline <= Instant::now());
                let answer = taken_inside(reply);
                if !is_late || stop::is_told() {
                    return answer;
                }
                let msg = format!("plugin {:?} did not answer in time", self.name);
                let how = answer.map_or_else(|error| error.to_string(), |_| String::new());
                Err(Error::new(Code::TRY_AGAIN, msg).details(format!("it was told to stop and did: {how}")))
            }
        }
    }

    /// Begins a call that goes on while we do other work.
    ///
    /// # Errors
    /// Code 5 when it can't be started.
    pub fn start(&self, command: Command, stdin: &[u8], env: &Env) -> Result<Running> {
        let work = match &self.who {
            Who::Program(program) => Work::Program(start(&self.name, program, command, stdin, env)?),
            Who::Inside(plugin) => {
                let (plugin, stdin) = (*plugin, stdin.to_owned());
                let env = env.with(&[(Var::Command.name(), command.as_str())]);
                let deadline = stop::deadline();
                let serve = move || stop::within(deadline, || plugin::serve(plugin, &env, &mut &*stdin));
                let thread =
                    thread::Builder::new().spawn(serve).io(format!("start plugin {:?}", self.name))?;
                Work::Inside(thread)
            }
        };
        Ok(Running { name: self.name.clone(), work: Some(work) })
    }
}

/// A plugin at work. Dropped without [`Running::wait`], it is waited for and its answer is lost.
pub struct Running {
    name: String,
    work: Option<Work>,
}

enum Work {
    Program(Process),
    Inside(JoinHandle<Reply>),
}

impl Running {
    /// Waits until it ends and gives what it printed. What it wrote to stderr goes to ours.
    ///
    /// # Errors
    /// As [`Callee::call`].
    pub fn wait(mut self) -> Result<Vec<u8>> {
        match self.work.take() {
            Some(Work::Program(process)) => taken(&self.name, process.output(None)?),
            Some(Work::Inside(thread)) => taken_inside(join(thread, &self.name)?),
            None => Err(Error::new(Code::INTERNAL, format!("plugin {:?} was waited for twice", self.name))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(Work::Inside(thread)) = self.work.take() {
            // The reply is dropped, which undoes what it tells of.
            let _ = thread.join();
        }
    }
}

fn join(thread: JoinHandle<Reply>, name: &str) -> Result<Reply> {
    // Panics of the plugin end in `serve`.
    thread.join().map_err(|_| Error::new(Code::INTERNAL, format!("the thread of plugin {name:?} died")))
}

fn start(name: &str, program: &PathBuf, command: Command, stdin: &[u8], env: &Env) -> Result<Process> {
    let mut child = std::process::Command::new(program);
    for (name, _) in Env::of_process().iter() {
        child.env_remove(name);
    }
    child.envs(env.iter()).env(Var::Command.name(), command.as_str());
    Process::start(child, format!("plugin {name:?}"), stdin)
}

fn taken(name: &str, output: Output) -> Result<Vec<u8>> {
    let Output { status, stdout, stderr } = output;
    // Nothing can be done about a stderr that we can't write to.
    let _ = io::stderr().write_all(&stderr);
    if status.success() {
        return Ok(stdout);
    }
    Err(Error::from_json(&stdout).unwrap_or_else(|| silent_failure(name, status, &stdout, &stderr)))
}

fn taken_inside(mut reply: Reply) -> Result<Vec<u8>> {
    let stdout = std::mem::take(&mut reply.stdout).into_bytes();
    if reply.ok {
        reply.commit();
        return Ok(stdout);
    }
    Err(Error::from_json(&stdout)
        .unwrap_or_else(|| Error::new(Code::INTERNAL, "a plugin of this executable failed without an error")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Living;
    use crate::plugin::{Added, Request, Target};
    use crate::spec::Success;
    use crate::undo::Undo;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    static UNDONE: AtomicBool = AtomicBool::new(false);

    /// ADD waits for ever, CHECK panics, DEL fails, STATUS says what it sees.
    struct Odd;

    impl Plugin for Odd {
        fn name(&self) -> &'static str {
            "odd"
        }
        fn is_ipam(&self) -> bool {
            true
        }
        fn add(&self, _: &Request, _: &Target) -> Result<Added> {
            let mut undo = Undo::default();
            undo.push("nothing", || {
                UNDONE.store(true, Ordering::Relaxed);
                Ok(())
            });
            let wait = stop::Wait::begin();
            while let Some(left) = wait.left() {
                thread::sleep(left);
            }
            Ok(Added { success: Success::default(), undo })
        }
        fn del(&self, _: &Request, _: &Target) -> Result<()> {
            Err(Error::new(Code(77), "it would not go").details("no reason"))
        }
        fn check(&self, _: &Request, _: &Target) -> Result<()> {
            panic!("on purpose")
        }
        fn gc(&self, _: &Request, _: &Living) -> Result<()> {
            Ok(())
        }
        fn status(&self, request: &Request) -> Result<()> {
            let seen = |name: &str| format!("{:?}", request.env.get(name));
            Err(Error::config(format!("{} {}", seen("CNI_IPAM_DELEGATE"), seen("CNI_COMMAND"))))
        }
    }

    fn call(command: Command, deadline: Option<Duration>) -> Result<Vec<u8>> {
        let callee = Callee { name: "odd".to_owned(), who: Who::Inside(&Odd) };
        let env: Env = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "/nowhere")]
            .into_iter()
            .collect();
        let env = env.with(&[("CNI_IPAM_DELEGATE", "1"), ("CNI_COMMAND", "VERSION")]);
        let conf = br#"{"cniVersion": "1.1.0", "name": "net", "type": "odd"}"#;
        callee.call(command, conf, &env, deadline.map(|limit| Instant::now() + limit))
    }

    #[test]
    fn errors_and_panics_come_as_a_program_would_tell_them() {
        let error = call(Command::Del, None).unwrap_err();
        assert_eq!(
            (error.code, error.msg(), error.cause()),
            (Code(77), "it would not go".to_owned(), "no reason".to_owned())
        );
        let error = call(Command::Check, None).unwrap_err();
        assert_eq!(error.code, Code::INTERNAL);
        assert!(
            error.to_string().contains("bug in the odd plugin") && error.to_string().contains("on purpose"),
            "{error}"
        );
        // It sees its own variables, and not those of the caller's call.
        let error = call(Command::Status, None).unwrap_err();
        assert_eq!(error.code, Code::NOT_AVAILABLE);
        assert_eq!(error.msg(), "Some(\"1\") Some(\"STATUS\")");
    }

    #[test]
    fn a_deadline_ends_its_waits_and_what_it_did_is_undone() {
        let begun = Instant::now();
        let error = call(Command::Add, Some(Duration::from_millis(50))).unwrap_err();
        assert_eq!(error.code, Code::TRY_AGAIN);
        assert!(error.to_string().contains("\"odd\" did not answer in time"), "{error}");
        assert!(UNDONE.load(Ordering::Relaxed) && begun.elapsed() < Duration::from_secs(5));
        assert_eq!(stop::deadline(), None);
    }
}
