//! Times `bridge` with `host-local`: ours, the reference plugins and the floor in turn, whole processes from the outside.
//!
//! `bench-bridge OURS-DIR REFERENCE-DIR FLOOR-PROGRAM`, in a network namespace of its own. The containers are made once and
//! used by all, so that no namespace dies while something is timed.

use cni_conformance::call::percentile;
use cni_conformance::{Call, Container, Host, raise_file_limit};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How many run at once, and how many runs of each verb that makes.
const LOADS: [(usize, usize); 3] = [(1, 60), (16, 96), (100, 300)];
const MODES: [&str; 4] = ["plain", "ipMasq", "dual-stack", "L2"];
const SIDES: [&str; 3] = ["ours", "reference", "floor"];

/// One side's network of one mode. Its number tells bridges and subnets apart.
#[derive(Clone, Copy)]
struct Case {
    side: &'static str,
    mode: &'static str,
    octet: usize,
}

impl Case {
    fn of(m: usize, s: usize) -> Self {
        Self { side: SIDES[s], mode: MODES[m], octet: 10 * (m + 1) + s }
    }
}

struct Bench {
    ours: PathBuf,
    reference: PathBuf,
    floor: PathBuf,
    data: tempfile::TempDir,
    host: Host,
}

impl Bench {
    fn ranges(Case { mode, octet, .. }: Case) -> Value {
        let v4 = json!([{"subnet": format!("10.{octet}.0.0/16")}]);
        let v6 = json!([{"subnet": format!("fd00:{octet}::/64")}]);
        if mode == "dual-stack" { json!([v4, v6]) } else { json!([v4]) }
    }

    fn conf(&self, case: Case) -> Value {
        let Case { side, mode, octet } = case;
        let ipam = json!({"type": "host-local", "dataDir": self.data.path(), "ranges": Self::ranges(case)});
        let mut conf = json!({"cniVersion": "1.0.0", "name": format!("{side}-{mode}"), "type": "bridge",
                              "bridge": format!("b{octet}"), "isGateway": mode != "L2", "ipMasq": mode == "ipMasq"});
        if mode != "L2" {
            conf["ipam"] = ipam;
        }
        conf
    }

    /// One call of `verb` for the `n`-th container, to be run.
    fn call(&self, case: Case, verb: &str, n: usize, pod: &Container) -> Call {
        let Case { side, mode, octet } = case;
        let conf = self.conf(case);
        let call = match side {
            "ours" => Call::of(&self.ours, "bridge"),
            "reference" => Call::of(&self.reference, "bridge"),
            _ => {
                let chain = if mode == "ipMasq" { "net" } else { "" };
                let mut words = vec![
                    verb.to_lowercase(),
                    format!("b{octet}"),
                    format!("fl{octet}-{n}"),
                    pod.path(),
                    chain.to_owned(),
                ];
                let low = n + 2;
                if mode != "L2" {
                    words.push(format!("10.{octet}.0.{low}/16"));
                }
                if mode == "dual-stack" {
                    words.push(format!("fd00:{octet}::{low:x}/64"));
                }
                return Call::of(Path::new("/"), &self.floor.to_string_lossy()).args(&words);
            }
        };
        call.command(verb, &conf).attachment(&format!("{side}{n}"), "eth0").netns(pod)
    }

    /// The times of ADD and DEL with `parallel` at once.
    fn round(&self, case: Case, pods: &[Container]) -> [Vec<Duration>; 2] {
        ["ADD", "DEL"].map(|verb| {
            let calls: Vec<Call> =
                pods.iter().enumerate().map(|(n, pod)| self.call(case, verb, n, pod)).collect();
            let time = |call: &Call| {
                let begun = Instant::now();
                let answer = call.run();
                let took = begun.elapsed();
                assert!(answer.is_ok(), "{}", answer.dump());
                took
            };
            if let [one] = calls.as_slice() {
                return vec![time(one)];
            }
            std::thread::scope(|scope| {
                let running: Vec<_> = calls.iter().map(|call| scope.spawn(move || time(call))).collect();
                running.into_iter().map(|time| time.join().unwrap_or_default()).collect()
            })
        })
    }

    /// Bridge, gateway, tables and chains stay from here on.
    fn warm_up(&self, m: usize, pods: &[Container]) {
        for s in 0..SIDES.len() {
            let case = Case::of(m, s);
            if case.side == "floor" {
                self.prepare_floor(case);
            }
            self.round(case, pods);
        }
    }

