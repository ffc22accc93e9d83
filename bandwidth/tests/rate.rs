//! What a limit is worth: iperf3 through `bridge` and `bandwidth`, both ways. A program of its own, so that no other test
//! takes the processor from it.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use cni_harness::{Call, Container, Host};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

/// Limits in Mbit/s.
const RATES: [u64; 4] = [1, 15, 100, 1000];

/// What comes through in Mbit/s of payload, after the two seconds in which a burst may pass.
fn measure(pod: &Container, address: &str, towards_the_pod: bool) -> f64 {
    let netns = format!("--net={}", pod.path());
    let mut server = Command::new("nsenter")
        .args([&netns, "iperf3", "--server", "--one-off"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut words = vec!["--client", address, "--omit", "2", "--time", "4", "--json"];
    words.extend((!towards_the_pod).then_some("--reverse"));
    let answer = (0..50).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let output = Command::new("iperf3").args(&words).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).ok().filter(|told| told["error"].is_null())
    });
    // Whatever came of it.
    server.kill().unwrap();
    server.wait().unwrap();
    answer.expect("no iperf3 run")["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 1e6
}

#[test]
fn traffic_flows_at_the_limit_in_both_directions() {
    let host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    for rate in RATES {
        let pod = Container::new();
        let id = format!("pod{rate}");
        let call = |plugin: &str, command: &str, conf: &Value| {
            Call::new(plugin).command(command, conf).attachment(&id, "eth0").netns(&pod).run().ok()
        };
        let bridge = json!({"cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "br1",
            "isGateway": true, "ipam": {"type": "host-local", "dataDir": data.path(), "subnet": "10.1.0.0/24"}});
        let result = call("bridge", "ADD", &bridge);
        // A burst of 20 ms, and ten packets at least.
        let (bits, burst) = (rate * 1_000_000, (rate * 20_000).max(120_000));
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": "bandwidth", "ingressRate": bits,
            "ingressBurst": burst, "egressRate": bits, "egressBurst": burst});
        conf["prevResult"] = result.clone();
        call("bandwidth", "ADD", &conf);
        let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
        for towards_the_pod in [true, false] {
            let found = measure(&pod, address, towards_the_pod);
            let wanted = f64::from(u32::try_from(rate).unwrap());
            println!("limit {rate} Mbit/s, towards the pod {towards_the_pod}: {found:.3} Mbit/s");
            assert!((0.9..=1.1).contains(&(found / wanted)), "{found} Mbit/s through a limit of {rate}");
        }
        call("bandwidth", "DEL", &conf);
        call("bridge", "DEL", &bridge);
    }
    assert_eq!(host.ip("link show type ifb"), "");
}
