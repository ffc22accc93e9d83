//! `run`: a node that is kept as it should be.

use crate::bed::Bed;
use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::{Container, Snapshot, leases, write_file};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// `kubenet-shim run`, under watch. Ends with the test.
struct Running {
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    fn start(bed: &Bed, words: &[&str]) -> Self {
        let log = bed.path("log");
        let mut command = bed.command(&[&["--network-plugin=kubenet"], words, &["run"]].concat());
        let child = command.stdin(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let running = Self { child, log };
        running.until("is ready");
        running
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the log says so.
    #[track_caller]
    fn until(&self, words: &str) {
        let begun = Instant::now();
        while !self.text().contains(words) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{words}: {}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn tell(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn end(mut self) {
        self.tell(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success(), "{}", self.text());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pod(bed: &Bed, id: &str, more: &[&str]) -> Container {
    let pod = Container::new();
    let netns = format!("--netns={}", pod.path());
    bed.shim(&[&["--network-plugin=kubenet", "setup", "default", id, id, &netns], more].concat()).ok();
    pod
}

#[test]
fn what_others_break_is_healed_and_said() {
    let bed = Bed::new();
    let running = Running::start(&bed, &["--pod-cidr=10.1.0.0/24"]);
    let ports = r#"--port-mappings=[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]"#;
    let pod = pod(&bed, "c1", &[ports, "--annotation=kubernetes.io/egress-bandwidth=10M"]);
    serve(Some(&pod), Transport::Tcp, 80, "pod");
    let reached = || ask(Some(&bed.outside), Transport::Tcp, "192.0.2.1:8080".parse().unwrap()).is_some();
    // Tables are listed in the order in which they were made.
    let rules = || {
        let rules = Snapshot::take().rules;
        let mut lines: Vec<String> = rules.lines().map(ToOwned::to_owned).collect();
        lines.sort();
        lines
    };
    let wanted = rules();
    assert!(reached());
    for (breakage, said) in [
        ("nft flush ruleset", "masquerade rules set up"),
        ("nft delete table ip cni_kubenet", "masquerade rules set up"),
        ("nft delete table ip cni_portmap", "container c1: made again"),
        ("tc qdisc del dev bwp{} root", "container c1: made again"),
        ("ip addr del 10.1.0.1/24 dev cbr0", "address 10.1.0.1/24 added to cbr0"),
        ("ip link set cbr0 down", "cbr0 set up"),
        ("sysctl -qw net.ipv4.ip_forward=0", "net/ipv4/ip_forward set to 1"),
        ("iptables -F -t nat", ""),
    ] {
        let before = running.text().len();
        let ifb = bed.host.ip("-br link show type ifb");
        let ifb = ifb.split_whitespace().next().unwrap_or_default().trim_start_matches("bwp");
        let command = breakage.replace("{}", ifb);
        let words: Vec<&str> = command.split(' ').collect();
        bed.host.run(words[0], &words[1..]);
        running.tell(Signal::SIGHUP);
        let begun = Instant::now();
        while !running.text()[before..].contains(said) || rules() != wanted || !reached() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{breakage}: {}", &running.text()[before..]);
        }
    }
    // Nothing to do is nothing to say.
    let quiet = running.text().len();
    for _ in 0..3 {
        running.tell(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(running.text().len(), quiet, "{}", running.text());
    running.end();
}

#[test]
fn a_hundred_restarts_leave_one_rule_set() {
    let bed = Bed::new();
    let flags = ["--pod-cidr=10.1.0.0/24,fd00:1::/64", "--hairpin-mode=promiscuous-bridge"];
    Running::start(&bed, &flags).end();
    let before = Snapshot::take();
    assert!(before.rules.contains("dedup-cbr0") && before.rules.contains("masquerade-cbr0"));
    for _ in 0..100 {
        Running::start(&bed, &flags).end();
    }
    assert_eq!(Snapshot::take(), before);
}

#[test]
fn pods_whose_end_was_not_told_are_freed_and_others_are_not() {
    let bed = Bed::new();
    let flags = ["--pod-cidr=10.1.0.0/24", "--network-plugin-timeout=1"];
    let running = Running::start(&bed, &flags);
    let living = pod(&bed, "living", &[]);
    drop(pod(&bed, "gone", &["--annotation=kubernetes.io/egress-bandwidth=10M"]));
    // What an ADD leaves that is killed before its result is in its place: no pod of its own, which nobody could free.
    let results = || std::fs::read_dir(bed.path("state/results")).unwrap().map(|file| file.unwrap().path());
    let kept = results().find(|path| path.to_string_lossy().contains("gone")).unwrap();
    let left = kept.with_file_name(format!(".{}.new", kept.file_name().unwrap().to_string_lossy()));
    std::fs::copy(&kept, &left).unwrap();
    // A lease of which nothing else is known, and one of an ADD that may be under way.
    let dir = bed.path("leases/kubenet");
    write_file(&dir.join("10.1.0.77"), "orphan\r\neth0", 0o600);
    let old = File::options().write(true).open(dir.join("10.1.0.77")).unwrap();
    old.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).unwrap();
    let owners = || {
        leases(&bed.path("leases"))
            .values()
            .map(|text| text.lines().next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    running.tell(Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        owners().contains(&"orphan".to_owned()),
        "seen once is not gone: {:?}\n{}",
        owners(),
        running.text()
    );
    running.tell(Signal::SIGHUP);
    running.until("container gone is gone and its end was not told");
    running.until("container orphan is gone and its end was not told");
    write_file(&dir.join("10.1.0.78"), "young\r\neth0", 0o600);
    for _ in 0..3 {
        running.tell(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut left = owners();
    left.sort();
    assert_eq!(left, ["living", "young"]);
    assert_eq!(results().count(), 1, "{:?}", results().collect::<Vec<_>>());
    assert_eq!(bed.host.ip("link show type ifb"), "");
    assert!(living.pings("10.1.0.1"));
    running.end();
}

#[test]
fn a_late_range_is_picked_up() {
    let bed = Bed::new();
    let running = Running::start(&bed, &[]);
    running.until("lack of PodCIDR");
    bed.shim(&["--network-plugin=kubenet", "event", "pod-cidr-change", "10.1.0.0/24"]).ok();
    bed.host.ip("link del cbr0");
    running.tell(Signal::SIGHUP);
    running.until("cbr0 made");
    running.until("address 10.1.0.1/24 added to cbr0");
    running.end();
}