    /// The times of each verb on each side, taken in turn.
    fn measure(&self, m: usize, rounds: usize, pods: &[Container]) -> [[Vec<Duration>; 3]; 2] {
        let mut times: [[Vec<Duration>; 3]; 2] = Default::default();
        // Each round in another order: what one side leaves to the kernel to clean up, the next one pays.
        for round in 0..rounds {
            for s in (0..SIDES.len()).map(|turn| (round + turn) % SIDES.len()) {
                for (all, new) in times.iter_mut().zip(self.round(Case::of(m, s), pods)) {
                    all[s].extend(new);
                }
            }
        }
        times
    }

    /// What the floor finds in place, as the plugins' first ADD makes it.
    fn prepare_floor(&self, Case { mode, octet, .. }: Case) {
        self.host.ip(&format!("link add b{octet} type bridge"));
        self.host.ip(&format!("link set b{octet} up"));
        if mode == "ipMasq" {
            let rules = "add table ip floor; add chain ip floor net; add map ip floor sources { type ipv4_addr : verdict; }";
            self.host.run("nft", &[rules]);
        }
    }

    /// System calls of one ADD and one DEL, delegates included, and how many programs each starts beside the plugin.
    fn cost(&self, case: Case, pod: &Container) -> String {
        let cells = ["ADD", "DEL"].map(|verb| {
            let (calls, programs) = self.call(case, verb, 0, pod).cost();
            format!("{calls} / {programs}")
        });
        cells.join(" | ")
    }

    /// Peak memory in kB of one ADD, its delegate included.
    fn memory(&self, case: Case, pod: &Container) -> String {
        let answer = self.call(case, "ADD", 0, pod).through("/usr/bin/time", &["-f", "%M"]).run();
        assert!(answer.is_ok(), "{}", answer.dump());
        let kilobytes = answer.stderr.lines().last().unwrap_or_default().to_owned();
        assert!(self.call(case, "DEL", 0, pod).run().is_ok());
        kilobytes
    }
}

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [ours, reference, floor] = words.as_slice() else {
        return Err(std::io::Error::other("usage: bench-bridge OURS-DIR REFERENCE-DIR FLOOR-PROGRAM"));
    };
    raise_file_limit();
    let host = Host::enter();
    let bench = Bench {
        ours: ours.into(),
        reference: reference.into(),
        floor: floor.into(),
        data: tempfile::tempdir()?,
        host,
    };
    let pods: Vec<Container> = (0..100).map(|_| Container::new()).collect();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| at once | network | verb | ours p50 / p95 / max | reference | floor | reference ÷ ours | ours ÷ floor |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for (m, mode) in MODES.iter().enumerate() {
        bench.warm_up(m, &pods[..1]);
        for (parallel, runs) in LOADS {
            let times = bench.measure(m, runs.div_ceil(parallel), &pods[..parallel]);
            for (verb, times) in ["ADD", "DEL"].iter().zip(times) {
                writeln!(out, "| {parallel} | {mode} | {verb} | {} |", compare(&times))?;
            }
        }
    }
    writeln!(out, "\n| network | side | ADD: system calls / programs | DEL |\n|---|---|---|---|")?;
    for (m, mode) in MODES.iter().enumerate() {
        for (s, side) in SIDES.iter().enumerate() {
            writeln!(out, "| {mode} | {side} | {} |", bench.cost(Case::of(m, s), &pods[0]))?;
        }
    }
    for (s, dir) in [(0, &bench.ours), (1, &bench.reference)] {
        let size = |plugin: &str| std::fs::metadata(dir.join(plugin)).map(|meta| meta.len());
        let (bridge, host_local) = (size("bridge")?, size("host-local")?);
        let memory = bench.memory(Case::of(0, s), &pods[0]);
        writeln!(
            out,
            "{}: peak memory of an ADD {memory} kB; bridge {bridge} bytes, host-local {host_local}",
            SIDES[s]
        )?;
    }
    let kernel = Command::new("uname").arg("-r").output()?.stdout;
    write!(out, "Linux {}", String::from_utf8_lossy(&kernel))
}

/// Milliseconds of each side, and how they stand to each other.
fn compare(times: &[Vec<Duration>; 3]) -> String {
    let cell = |times: &Vec<Duration>| {
        [50, 95, 100].map(|part| format!("{:.1}", percentile(times, part))).join(" / ")
    };
    let [ours, reference, floor] = times.each_ref().map(|times| percentile(times, 50));
    format!("{} | {:.2} | {:.2}", times.each_ref().map(cell).join(" | "), reference / ours, ours / floor)
}
