//! A plugin that another one finds in its own file is called without starting a program, and nothing else differs.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use cni_harness::{Call, Container, Host, Snapshot, leases};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Bed {
    _host: Host,
    /// All plugins as links of one file.
    linked: TempDir,
    /// The same as separate files.
    apart: TempDir,
    data: TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = || tempfile::tempdir().unwrap();
        let bed = Self { _host: Host::enter(), linked: dir(), apart: dir(), data: dir() };
        let executable = env!("CARGO_BIN_EXE_cni-plugins");
        let installed = Command::new(executable).arg("install").arg(bed.linked.path()).output().unwrap();
        assert!(installed.status.success(), "{installed:?}");
        for plugin in ["bridge", "host-local"] {
            std::fs::copy(executable, bed.apart.path().join(plugin)).unwrap();
        }
        bed
    }

    fn conf(&self, extra: &Value) -> Value {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": "bridge", "bridge": "br1", "isGateway": true,
            "ipam": {"type": "host-local", "dataDir": self.data.path(), "subnet": "10.1.0.0/24"}});
        conf.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        conf
    }

    fn leases(&self) -> usize {
        leases(self.data.path()).len()
    }
}

fn call(dir: &Path, command: &str, conf: &Value, pod: &Container) -> Call {
    Call::of(dir, "bridge").command(command, conf).attachment("c1", "eth0").netns(pod)
}

#[test]
fn no_program_is_started_and_the_result_is_the_same() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let mut seen = Vec::new();
    for (dir, programs) in [(bed.linked.path(), 0), (bed.apart.path(), 1)] {
        let pod = Container::new();
        let result = call(dir, "ADD", &conf, &pod).run().ok();
        call(dir, "DEL", &conf, &pod).run().ok();
        assert_eq!(call(dir, "ADD", &conf, &pod).cost().1, programs);
        assert_eq!(call(dir, "DEL", &conf, &pod).cost().1, programs);
        assert_eq!(bed.leases(), 0);
        // The next address each time, and another container.
        seen.push((
            result["ips"][0]["gateway"].clone(),
            result["interfaces"][1]["name"].clone(),
            result["dns"].clone(),
        ));
    }
    assert_eq!(seen[0], seen[1]);
    // Links of another file are programs, beside links of ours.
    let mixed = tempfile::tempdir().unwrap();
    std::fs::hard_link(bed.linked.path().join("bridge"), mixed.path().join("bridge")).unwrap();
    std::fs::copy(bed.linked.path().join("bridge"), mixed.path().join("host-local")).unwrap();
    let pod = Container::new();
    assert_eq!(call(mixed.path(), "ADD", &conf, &pod).cost().1, 1);
    call(mixed.path(), "DEL", &conf, &pod).run().ok();
}

#[test]
fn its_errors_and_its_log_are_the_same() {
    let bed = Bed::new();
    let pod = Container::new();
    let empty = Snapshot::take();
    let range = |ipam: Value| bed.conf(&json!({"ipam": ipam}));
    let one = json!({"type": "host-local", "dataDir": bed.data.path(), "ranges": [[
        {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.9"}]]});
    let other = Container::new();
    let taken = range(one);
    call(bed.apart.path(), "ADD", &taken, &other).attachment("c0", "eth0").run().ok();
    let with_c0 = Snapshot::take();
    for (conf, code) in [
        (taken.clone(), 11),
        (range(json!({"type": "host-local", "dataDir": bed.data.path(), "subnet": "nonsense"})), 7),
        (range(json!({"type": "host-local", "dataDir": bed.data.path(), "subnet": 7})), 6),
        // An interface plugin is none for addresses, not even itself.
        (range(json!({"type": "bridge"})), 7),
        (range(json!({"type": "not-there"})), 7),
    ] {
        let tell = |dir: &Path| {
            let answer = call(dir, "ADD", &conf, &pod).run();
            answer.fails(code);
            (answer.stdout.replace(&dir.display().to_string(), "DIR"), answer.stderr)
        };
        assert_eq!(tell(bed.linked.path()), tell(bed.apart.path()));
        assert_eq!(Snapshot::take(), with_c0);
    }
    // What it says on stderr, without failing.
    let status = |dir: &Path| {
        let answer = Call::of(dir, "bridge").command("STATUS", &taken).run();
        answer.ok();
        answer.stderr
    };
    assert!(status(bed.linked.path()).contains("has no address left"), "{}", status(bed.linked.path()));
    assert_eq!(status(bed.linked.path()), status(bed.apart.path()));
    call(bed.linked.path(), "DEL", &taken, &other).attachment("c0", "eth0").run().ok();
    assert_eq!(bed.leases(), 0);
    let bridges = |look: &Snapshot| look.links.len();
    assert_eq!(bridges(&Snapshot::take()), bridges(&empty) + 1, "the bridge stays");
}

#[test]
fn sigterm_ends_its_waits_and_undoes() {
    let bed = Bed::new();
    let conf = bed.conf(&json!({}));
    let pod = Container::new();
    // Makes the network's folder.
    call(bed.linked.path(), "ADD", &conf, &pod).run().ok();
    call(bed.linked.path(), "DEL", &conf, &pod).run().ok();
    let before = Snapshot::take();
    let lock = bed.data.path().join("net1/lock");
    let mut holder = Command::new("flock").arg(&lock).args(["sleep", "60"]).spawn().unwrap();
    let is_free =
        || Command::new("flock").arg("--nonblock").arg(&lock).arg("true").status().unwrap().success();
    while is_free() {
        std::thread::yield_now();
    }
    for dir in [bed.linked.path(), bed.apart.path()] {
        let begun = Instant::now();
        let ended =
            call(dir, "ADD", &conf, &pod).through("/usr/bin/timeout", &["--preserve-status", "0.5"]).run();
        ended.fails(11);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(Snapshot::take(), before);
        assert_eq!(bed.leases(), 0);
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}
