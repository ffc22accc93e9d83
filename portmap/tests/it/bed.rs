//! What every test starts from: a machine with an uplink, a network of pods, and mappings to vary.

use cni_harness::{Answer, Call, Container, Host, Snapshot};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tempfile::TempDir;

/// The machine's own address, and that of the machine at the other end of its uplink.
pub const HOST: &str = "192.0.2.1";
pub const HOST_V6: &str = "2001:db8::1";
pub const PEER: &str = "192.0.2.9";

pub const BACKENDS: [&str; 2] = ["nftables", "iptables"];

pub fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// A machine, and another one beside it.
pub struct Bed {
    pub host: Host,
    pub peer: Container,
    data: TempDir,
}

/// A pod with its interface, and the result that portmap gets.
pub struct Pod {
    pub container: Container,
    pub id: String,
    pub result: Value,
}

impl Pod {
    /// Its first address, without the length of its prefix.
    pub fn ip(&self, family: usize) -> String {
        self.result["ips"][family]["address"].as_str().unwrap().split('/').next().unwrap().to_owned()
    }
}

impl Bed {
    pub fn new() -> Self {
        let host = Host::enter();
        let peer = Container::new();
        host.ip_all(&[
            &format!("link add up0 type veth peer name eth0 netns {}", peer.path()),
            &format!("addr add {HOST}/24 dev up0"),
            &format!("addr add {HOST_V6}/64 dev up0 nodad"),
            "link set up0 up",
        ]);
        peer.ip_all(&[
            &format!("addr add {PEER}/24 dev eth0"),
            "addr add 2001:db8::9/64 dev eth0 nodad",
            "link set eth0 up",
        ]);
        Self { host, peer, data: tempfile::tempdir().unwrap() }
    }

    /// The network of [`Self::pod`].
    pub fn bridge(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "br1", "isDefaultGateway": true,
               "hairpinMode": true,
               "ipam": {"type": "host-local", "dataDir": self.data.path(),
                        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}})
    }

    /// A pod of the network `net1`.
    pub fn pod(&self, id: &str) -> Pod {
        let container = Container::new();
        let result = call("bridge", "ADD", &self.bridge(), id, &container).run().ok();
        Pod { container, id: id.to_owned(), result }
    }

    /// Ends a pod, as its runtime does when it has called the plugins behind `bridge`.
    pub fn end(&self, pod: &Pod) {
        call("bridge", "DEL", &self.bridge(), &pod.id, &pod.container).run().ok();
    }
}

pub fn call(plugin: &str, command: &str, conf: &Value, id: &str, container: &Container) -> Call {
    Call::new(plugin).command(command, conf).attachment(id, "eth0").netns(container)
}

/// One mapping.
pub fn port(host: u16, container: u16, protocol: &str) -> Value {
    json!({"hostPort": host, "containerPort": container, "protocol": protocol})
}

/// The config of portmap: `extra` adds keys.
pub fn conf(mappings: &Value, extra: &Value) -> Value {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": "portmap",
                          "runtimeConfig": {"portMappings": mappings}});
    for (key, value) in extra.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

pub fn with_prev(conf: &Value, pod: &Pod) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = pod.result.clone();
    conf
}

pub fn add(conf: &Value, pod: &Pod) -> Answer {
    call("portmap", "ADD", &with_prev(conf, pod), &pod.id, &pod.container).run()
}

pub fn del(conf: &Value, pod: &Pod) -> Answer {
    call("portmap", "DEL", conf, &pod.id, &pod.container).run()
}

pub fn check(conf: &Value, pod: &Pod) -> Answer {
    call("portmap", "CHECK", &with_prev(conf, pod), &pod.id, &pod.container).run()
}

/// The machine's ruleset.
pub fn rules() -> String {
    Snapshot::take().rules
}
