//! Killed or refused at each of its system calls: DEL or GC cleans after it, the next ADD works, and a bystander's limits stay.

use crate::bed::{Bed, both, state};
use cni_harness::faults::{Point, inject, points};
use cni_harness::{Call, Container};
use serde_json::{Value, json};

fn call(bed: &Bed, command: &str) -> Call {
    let mut conf = bed.with_prev(&both());
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "bystander", "ifname": "eth0"}]);
    bed.call(command, &conf)
}

/// What would have gone with the veth.
fn clear_veth() {
    for hook in ["root", "ingress"] {
        let done = std::process::Command::new("tc").args(["qdisc", "del", "dev", "vh0", hook]).output();
        assert!(done.is_ok(), "{done:?}");
    }
}

/// Goes through the points of each command; `each` says what the fault is, and looks at what came of it.
fn at_every_point(filter: fn(&Point) -> bool, each: impl Fn(&Bed, &str, &Point)) {
    let bed = Bed::new();
    let other = Container::new();
    bed.host.ip(&format!("link add vh1 type veth peer name eth0 netns {}", other.path()));
    let theirs = bed.with_prev_of(&both(), "vh1", "eth0");
    let bystander =
        |command: &str| bed.call(command, &theirs).attachment("bystander", "eth0").netns(&other).run();
    bystander("ADD").ok();
    let before = state();
    for command in ["ADD", "DEL", "GC"] {
        let prepare = || {
            if command != "ADD" {
                call(&bed, "ADD").run().ok();
            }
            if command == "GC" {
                // A second one: several go another way than one.
                bed.host.ip("link add dead type ifb");
                bed.host.ip("link set dead alias cni/net1/dead/eth0");
            }
        };
        prepare();
        let points = points(&call(&bed, command));
        if command != "GC" {
            call(&bed, "DEL").run().ok();
        }
        clear_veth();
        for (n, point) in points.iter().enumerate().filter(|(_, point)| filter(point)) {
            prepare();
            each(&bed, command, point);
            // Either of the two cleans up, whatever the first call was. GC knows by the alias only, DEL its own only.
            if n % 2 == 0 || command == "ADD" {
                call(&bed, "DEL").run().ok();
            }
            if n % 2 == 1 && command == "DEL" || command == "GC" {
                call(&bed, "GC").run().ok();
            }
            clear_veth();
            assert_eq!(state(), before, "{command} at {} ({})", point.name, point.nth);
        }
        call(&bed, "ADD").run().ok();
        call(&bed, "CHECK").run().ok();
        bystander("CHECK").ok();
        call(&bed, "DEL").run().ok();
        clear_veth();
        assert_eq!(state(), before, "{command}");
    }
}

#[test]
fn killed_at_every_system_call() {
    at_every_point(
        |_| true,
        |bed, command, point| {
            let answer = inject(&call(bed, command), point, "signal=SIGKILL");
            let killed = answer.code != Some(0) || point.name == "execve";
            assert!(killed, "{command} at {} ({}): it was not", point.name, point.nth);
            if command == "ADD" {
                // What a killed ADD left is no obstacle to the next.
                call(bed, "ADD").run().ok();
                call(bed, "CHECK").run().ok();
            }
        },
    );
}

#[test]
fn refused_at_every_system_call() {
    at_every_point(Point::can_fail, |bed, command, point| {
        let before = state();
        let answer = inject(&call(bed, command), point, "error=ENOMEM");
        let label = format!("{command}, ENOMEM at {} ({})\n{}", point.name, point.nth, answer.dump());
        assert!(!answer.stderr.contains("panicked"), "{label}");
        match answer.code {
            Some(0) => {}
            Some(1) => {
                let told: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
                let lost = answer.stderr.contains("the result could not be written");
                assert!(lost || told["code"].is_u64(), "{label}");
                assert!(command != "ADD" || state() == before, "{label}: a failed ADD leaves nothing");
            }
            // Better dead than at work in the wrong namespace.
            None if point.name == "setns" => {
                assert!(answer.stderr.contains("can't return to the plugin's own"), "{label}");
            }
            _ => panic!("{label}"),
        }
    });
}
