//! The edge of the process: the only place that reads stdin, writes stdout and picks the exit code.

use super::request::{Env, Request, Target, check_env};
use crate::kernel::netlink::close;
use crate::kernel::netns;
use crate::owner::Living;
use crate::spec::command::{Command, Var};
use crate::spec::conf::NetConf;
use crate::spec::{Attachment, Code, Error, Result, SpecVersion, Success, compat};
use crate::undo::Undo;
use crate::{log, stop};
use nix::poll::{PollFd, PollFlags, poll};
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// What an ADD made, and how to take it back should the result not reach the runtime.
pub struct Added {
    /// The result to print.
    pub success: Success,
    /// Run unless the result was printed.
    pub undo: Undo,
}

/// Set for a plugin that another one calls for addresses (`ipam.type`), so that an interface plugin (the caller
/// itself, even) refuses instead of going round in circles.
pub const IPAM_DELEGATE: &str = "CNI_IPAM_DELEGATE";

/// A CNI plugin. [`run`] has checked the environment, the config's shared keys, and that this version of the
/// specification has the command; VERSION it answers by itself.
pub trait Plugin: Sync {
    /// The name under which the plugin introduces itself.
    fn name(&self) -> &'static str;

    /// The oldest version of the specification that it speaks.
    fn since(&self) -> SpecVersion {
        SpecVersion::V0_1_0
    }

    /// Another name that a file of it may have.
    fn alias(&self) -> Option<&'static str> {
        None
    }

    /// Whether other plugins may call it for addresses.
    fn is_ipam(&self) -> bool {
        false
    }

    /// What it does with words of a command line, which people give it and runtimes do not; `None`: the call is
    /// a runtime's all the same.
    fn command_line(&self, words: &[OsString]) -> Option<ExitCode> {
        let _ = words;
        None
    }

    /// Attaches the container.
    fn add(&self, request: &Request, target: &Target) -> Result<Added>;

    /// Detaches it. What is already gone is no error.
    fn del(&self, request: &Request, target: &Target) -> Result<()>;

    /// Looks whether the attachment is as ADD left it.
    fn check(&self, request: &Request, target: &Target) -> Result<()>;

    /// Frees what belongs to the network and to none of the `living`.
    fn gc(&self, request: &Request, living: &Living) -> Result<()>;

    /// Fails when an ADD could not succeed now; whatever the error's code is, it is told as code 50 (51 stays).
    /// Changes nothing.
    fn status(&self, request: &Request) -> Result<()>;
}

/// What goes to stdout, and the exit code.
pub struct Reply {
    /// JSON, or nothing.
    pub stdout: String,
    /// What goes to stderr besides what the verb logged.
    pub stderr: String,
    /// Whether the exit code is 0.
    pub ok: bool,
    undo: Undo,
}

impl Reply {
    fn ok(stdout: String, undo: Undo) -> Self {
        Self { stdout, stderr: String::new(), ok: true, undo }
    }

    fn failed(error: &Error, version: SpecVersion) -> Self {
        Self { stdout: error.to_json(version), stderr: String::new(), ok: false, undo: Undo::default() }
    }

    /// The result has reached the runtime: what was made stays.
    pub fn commit(self) {
        self.undo.commit();
    }
}

/// Runs `plugin` as this process: the whole of a plugin's `main`.
#[must_use]
pub fn run(plugin: &dyn Plugin) -> ExitCode {
    run_with(plugin, &std::env::args_os().skip(1).collect::<Vec<_>>())
}

/// The same, with `words` for its command line.
pub(super) fn run_with(plugin: &dyn Plugin, words: &[OsString]) -> ExitCode {
    log::speaking_as(plugin.name(), || plugin.command_line(words).unwrap_or_else(|| answer_process(plugin)))
}

