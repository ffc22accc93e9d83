//! A kernel without nf_tables: iptables does all of it, the guard too. It is about one kernel as a whole, so
//! it is one test, for the virtual machine of `scripts/test-vm`.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "it/bed.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod bed;

use bed::{Bed, HOST, add, at, check, conf, del, port};
use cni_harness::traffic::{Transport, ask, serve};
use cni_harness::write_file;
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// What the kernel calls to load a module.
fn loader(program: &str) {
    write_file(Path::new("/proc/sys/kernel/modprobe"), program, 0o644);
}

/// Whatever comes of the test, those after it have their modules.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        loader("/sbin/modprobe");
    }
}

fn of_nf_tables() -> Vec<String> {
    let loaded = std::fs::read_to_string("/proc/modules").unwrap();
    let names = loaded.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with("nft_") || *name == "nf_tables").map(str::to_owned).collect()
}

/// Those of the tests before this one are unused by now; each waits for others to go.
fn unload_nf_tables() {
    for _ in 0..20 {
        for name in of_nf_tables() {
            let _ = Command::new("/sbin/modprobe").args(["-r", &name]).output();
        }
    }
    assert_eq!(of_nf_tables(), [""; 0]);
}

#[test]
fn iptables_does_all_of_it() {
    let _restored = Restored;
    unload_nf_tables();
    let script = "#!/bin/sh\ncase \"$*\" in *nf_tables*|*nft*|*subsys-10*) exit 1;; esac\nexec /sbin/modprobe \"$@\"\n";
    write_file(Path::new("/tmp/modprobe"), script, 0o755);
    loader("/tmp/modprobe");
    assert!(cni_common::kernel::nft::available().is_err());

    for (extra, snat) in
        [(json!({}), true), (json!({"snat": false}), false), (json!({"backend": "iptables"}), true)]
    {
        let bed = Bed::new();
        let pod = bed.pod("c1");
        serve(Some(&pod.container), Transport::Udp, 80, "pod");
        let conf = conf(&json!([port(8080, 80, "udp"), port(8080, 80, "tcp")]), &extra);
        add(&conf, &pod).ok();
        let answer = |from, to: &str| ask(from, Transport::Udp, at(to, 8080)).map(|(_, who)| who);
        assert_eq!(answer(Some(&bed.peer), HOST).as_deref(), Some("pod"), "{extra}");
        assert_eq!(answer(None, "127.0.0.1").as_deref(), snat.then_some("pod"), "{extra}");
        check(&conf, &pod).ok();
        let guard = bed.host.run("iptables-legacy", &["-t", "raw", "-S"]);
        assert_eq!(guard.matches("-j DROP").count(), if snat { 2 } else { 0 }, "{extra}: {guard}");
        if snat {
            bed.host.run("iptables-legacy", &["-t", "raw", "-F", "CNI-LOOPBACK-GUARD"]);
            check(&conf, &pod).fails(100);
            add(&conf, &pod).ok();
            check(&conf, &pod).ok();
        }
        del(&conf, &pod).ok();
        let left = bed.host.run("iptables-legacy", &["-t", "nat", "-S"]);
        assert!(!left.contains("CNI-DN-"), "{extra}: {left}");
    }
    assert!(cni_common::kernel::nft::available().is_err(), "nothing has loaded it");
}
