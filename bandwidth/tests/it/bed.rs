//! What every test starts from: a machine, and a pod on the other end of a veth pair.

use cni_harness::{Answer, Call, Container, Host, Snapshot, snapshot};
use serde_json::{Value, json};

/// A machine with one pod on it: `vh0` here is the peer of the pod's `eth0`.
pub struct Bed {
    pub host: Host,
    pub pod: Container,
}

impl Bed {
    pub fn new() -> Self {
        let bed = Self { host: Host::enter(), pod: Container::new() };
        bed.veth("vh0", "eth0");
        bed
    }

    /// A pair of which the pod has the end `inside`.
    pub fn veth(&self, outside: &str, inside: &str) {
        self.host.ip_all(&[
            &format!("link add {outside} type veth peer name {inside} netns {}", self.pod.path()),
            &format!("link set {outside} up"),
        ]);
        self.pod.ip(&format!("link set {inside} up"));
    }

    /// A call for container `c1`.
    pub fn call(&self, command: &str, conf: &Value) -> Call {
        Call::new("bandwidth").command(command, conf).attachment("c1", "eth0").netns(&self.pod)
    }

    pub fn add(&self, conf: &Value) -> Answer {
        self.call("ADD", &self.with_prev(conf)).run()
    }

    pub fn check(&self, conf: &Value) -> Answer {
        self.call("CHECK", &self.with_prev(conf)).run()
    }

    /// As runtimes do it, which do not tell the limits any more.
    pub fn del(&self) -> Answer {
        self.call("DEL", &conf(&json!({}))).run()
    }

    /// `conf` with the result of the plugin that made the veth pair.
    pub fn with_prev(&self, conf: &Value) -> Value {
        self.with_prev_of(conf, "vh0", "eth0")
    }

    pub fn with_prev_of(&self, conf: &Value, outside: &str, inside: &str) -> Value {
        let mut conf = conf.clone();
        conf["prevResult"] = json!({"cniVersion": conf["cniVersion"], "interfaces": [
            {"name": outside, "mac": "02:00:00:00:00:01"},
            {"name": inside, "mac": "02:00:00:00:00:02", "sandbox": self.pod.path()}],
            "ips": [{"address": "10.1.0.2/24", "interface": 1}]});
        conf
    }
}

/// The config: `extra` adds keys.
pub fn conf(extra: &Value) -> Value {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": "bandwidth"});
    for (key, value) in extra.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

/// Both limits, of 8 and 16 Mbit/s, as an operator writes them.
pub fn both() -> Value {
    conf(
        &json!({"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000}),
    )
}

/// Links and shaping of the machine.
pub fn state() -> (Snapshot, Vec<String>) {
    (Snapshot::take(), snapshot::shaping())
}

/// The name under which the reference makes the IFB of `c1` on `net1`.
pub const IFB: &str = "bwpc2d892b58e87";