/// The call that this process is.
fn answer_process(plugin: &dyn Plugin) -> ExitCode {
    let (env, stdin) = (Env::of_process(), std::io::stdin());
    let is_version = env.get(Var::Command.name()).is_some_and(|word| *word == *"VERSION");
    let reply = if is_version {
        serve(plugin, &env, &mut Impatient(stdin))
    } else {
        serve(plugin, &env, &mut stdin.lock())
    };
    log::write(format_args!("{}", reply.stderr));
    let written = write_stdout(reply.stdout.as_bytes());
    match (written, reply.ok) {
        (Ok(()), true) => {
            reply.commit();
            ExitCode::SUCCESS
        }
        (Ok(()), false) => ExitCode::FAILURE,
        (Err(error), _) => {
            crate::log!("the result could not be written, undoing: {error}");
            ExitCode::FAILURE
        }
    }
}

/// In one piece: the standard library's stdout would cut it at the last line.
fn write_stdout(mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(std::io::stdout(), bytes) {
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Answers one call. Nothing is printed; a panic inside the plugin becomes an error of code 999.
pub fn serve(plugin: &dyn Plugin, env: &Env, stdin: &mut dyn Read) -> Reply {
    if env.get(Var::Command.name()).is_none() {
        return about(plugin);
    }
    // Errors name the version in use; until the config is read, that is our newest.
    let mut version = SpecVersion::LATEST;
    let work = || catch_unwind(AssertUnwindSafe(|| answer(plugin, env, stdin, &mut version)));
    let answer = log::speaking_as(plugin.name(), || close::late(work));
    match answer {
        Ok(Ok((stdout, undo))) => Reply::ok(stdout, undo),
        Ok(Err(error)) => Reply::failed(&error, version),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            let error =
                Error::new(Code::INTERNAL, format!("bug in the {} plugin, please report it", plugin.name()));
            Reply::failed(&error.details(text), version)
        }
    }
}

/// Called by hand, or by Nomad, which reads the version out of it. stdin is left alone.
fn about(plugin: &dyn Plugin) -> Reply {
    let text = about_text(plugin.name(), plugin.since());
    Reply { stderr: text, ..Reply::ok(String::new(), Undo::default()) }
}

/// Who somebody is: a name, the suite's release, and the versions of the specification from `since` on; two lines.
#[must_use]
pub fn about_text(name: &str, since: SpecVersion) -> String {
    let versions = versions(since).map(SpecVersion::as_str).collect::<Vec<_>>().join(", ");
    format!("CNI {name} plugin v{}\nCNI protocol versions supported: {versions}\n", env!("CARGO_PKG_VERSION"))
}

fn answer(
    plugin: &dyn Plugin,
    env: &Env,
    stdin: &mut dyn Read,
    version: &mut SpecVersion,
) -> Result<(String, Undo)> {
    let word =
        env.get(Var::Command.name()).map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let command = Command::parse(&word);
    let names = check_env(env, command)?;
    if command == Some(Command::Version) {
        return Ok((supported_versions(plugin, asked_with(stdin)), Undo::default()));
    }
    let request = Request::read(env, stdin, version)?;
    // Not before: whoever waits for a config that never comes may be stopped the usual way.
    stop::watch()?;
    let Some(command) = command else {
        let msg = format!("unknown CNI_COMMAND: {word:.80}");
        return Err(
            Error::new(Code::BAD_ENVIRONMENT, msg).details("want ADD, DEL, CHECK, GC, STATUS or VERSION")
        );
    };
    if request.conf.version < command.since() {
        let msg = format!("config version does not allow {command}");
        let details =
            format!("cniVersion is {}, {command} came with {}", request.conf.version, command.since());
        return Err(Error::new(Code::INCOMPATIBLE_VERSION, msg).details(details));
    }
    if request.conf.version < plugin.since() {
        return Err(SpecVersion::incompatible(request.conf.version.as_str(), versions(plugin.since())));
    }
    if env.get(IPAM_DELEGATE).is_some() && !plugin.is_ipam() {
        return Err(Error::config(format!("{} can't be an IPAM plugin", plugin.name()))
            .details("ipam.type names it; name one that hands out addresses, such as host-local"));
    }
    let target = names.map(|names| Target {
        attachment: Attachment {
            network: request.conf.name.clone(),
            container_id: names.container_id,
            ifname: names.ifname,
        },
        netns: env.get(Var::Netns.name()).map(Into::into),
    });
    let silent = |result: Result<()>| result.map(|()| (String::new(), Undo::default()));
    match (command, target) {
        (Command::Add, Some(target)) => {
            let target = refuse_own_netns(env, target)?;
            let added = plugin.add(&request, &target);
            stop::go_on()?;
            let Added { success, undo } = added?;
            Ok((compat::to_json(&success, request.conf.version)?, undo))
        }
        (Command::Check, Some(target)) => silent(plugin.check(&request, &refuse_own_netns(env, target)?)),
        (Command::Del, Some(target)) => silent(plugin.del(&request, &forget_own_netns(env, target))),
        (Command::Gc, _) => {
            let valid = request.conf.valid_attachments()?;
            silent(plugin.gc(&request, &Living::new(&request.conf.name, &valid)))
        }
        // Whatever keeps an ADD from working, the specification has one code for it.
        (Command::Status, _) => silent(plugin.status(&request).map_err(|error| match error.code {
            Code::LIMITED_CONNECTIVITY => error,
            // Nothing was found out.
            _ if stop::is_told() => error,
            _ => Error::new(Code::NOT_AVAILABLE, error.msg()).details(error.cause()),
        })),
        (Command::Add | Command::Check | Command::Del, None) | (Command::Version, _) => {
            Err(Error::new(Code::INTERNAL, format!("{command} got past the check of its variables")))
        }
    }
}

fn versions(since: SpecVersion) -> impl Iterator<Item = SpecVersion> {
    SpecVersion::ALL.into_iter().filter(move |version| *version >= since)
}

fn supported_versions(plugin: &dyn Plugin, asked_with: SpecVersion) -> String {
    let list: Vec<_> = versions(plugin.since()).map(|version| format!("\"{version}\"")).collect();
    format!("{{\"cniVersion\":\"{asked_with}\",\"supportedVersions\":[{}]}}\n", list.join(","))
}

/// The version that a VERSION call names on stdin (section 5, VERSION Success); our newest when it names none that we know.
fn asked_with(stdin: &mut dyn Read) -> SpecVersion {
    const LONGEST: u64 = 1 << 16;
    let mut bytes = Vec::new();
    // What can't be read names none.
    let _ = stdin.take(LONGEST).read_to_end(&mut bytes);
    NetConf::version_in(&bytes).unwrap_or(SpecVersion::LATEST)
}

/// stdin for VERSION. Whoever calls it by hand may leave stdin open and say nothing: that counts as its end.
struct Impatient(std::io::Stdin);

impl Read for Impatient {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        const PATIENCE_MS: u8 = 100;
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PATIENCE_MS)? == 0 { Ok(0) } else { self.0.read(buffer) }
    }
}

/// Before any work: configuring the host as if it were a container would take it off the network.
fn refuse_own_netns(env: &Env, target: Target) -> Result<Target> {
    if is_own_netns(env, &target) {
        let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
        let details = format!("CNI_NETNS is {}; CNI_NETNS_OVERRIDE=1 allows it", target.sandbox());
        return Err(Error::new(Code::INVALID_NETNS, msg).details(details));
    }
    Ok(target)
}

/// A DEL whose namespace is our own (a process ID used again, say) still frees what the attachment owns, but
/// deletes no interface by its name.
fn forget_own_netns(env: &Env, target: Target) -> Target {
    if !is_own_netns(env, &target) {
        return target;
    }
    crate::log!("DEL of {}: CNI_NETNS is the plugin's own namespace, taken as gone", target.attachment);
    Target { netns: None, ..target }
}

fn is_own_netns(env: &Env, target: &Target) -> bool {
    !env.overrides_netns() && target.netns.as_deref().is_some_and(netns::is_own)
}
