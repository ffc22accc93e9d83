//! Times `bandwidth`, ours and the reference's in turn.
//!
//! `bench-bandwidth OURS-DIR REFERENCE-DIR`, in a network namespace of its own.

use cni_conformance::race::{Side, race};
use cni_conformance::{Call, Container, Host};
use serde_json::{Value, json};
use std::io::{Error, Write};
use std::path::Path;

const ROUNDS: usize = 40;
const VERBS: [&str; 2] = ["ADD", "DEL"];
const DIRECTIONS: [(&str, &[&str]); 4] =
    [("none", &[]), ("ingress", &["ingress"]), ("egress", &["egress"]), ("both", &["ingress", "egress"])];

fn conf(pod: &Container, directions: &[&str]) -> Value {
    let mut conf = json!({"cniVersion": "1.0.0", "name": "bench", "type": "bandwidth",
        "prevResult": {"cniVersion": "1.0.0", "interfaces": [{"name": "vh0"}, {"name": "eth0", "sandbox": pod.path()}]}});
    for direction in directions {
        conf[format!("{direction}Rate")] = json!(100_000_000);
        conf[format!("{direction}Burst")] = json!(2_000_000);
    }
    conf
}

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [ours, reference] = words.as_slice() else {
        return Err(Error::other("usage: bench-bandwidth OURS-DIR REFERENCE-DIR"));
    };
    let host = Host::enter();
    let pod = Container::new();
    host.ip(&format!("link add vh0 type veth peer name eth0 netns {}", pod.path()));
    host.ip("link set vh0 up");
    let mut out = std::io::stdout().lock();
    writeln!(out, "Milliseconds, median / 95th percentile of {ROUNDS}; system calls / programs\n")?;
    writeln!(out, "| limits | verb | ours | reference | reference ÷ ours |\n|---|---|---|---|---|")?;
    for (name, directions) in DIRECTIONS {
        let conf = conf(&pod, directions);
        let call = |plugins: &str, verb: &str| {
            Call::of(Path::new(plugins), "bandwidth")
                .command(verb, &conf)
                .attachment("timed", "eth0")
                .netns(&pod)
        };
        // A new veth for the next ADD would cost more than taking its qdiscs away.
        let after = |verb: &str| {
            let made: &[&str] = if verb == "DEL" { directions } else { &[] };
            for direction in made {
                let hook = if *direction == "ingress" { "root" } else { "ingress" };
                host.run("tc", &["qdisc", "del", "dev", "vh0", hook]);
            }
        };
        let sides = [
            Side { call: &|verb| call(ours, verb), after: &after },
            Side { call: &|verb| call(reference, verb), after: &after },
        ];
        for (verb, found) in VERBS.iter().zip(race(&sides, &VERBS, ROUNDS)) {
            let ratio = found[1].median() / found[0].median();
            writeln!(out, "| {name} | {verb} | {} | {} | {ratio:.1} |", found[0], found[1])?;
        }
    }
    Ok(())
}
