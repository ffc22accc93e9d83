//! Input that nobody would write, on everything that reads some: no panic, no hang, no more than 64 MB, and an answer that a runtime can read.
//!
//! `FUZZ_RUNS` (300) says how many inputs each target gets, `FUZZ_SEED` (the time) which. `corpus/` holds what once was a crash.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod files;
mod texts;
mod verbs;

use cni_common::plugin::{Env, Plugin, serve};
use cni_harness::fuzz::{MEMORY, limit_memory, number, seed};
use cni_harness::{Call, Container, Host, bin_dir, write_file};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How many inputs, and the seed.
fn how_much() -> (u64, u64) {
    (number("FUZZ_RUNS", 300), seed("FUZZ_SEED"))
}

/// A machine on which nothing that a config may name can be harmed: all but the test's own folder can be read only.
struct Bed {
    dir: TempDir,
    pod: Container,
    host: Host,
}

impl Bed {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=16m,mode=755")).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        for point in points.filter(|point| {
            point != dir.path() && !["/proc", "/sys", "/dev"].iter().any(|kernels| point.starts_with(kernels))
        }) {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            // A user namespace may not take away a flag that the mount came with.
            let kept = [
                MsFlags::empty(),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            ];
            let done = kept.iter().any(|kept| mount(none, &point, none, flags | *kept, none).is_ok());
            assert!(done, "make {} read-only", point.display());
        }
        assert!(
            std::fs::File::create("/var/lib/written").is_err(),
            "the machine's own folders can be written to"
        );
        let bed = Self { dir, pod: Container::new(), host: Host::enter() };
        write_file(&bed.path("resolv.conf"), "nameserver 10.1.0.1\n", 0o600);
        limit_memory();
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn env(&self, command: &str) -> Vec<(String, Vec<u8>)> {
        let text = |key: &str, value: String| (key.to_owned(), value.into_bytes());
        vec![
            text("CNI_COMMAND", command.to_owned()),
            text("CNI_CONTAINERID", "c1".to_owned()),
            text("CNI_NETNS", self.pod.path()),
            text("CNI_IFNAME", "eth0".to_owned()),
            text("CNI_PATH", bin_dir().display().to_string()),
            text("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;IP=10.1.0.9;MAC=02:00:00:00:00:07".to_owned()),
        ]
    }

    /// Configs in which every key is right, by the plugin's name.
    fn conf(&self, plugin: &str) -> Value {
        let ranges = json!([[{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "rangeEnd": "10.1.0.200", "gateway": "10.1.0.1"}], [{"subnet": "fd00:1::/64"}]]);
        let ipam = json!({"type": "host-local", "dataDir": self.path("leases"), "resolvConf": self.path("resolv.conf"),
                          "ranges": ranges, "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0"}]});
        let prev = json!({"cniVersion": "1.1.0",
            "interfaces": [{"name": "br1", "mac": "02:00:00:00:00:01"}, {"name": "vh0", "mac": "02:00:00:00:00:02"},
                           {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": self.pod.path(), "mtu": 1500}],
            "ips": [{"address": "10.1.0.9/24", "gateway": "10.1.0.1", "interface": 2}, {"address": "fd00:1::9/64", "interface": 2}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "priority": 10}], "dns": {"nameservers": ["10.1.0.1"], "search": ["example.org"]}});
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net", "type": plugin, "prevResult": prev,
            "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}], "args": {"cni": {"ips": ["fd00:1::9"]}}});
        let own = match plugin {
            "bridge" => {
                json!({"bridge": "br1", "isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": "nftables", "mtu": 1400,
                "hairpinMode": true, "macspoofchk": true, "vlan": 0, "portIsolation": true, "dns": {"nameservers": ["10.1.0.1"]},
                "runtimeConfig": {"mac": "02:00:00:00:00:09", "ipRanges": [[{"subnet": "10.2.0.0/24"}]], "dns": {"servers": ["10.1.0.1"]}}, "ipam": ipam})
            }
            "host-local" => json!({"ipam": ipam}),
            "portmap" => {
                json!({"backend": "nftables", "snat": true, "markMasqBit": 13, 
                "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
                                                  {"hostPort": 8081, "containerPort": 81, "protocol": "udp"}]}})
            }
            "bandwidth" => {
                json!({"ingressRate": 1_000_000, "ingressBurst": 100_000, "egressRate": 1_000_000, "egressBurst": 100_000, "latency": 25,
                "runtimeConfig": {"bandwidth": {"ingressRate": 2_000_000, "ingressBurst": 200_000}}})
            }
            "kubenet-shim" => {
                json!({"podCIDR": "10.1.0.0/24,fd00:1::/64", "mtu": 1400, "hairpinMode": "hairpin-veth", "nonMasqueradeCIDRs": ["10.0.0.0/8"],
                "bridge": "cbr0", "stateDir": self.path("state"), "dataDir": self.path("leases"),
                "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}], "bandwidth": {"ingressRate": 2_000_000, "ingressBurst": 200_000}}})
            }
            _ => json!({}),
        };
        for (key, value) in own.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    }
}

/// The plugins.
fn plugins() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(bridge::Bridge),
        Box::new(host_local::HostLocal),
        Box::new(loopback::Loopback),
        Box::new(portmap::Portmap),
        Box::new(bandwidth::Bandwidth),
        Box::new(kubenet_shim::plugin::KubenetShim),
    ]
}

/// Calls a plugin as its process would be. It has to answer well; an error is given back.
fn answered(plugin: &dyn Plugin, env: &[(String, Vec<u8>)], stdin: &[u8]) -> Result<(), String> {
    let mut stdin = stdin;
    // Its delegates get this process's environment, not this call's.
    if plugin.name() == "bridge" {
        return answered_by_process(plugin.name(), env, stdin);
    }
    let env: Env = env.iter().map(|(key, value)| (key.clone(), OsString::from_vec(value.clone()))).collect();
    // Dropped without a commit: what an ADD made is undone.
    let reply = serve(plugin, &env, &mut stdin);
    judged(reply.ok, &reply.stdout)
}

fn answered_by_process(name: &str, env: &[(String, Vec<u8>)], stdin: &[u8]) -> Result<(), String> {
    let limit = format!("--data={MEMORY}");
    let mut call =
        Call::new(name).through("/usr/bin/prlimit", &[&limit]).stdin(stdin).limit(Duration::from_secs(20));
    for (key, value) in env {
        call = call.env(key, OsString::from_vec(value.clone()));
    }
    let answer = call.run();
    assert!(
        answer.code.is_some_and(|code| code < 2) && !answer.stderr.contains("panicked"),
        "{}",
        answer.dump()
    );
    if answer.is_ok() {
        // The next one finds the container as this one did.
        let _ = call.env("CNI_COMMAND", "DEL").run();
    }
    judged(answer.is_ok(), &answer.stdout)
}

fn judged(ok: bool, stdout: &str) -> Result<(), String> {
    if ok {
        assert!(stdout.is_empty() || serde_json::from_str::<Value>(stdout).is_ok(), "stdout: {stdout}");
        return Ok(());
    }
    let error: Value = serde_json::from_str(stdout).unwrap();
    let (code, msg) = (error["code"].as_u64().unwrap_or_default(), error["msg"].as_str().unwrap_or_default());
    assert!(code != 0 && code != 999 && !msg.is_empty(), "{error}");
    assert!(error["cniVersion"].is_string(), "{error}");
    assert!(stdout.len() < 65_536, "an error of {} bytes", stdout.len());
    Err(stdout.to_owned())
}

/// What once was a crash, by target.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| std::fs::read(file.path()).unwrap()).collect()
}
