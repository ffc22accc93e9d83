//! What a connection to a hostPort pays for the mappings beside it, for ours (both back ends) and the
//! reference plugin; and what thousands of mappings of one container take.
//!
//! `bench-hostports OURS-DIR REFERENCE-DIR`, in a network namespace of its own.

use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::{Call, Container, Host};
use serde_json::{Value, json};
use std::io::{Error, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Attachments of twenty ports each, for the connections.
const CROWD: usize = 250;
const WHILE: Duration = Duration::from_secs(3);

struct Side {
    name: &'static str,
    plugins: PathBuf,
    backend: &'static str,
}

/// A host with one pod that is there, whose address all mappings lead to.
struct Bed {
    _host: Host,
    peer: Container,
    pod: Container,
}

impl Bed {
    fn new() -> Self {
        let host = Host::enter();
        let (peer, pod) = (Container::new(), Container::new());
        for (name, container, ours, theirs) in
            [("up0", &peer, "192.0.2.1/24", "192.0.2.9/24"), ("pod0", &pod, "10.1.0.1/24", "10.1.0.2/24")]
        {
            host.ip(&format!("link add {name} type veth peer name eth0 netns {}", container.path()));
            host.ip(&format!("addr add {ours} dev {name}"));
            host.ip(&format!("link set {name} up"));
            container.ip(&format!("addr add {theirs} dev eth0"));
            container.ip("link set eth0 up");
        }
        pod.ip("route add default via 10.1.0.1");
        cni_harness::write_file(Path::new("/proc/sys/net/ipv4/ip_forward"), "1", 0o644);
        Self { _host: host, peer, pod }
    }

    fn call(&self, side: &Side, verb: &str, id: &str, ports: Range<u16>) -> Call {
        let mappings: Vec<Value> =
            ports.map(|port| json!({"hostPort": port, "containerPort": 80, "protocol": "tcp"})).collect();
        let mut conf = json!({"cniVersion": "1.0.0", "name": "bench", "type": "portmap",
            "runtimeConfig": {"portMappings": mappings},
            "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": self.pod.path()}],
                           "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 0}]}});
        if side.name != "reference" {
            conf["backend"] = json!(side.backend);
        }
        Call::of(&side.plugins, "portmap").command(verb, &conf).attachment(id, "eth0").netns(&self.pod)
    }

    /// Connections a second to the mapped port.
    fn connections(&self, port: u16) -> f64 {
        let to = SocketAddr::from(([192, 0, 2, 1], port));
        let (begun, mut made) = (Instant::now(), 0u32);
        while begun.elapsed() < WHILE {
            assert!(ask(Some(&self.peer), Transport::Tcp, to).is_some(), "no answer from port {port}");
            made += 1;
        }
        f64::from(made) / begun.elapsed().as_secs_f64()
    }
}

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [ours, reference] = words.as_slice() else {
        return Err(Error::other("usage: bench-hostports OURS-DIR REFERENCE-DIR"));
    };
    let side = |name, plugins: &String, backend| Side { name, plugins: plugins.into(), backend };
    let sides = [
        side("ours, nftables", ours, "nftables"),
        side("ours, iptables", ours, "iptables"),
        side("reference", reference, "iptables"),
    ];
    let mut out = std::io::stdout().lock();
    connections(&sides, &mut out)?;
    one_container(&sides[..2], &mut out)
}

/// All mappings in one ADD, and its DEL. Not by the reference, which starts a program for each rule.
fn one_container(sides: &[Side], out: &mut impl Write) -> std::io::Result<()> {
    let mappings = CROWD * 20;
    writeln!(out, "\n{mappings} mappings of one container, seconds, median of 3\n")?;
    writeln!(out, "| | ADD | DEL |\n|---|---|---|")?;
    let ports = 9000..9000 + u16::try_from(mappings).unwrap_or_default();
    for side in sides {
        let bed = Bed::new();
        let took = |verb: &str| {
            let begun = Instant::now();
            let answer = bed.call(side, verb, "one", ports.clone()).run();
            assert!(answer.is_ok(), "{}", answer.dump());
            begun.elapsed().as_secs_f64()
        };
        let mut times = [0; 3].map(|_| (took("ADD"), took("DEL")));
        times.sort_by(|one, other| one.0.total_cmp(&other.0));
        let add = times[1].0;
        times.sort_by(|one, other| one.1.total_cmp(&other.1));
        writeln!(out, "| {} | {add:.2} | {:.2} |", side.name, times[1].1)?;
    }
    Ok(())
}

fn connections(sides: &[Side; 3], out: &mut impl Write) -> std::io::Result<()> {
    let mappings = CROWD * 20;
    writeln!(out, "\nConnections a second to the newest mapping, one after the other, median of 3\n")?;
    writeln!(out, "| | with 1 mapping | with {mappings} | ratio |\n|---|---|---|---|")?;
    for side in sides {
        let bed = Bed::new();
        serve(Some(&bed.pod), Transport::Tcp, 80, "pod");
        let newest = 9000 + u16::try_from(mappings).unwrap_or_default();
        let add = |id: &str, ports: Range<u16>| {
            let answer = bed.call(side, "ADD", id, ports).run();
            assert!(answer.is_ok(), "{}", answer.dump());
        };
        add("newest", newest..newest + 1);
        let median = || {
            let mut found = [0; 3].map(|_| bed.connections(newest));
            found.sort_by(f64::total_cmp);
            found[1]
        };
        let alone = median();
        let removed = bed.call(side, "DEL", "newest", newest..newest + 1).run();
        assert!(removed.is_ok(), "{}", removed.dump());
        for (n, first) in (9000..newest).step_by(20).enumerate() {
            add(&format!("c{n}"), first..first + 20);
        }
        add("newest", newest..newest + 1);
        let crowded = median();
        writeln!(out, "| {} | {alone:.0} | {crowded:.0} | {:.2} |", side.name, crowded / alone)?;
    }
    Ok(())
}
