//! What every test starts from: a machine, a folder for leases, a config to vary.

use cni_harness::{Answer, Call, Container, Host, Snapshot, leases};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// A machine with a folder for leases.
pub struct Bed {
    pub host: Host,
    data: TempDir,
}

impl Bed {
    pub fn new() -> Self {
        Self { host: Host::enter(), data: tempfile::tempdir().unwrap() }
    }

    /// A dual-stack network `net1` on bridge `br1` with a gateway; `extra` adds keys or replaces them.
    pub fn conf(&self, extra: &Value) -> Value {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "br1", "isGateway": true,
            "ipam": self.ipam(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]])),
        });
        merge(&mut conf, extra);
        conf
    }

    /// `host-local` with these ranges, in this test's folder.
    pub fn ipam(&self, ranges: &Value) -> Value {
        json!({"type": "host-local", "dataDir": self.data.path(), "ranges": ranges})
    }

    pub fn leases(&self) -> BTreeMap<String, String> {
        leases(self.data.path())
    }
}

pub fn merge(conf: &mut Value, extra: &Value) {
    for (key, value) in extra.as_object().unwrap() {
        if value.is_null() {
            conf.as_object_mut().unwrap().remove(key);
        } else {
            conf[key] = value.clone();
        }
    }
}

pub fn call(command: &str, conf: &Value, id: &str, container: &Container) -> Call {
    Call::new("bridge").command(command, conf).attachment(id, "eth0").netns(container)
}

pub fn add(conf: &Value, id: &str, container: &Container) -> Answer {
    call("ADD", conf, id, container).run()
}

pub fn del(conf: &Value, id: &str, container: &Container) -> Answer {
    call("DEL", conf, id, container).run()
}

/// The same by the reference in `dir`.
pub fn theirs(dir: &Path, command: &str, conf: &Value, id: &str, container: &Container) -> Answer {
    Call::of(dir, "bridge")
        .command(command, conf)
        .attachment(id, "eth0")
        .netns(container)
        .run_again_if_tentative()
}

pub fn check(conf: &Value, result: &Value, id: &str, container: &Container) -> Answer {
    call("CHECK", &with_prev(conf, result), id, container).run()
}

pub fn with_prev(conf: &Value, result: &Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result.clone();
    conf
}

/// What a container holds.
pub fn inside(container: &Container) -> Snapshot {
    Snapshot::inside(container.path().as_ref())
}

/// Runs one attachment through ADD and DEL, so that what stays for good (bridge, gateway, chains) is there.
pub fn warm_up(conf: &Value) {
    let container = Container::new();
    add(conf, "warm-up", &container).ok();
    del(conf, "warm-up", &container).ok();
}

/// The system calls of these names that an ADD makes, its children included, as strace prints them.
pub fn traced_add(conf: &Value, container: &Container, names: &str) -> String {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let (trace_path, names) = (trace.path().to_str().unwrap(), format!("trace={names}"));
    let words = ["-f", "-o", trace_path, "-e", &names];
    call("ADD", conf, "c1", container).through("/usr/bin/strace", &words).run().ok();
    std::fs::read_to_string(trace.path()).unwrap()
}
