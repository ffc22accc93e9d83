//! What a packet pays for the pods beside it: throughput and connections from the newest of 1 and of 500 containers on one
//! `ipMasq` network to another machine, for ours (both back ends) and the reference plugins.
//!
//! `bench-datapath OURS-DIR REFERENCE-DIR`, in a network namespace of its own. `serve` and `connect ADDRESS` are its own
//! helpers, which it starts inside the namespaces that it made.

use cni_harness::{Call, Container, Host, raise_file_limit};
use serde_json::{Value, json};
use std::io::{Error, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PODS: [usize; 2] = [1, 500];
const ROUNDS: usize = 3;
const WHILE: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(8);
const PORT: u16 = 7777;
/// Far enough away to need masquerading: the machine has no route back to the pods.
const MACHINE: &str = "192.0.2.2";

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => serve(),
        ["connect", address] => connect(address),
        [ours, reference] => bench(Path::new(ours), Path::new(reference)),
        _ => Err(Error::other("usage: bench-datapath OURS-DIR REFERENCE-DIR")),
    }
}

fn serve() -> std::io::Result<()> {
    for stream in TcpListener::bind(("0.0.0.0", PORT))?.incoming() {
        // A client that is gone already is no matter.
        let _ = stream?.shutdown(Shutdown::Both);
    }
    Ok(())
}

/// Prints how many connections a second it made.
fn connect(address: &str) -> std::io::Result<()> {
    let address: SocketAddr = format!("{address}:{PORT}").parse().map_err(Error::other)?;
    let (begun, mut made) = (Instant::now(), 0u32);
    while begun.elapsed() < WHILE {
        // Until the server closes it: a client that runs ahead fills the server's queue and measures that.
        TcpStream::connect(address)?.read_to_end(&mut vec![])?;
        made += 1;
    }
    writeln!(std::io::stdout(), "{}", f64::from(made) / begun.elapsed().as_secs_f64())
}

fn bench(ours: &Path, reference: &Path) -> std::io::Result<()> {
    raise_file_limit();
    let sides = [
        ("ours, nftables", ours, "nftables"),
        ("ours, iptables", ours, "iptables"),
        ("reference, nftables", reference, "nftables"),
        ("reference, iptables", reference, "iptables"),
    ];
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "| | pods | Gbit/s, median of {ROUNDS} | connections/s, median of {ROUNDS} |\n|---|---|---|---|"
    )?;
    for (name, dir, backend) in sides {
        for many in PODS {
            // Everything anew: closed connections hold their masqueraded ports for two minutes.
            let _bed = Bed::new()?;
            let data = tempfile::tempdir()?;
            let conf = json!({"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "br0",
                "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": backend,
                "ipam": {"type": "host-local", "dataDir": data.path(), "ranges": [[{"subnet": "10.1.0.0/16"}]]}});
            let pods: Vec<Container> = (0..many).map(|n| attach(dir, &conf, n)).collect();
            // New interfaces look for IPv6 routers and neighbours for a while, and the bridge floods that to all.
            std::thread::sleep(SETTLE);
            let newest = &pods[many - 1];
            let gigabits = median(|| throughput(newest));
            let connections = median(|| connections(newest));
            writeln!(out, "| {name} | {many} | {gigabits:.2} | {connections:.0} |")?;
        }
    }
    Ok(())
}

fn attach(dir: &Path, conf: &Value, n: usize) -> Container {
    let pod = Container::new();
    let answer =
        Call::of(dir, "bridge").command("ADD", conf).attachment(&format!("c{n}"), "eth0").netns(&pod).run();
    assert!(answer.is_ok(), "{}", answer.dump());
    pod
}

fn median(mut measure: impl FnMut() -> f64) -> f64 {
    let mut found: Vec<f64> = (0..ROUNDS).map(|_| measure()).collect();
    found.sort_by(f64::total_cmp);
    found[ROUNDS / 2]
}

/// A host of its own, and a machine beyond it with two servers.
struct Bed {
    _machine: Container,
    servers: Vec<Child>,
}

impl Bed {
    fn new() -> std::io::Result<Self> {
        let host = Host::enter();
        let machine = Container::new();
        let inside = |words: &[&str]| {
            Command::new("nsenter").arg(format!("--net={}", machine.path())).args(words).spawn()
        };
        let own = std::env::current_exe()?;
        let servers = vec![
            inside(&[&own.to_string_lossy(), "serve"])?,
            inside(&["iperf3", "--server", "--logfile", "/dev/null"])?,
        ];
        let namespace = |id: u32| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
        while namespace(servers[0].id()) == namespace(std::process::id()) {
            std::thread::yield_now();
        }
        host.ip("link add uplink type veth peer name far");
        host.ip(&format!("link set far netns {}", servers[0].id()));
        host.ip("addr add 192.0.2.1/24 dev uplink");
        host.ip("link set uplink up");
        machine.ip("link set lo up");
        machine.ip(&format!("addr add {MACHINE}/24 dev far"));
        machine.ip("link set far up");
        Ok(Self { _machine: machine, servers })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // One that is gone already is what is wanted.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn output(pod: &Container, program: &str, words: &[&str]) -> String {
    let output = pod.try_run(program, words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn throughput(pod: &Container) -> f64 {
    let seconds = WHILE.as_secs().to_string();
    let answer = output(pod, "iperf3", &["--client", MACHINE, "--time", &seconds, "--json"]);
    let report: Value = serde_json::from_str(&answer).unwrap_or_default();
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    assert!(bits.is_some(), "{answer}");
    bits.unwrap_or_default() / 1e9
}

fn connections(pod: &Container) -> f64 {
    let own = std::env::current_exe().unwrap_or_default();
    let answer = output(pod, &own.to_string_lossy(), &["connect", MACHINE]);
    answer.trim().parse().unwrap_or(f64::NAN)
}
