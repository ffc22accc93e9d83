//! A machine with one attachment that nothing may disturb, and a container that comes to its network and goes,
//! and is on a second one all the time.

use super::audit::audit;
use super::wrapped::Wrapped;
use crate::chains::{Chain, endpoint, tell};
use cni_common::invoke::PluginPath;
use cni_common::runtime::{Cache, ConfList, Endpoint, Runtime};
use cni_common::spec::{IfName, Success};
use cni_harness::snapshot::difference;
use cni_harness::{Container, Host, Snapshot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// What one operation of a chain may take.
const LIMIT: Duration = Duration::from_secs(60);

/// An operation of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// ADD
    Add,
    /// DEL
    Del,
    /// GC of an attachment that the runtime no longer knows
    Gc,
}

impl Verb {
    /// As `CNI_COMMAND` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Gc => "GC",
        }
    }
}

/// The machine.
pub struct Node {
    /// The plugins.
    pub wrapped: Wrapped,
    /// Why CHECK is not asked: it fails without any fault.
    pub unchecked: Option<String>,
    runtime: Runtime,
    list: ConfList,
    bystander: Endpoint,
    _beside: Container,
    pod: Container,
    /// The other network of the container, and how it is on it.
    second: (ConfList, Endpoint),
    pings: Vec<Child>,
    baseline: Vec<String>,
    dir: TempDir,
    _host: Host,
}

impl Node {
    /// Moves the thread to a machine of its own, on which `chain` is in use: the bystander is attached and pinged, and a container has come
    /// and gone.
    ///
    /// # Errors
    /// When that does not work, without any fault.
    pub fn new(chain: &Chain) -> Result<Self, String> {
        let host = Host::enter();
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let wrapped =
            Wrapped::new(&chain.bin, &chain.executables, dir.path()).map_err(|error| error.to_string())?;
        let runtime = Runtime {
            path: PluginPath::of_dirs(&[wrapped.path()]),
            cache: Some(Cache::new(&dir.path().join("cache"))),
            timeout: Some(LIMIT),
        };
        let list = chain.list(dir.path()).map_err(|error| tell("its config", &error))?;
        let (beside, pod) = (Container::new(), Container::new());
        let bystander = endpoint("bystander", &beside, 7000)?;
        let second = chain.second_list(dir.path()).map_err(|error| tell("its other config", &error))?;
        let ifname = IfName::try_from("eth1").map_err(|error| error.to_string())?;
        let on_second = Endpoint { ifname, ..endpoint("pod", &pod, 9000)? };
        let mut node = Self {
            wrapped,
            unchecked: None,
            runtime,
            list,
            bystander,
            _beside: beside,
            pod,
            second: (second, on_second),
            pings: vec![],
            baseline: vec![],
            dir,
            _host: host,
        };
        node.runtime
            .add(&node.list, &node.bystander)
            .map_err(|error| tell("ADD of the bystander", &error))?;
        let on_second = node.runtime.add(&node.second.0, &node.second.1);
        node.second.1.result = Some(on_second.map_err(|error| tell("ADD on the second network", &error))?);
        let result = node.operate(Verb::Add)?.unwrap_or_default();
        node.unchecked = node.check(result).err();
        node.operate(Verb::Del)?;
        node.life()?;
        node.pings = chain.first_addresses().iter().map(|address| ping(address)).collect::<Result<_, _>>()?;
        node.baseline = node.look();
        Ok(node)
    }

    fn pod(&self) -> Result<Endpoint, String> {
        endpoint("pod", &self.pod, 8000)
    }

    /// Does it to the container.
    pub fn operate(&self, verb: Verb) -> Result<Option<Success>, String> {
        let pod = self.pod()?;
        let done = match verb {
            Verb::Add => self.runtime.add(&self.list, &pod).map(Some),
            Verb::Del => self.runtime.del(&self.list, &pod).map(|()| None),
            Verb::Gc => self.runtime.gc(&self.list, &[self.bystander.on(&self.list.name)]).map(|()| None),
        };
        done.map_err(|error| tell(verb.name(), &error))
    }

