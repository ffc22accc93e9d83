//! What every test starts from: a node with an uplink, and somebody outside.

use cni_harness::{Answer, Call, Container, Host, Snapshot, bin_dir, leases};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// The node's address, the outside's, and a network that knows the pods.
pub const NODE: &str = "192.0.2.1";
pub const OUTSIDE: &str = "192.0.2.9";
pub const INSIDE: &str = "10.9.0.9";

/// A node.
pub struct Bed {
    pub host: Host,
    pub outside: Container,
    pub dir: TempDir,
}

impl Bed {
    /// A node with an uplink of that MTU; the machine at its other end also has [`INSIDE`] and knows where pods are.
    pub fn new() -> Self {
        let host = Host::enter();
        let outside = Container::new();
        host.ip_all(&[
            &format!("link add up0 mtu 1400 type veth peer name eth0 mtu 1400 netns {}", outside.path()),
            &format!("addr add {NODE}/24 dev up0"),
            "addr add 2001:db8::1/64 dev up0 nodad",
            "link set up0 up",
            &format!("route add {INSIDE}/32 via {OUTSIDE}"),
        ]);
        outside.ip_all(&[
            &format!("addr add {OUTSIDE}/24 dev eth0"),
            &format!("addr add {INSIDE}/32 dev eth0"),
            "addr add 2001:db8::9/64 dev eth0 nodad",
            "link set eth0 up",
            &format!("route add 10.1.0.0/16 via {NODE}"),
        ]);
        Self { host, outside, dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A config of type `kubenet-shim`; `extra` adds keys.
    pub fn conf(&self, extra: &Value) -> Value {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "kubenet", "type": "kubenet-shim",
            "stateDir": self.path("state"), "dataDir": self.path("leases")});
        for (key, value) in extra.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    }

    /// What is left behind where nothing should be: everything but what the node keeps for all its pods.
    pub fn remains(&self) -> Vec<String> {
        let state = Snapshot::take();
        let links = state.links.into_iter().map(|(name, text)| format!("{name} {text}"));
        let leases = leases(&self.path("leases")).into_keys();
        let results = std::fs::read_dir(self.path("state/results")).into_iter().flatten().flatten();
        let results = results.map(|file| file.file_name().to_string_lossy().into_owned());
        let rules = state
            .rules
            .lines()
            .filter(|line| line.contains("cni/"))
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>();
        links.chain(leases).chain(results).chain(rules).collect()
    }
}

/// A call of the plugin for a pod.
pub fn call(command: &str, conf: &Value, id: &str, pod: &Container) -> Call {
    let call = Call::of(&bin_dir(), "kubenet-shim").command(command, conf).attachment(id, "eth0").netns(pod);
    call.env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={id}"))
}

pub fn add(conf: &Value, id: &str, pod: &Container) -> Answer {
    call("ADD", conf, id, pod).run()
}

pub fn del(conf: &Value, id: &str, pod: &Container) -> Answer {
    call("DEL", conf, id, pod).run()
}

/// The address of a result, without the length of its prefix.
pub fn ip(result: &Value, n: usize) -> String {
    result["ips"][n]["address"].as_str().unwrap().split('/').next().unwrap().to_owned()
}

/// What the command line said.
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub log: String,
}

impl Said {
    /// stdout of a command that has to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.ok, "expected success\nstdout: {}\nstderr: {}", self.out, self.log);
        self.out
    }

    /// stderr of a command that has to fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.ok, "expected failure\nstdout: {}\nstderr: {}", self.out, self.log);
        self.log
    }
}

impl Bed {
    /// The command line's flags that keep it off the machine's own folders.
    pub fn flags(&self) -> Vec<String> {
        let bin = bin_dir();
        let flag = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        vec![
            flag("cni-bin-dir", bin),
            flag("cni-cache-dir", self.path("cache")),
            flag("state-dir", self.path("state")),
            flag("data-dir", self.path("leases")),
            flag("config", self.config()),
        ]
    }

    /// An empty config file, unless one is there: the machine's own is none of ours.
    fn config(&self) -> PathBuf {
        let file = self.path("config.json");
        if !file.exists() {
            cni_harness::write_file(&file, "{}", 0o600);
        }
        file
    }

    /// The program with its flags, to be run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(bin_dir().join("kubenet-shim"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(self.flags()).args(words);
        command
    }

    /// Runs the program as the plugin host.
    pub fn shim(&self, words: &[&str]) -> Said {
        said(&mut self.command(words))
    }
}

/// Runs a command.
pub fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Said {
        ok: output.status.success(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        log: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
