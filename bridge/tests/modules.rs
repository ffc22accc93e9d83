//! A kernel that has what it takes only as modules, and none of them loaded: errors say so, and once they can be loaded all
//! works. It is about one kernel as a whole, so it is one test, for the virtual machine of `scripts/test-vm`.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "it/bed.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod bed;

use bed::{Bed, add, call, check};
use cni_harness::{Container, write_file};
use serde_json::json;
use std::path::Path;

/// Lets the kernel load modules, or not. (/proc/sys/kernel/modules_disabled would be for good.)
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

#[test]
fn what_no_module_gives_is_named_and_nothing_is_left() {
    let loaded = std::fs::read_to_string("/proc/modules").unwrap();
    assert!(!loaded.contains("bridge") && !loaded.contains("nf_tables"), "too late: {loaded}");
    let bed = Bed::new();
    let pod = Container::new();
    let links = || bed.host.ip("-o link").lines().count();
    let before = links();
    let _restored = Restored;
    loader("/nowhere");

    let why = add(&bed.conf(&json!({})), "c1", &pod).fails(5);
    assert!(why.contains("failed to create bridge") && why.contains("modprobe bridge"), "{why}");
    for extra in [json!({"macspoofchk": true}), json!({"ipMasq": true, "ipMasqBackend": "nftables"})] {
        let why = call("STATUS", &bed.conf(&extra), "", &pod).run().fails(50);
        assert!(why.contains("modprobe nf_tables"), "{why}");
    }
    assert_eq!(links(), before);
    assert!(bed.leases().is_empty());

    loader("/sbin/modprobe");
    let probe = || {
        bed.host.ip("link add probe type bridge");
        bed.host.ip("link del probe");
    };
    probe();
    loader("/nowhere");
    let why = add(&bed.conf(&json!({})), "c1", &pod).fails(5);
    assert!(why.contains("failed to make veth pair") && why.contains("modprobe veth"), "{why}");
    assert_eq!((links(), bed.leases().len()), (before, 0));

    loader("/sbin/modprobe");
    let plain = bed.conf(&json!({"name": "plain"}));
    let other = Container::new();
    add(&plain, "c0", &other).ok();
    loader("/nowhere");
    let with_port = links();
    for (extra, words) in [
        (json!({"macspoofchk": true}), ["macspoofchk", "modprobe nf_tables"]),
        (json!({"ipMasq": true, "ipMasqBackend": "nftables"}), ["ipMasq", "modprobe nf_tables"]),
        (json!({"ipMasq": true}), ["modprobe nf_tables", "by iptables"]),
    ] {
        let why = add(&bed.conf(&extra), "c1", &pod).fails(5);
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
        assert_eq!((links(), bed.leases().len()), (with_port, 2), "only c0's");
    }

    loader("/sbin/modprobe");
    let conf = bed.conf(&json!({"ipMasq": true, "macspoofchk": true}));
    let result = add(&conf, "c1", &pod).ok();
    check(&conf, &result, "c1", &pod).ok();
}