    /// What the container's attachment has to be after an ADD.
    pub fn check(&self, result: Success) -> Result<(), String> {
        if self.unchecked.is_some() {
            return Ok(());
        }
        let pod = Endpoint { result: Some(result), ..self.pod()? };
        self.runtime.check(&self.list, &pod).map_err(|error| tell("CHECK", &error))
    }

    /// ADD, CHECK and DEL, which have to succeed.
    pub fn life(&self) -> Result<(), String> {
        let result = self.operate(Verb::Add)?.unwrap_or_default();
        self.check(result)?;
        self.operate(Verb::Del).map(drop)
    }

    /// Whether the machine and the container's other network are as before all faults.
    pub fn is_as_before(&self) -> Result<(), String> {
        difference(&self.baseline, &self.look()).map_or(Ok(()), Err)?;
        if self.unchecked.is_some() {
            return Ok(());
        }
        let checked = self.runtime.check(&self.second.0, &self.second.1);
        checked.map_err(|error| tell("CHECK on the second network", &error))
    }

    fn look(&self) -> Vec<String> {
        let mut lines = audit(self.dir.path());
        let inside = Snapshot::inside(self.pod.path().as_ref()).lines();
        lines.extend(inside.into_iter().map(|line| format!("inside {line}")));
        lines.sort();
        lines
    }

    /// Ends it: the bystander has to be well, and have missed nothing. Gives the number of pings.
    pub fn end(mut self) -> Result<usize, String> {
        let mut answered = 0;
        for ping in std::mem::take(&mut self.pings) {
            answered += undisturbed(ping)?;
        }
        if self.unchecked.is_none() {
            let checked = self.runtime.check(&self.list, &self.bystander);
            checked.map_err(|error| tell("CHECK of the bystander", &error))?;
        }
        self.runtime
            .del(&self.second.0, &self.second.1)
            .map_err(|error| tell("DEL on the second network", &error))?;
        self.runtime
            .del(&self.list, &self.bystander)
            .map_err(|error| tell("DEL of the bystander", &error))?;
        Ok(answered)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Those of a machine that is given up.
        for ping in &mut self.pings {
            let _ = ping.kill();
            let _ = ping.wait();
        }
    }
}

/// A hundred times a second, until it is stopped.
fn ping(address: &str) -> Result<Child, String> {
    let mut command = Command::new("ping");
    command.args(["-n", "-q", "-i", "0.01", address]).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().map_err(|error| format!("ping: {error}"))
}

/// Stops it. Gives the number of answers, if all were answered but the one that may have been on its way.
fn undisturbed(ping: Child) -> Result<usize, String> {
    // ping tells what it saw at SIGINT.
    let stopped = kill(Pid::from_raw(ping.id().cast_signed()), Signal::SIGINT);
    let output = stopped.map_err(io::Error::from).and_then(|()| ping.wait_with_output());
    let text = output
        .map_err(|error| format!("ping: {error}"))
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())?;
    match counts(&text) {
        Some((sent, answered)) if answered > 0 && sent - answered <= 1 => Ok(answered),
        _ => Err(format!("the bystander was disturbed: {text}")),
    }
}

/// `12 packets transmitted, 11 received, 0% packet loss, time 111ms`
fn counts(text: &str) -> Option<(usize, usize)> {
    let (head, tail) = text.split_once(" packets transmitted, ")?;
    let sent = head.rsplit(char::is_whitespace).next()?.parse().ok()?;
    Some((sent, tail.split(' ').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn pings_are_counted() {
        let text = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\n--- 10.0.0.1 ping statistics ---\n\
                    120 packets transmitted, 119 received, 0.83% packet loss, time 1190ms\n";
        assert_eq!(super::counts(text), Some((120, 119)));
    }
}
