//! Killed or refused at each of its system calls: DEL cleans after it, the next ADD works, and a bystander's mappings stay.

use crate::bed::rules;
use cni_harness::faults::{Point, inject, points};
use cni_harness::{Answer, Call, Host};
use serde_json::{Value, json};

/// A link to a container's address is all that portmap wants; the namespace is not looked into.
fn machine() -> Host {
    let host = Host::enter();
    host.ip("link add br0 type bridge");
    host.ip("addr add 10.1.0.1/24 dev br0");
    host.ip("link set br0 up");
    host
}

fn call(command: &str, id: &str, host_port: u16) -> Call {
    let mut at_v4 = json!({"hostPort": host_port + 1, "containerPort": 81, "protocol": "udp"});
    at_v4["hostIP"] = json!("10.1.0.1");
    let conf = json!({"cniVersion": "1.1.0", "name": "net1", "type": "portmap",
        "runtimeConfig": {"portMappings": [{"hostPort": host_port, "containerPort": 80, "protocol": "tcp"}, at_v4]},
        "cni.dev/valid-attachments": [{"containerID": "bystander", "ifname": "eth0"}],
        "prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/none"}],
                       "ips": [{"address": "10.1.0.2/24", "interface": 0}, {"address": "fd00:1::2/64", "interface": 0}]}});
    let call = Call::new("portmap").command(command, &conf).attachment(id, "eth0");
    call.env("CNI_NETNS", "/run/netns/none")
}

fn run(command: &str, id: &str, host_port: u16) -> Answer {
    call(command, id, host_port).run()
}

/// Goes through the points of each command; `each` says what the fault is, and looks at what came of it.
fn at_every_point(filter: fn(&Point) -> bool, each: impl Fn(&str, &Point, &str)) {
    let _machine = machine();
    run("ADD", "bystander", 7000).ok();
    let before = rules();
    for command in ["ADD", "DEL", "GC"] {
        let prepare = || {
            if command != "ADD" {
                run("ADD", "c1", 8000).ok();
            }
        };
        prepare();
        let points = points(&call(command, "c1", 8000));
        run("DEL", "c1", 8000).ok();
        for (n, point) in points.iter().enumerate().filter(|(_, point)| filter(point)) {
            prepare();
            each(command, point, &before);
            let label = format!("{command} at {} ({})", point.name, point.nth);
            // Either of the two cleans up.
            run(if n % 2 == 0 { "DEL" } else { "GC" }, "c1", 8000).ok();
            assert_eq!(rules(), before, "{label}");
        }
        run("ADD", "c1", 8000).ok();
        run("CHECK", "c1", 8000).ok();
        run("CHECK", "bystander", 7000).ok();
        run("DEL", "c1", 8000).ok();
        assert_eq!(rules(), before, "{command}");
    }
}

#[test]
fn killed_at_every_system_call() {
    at_every_point(
        |_| true,
        |command, point, _| {
            let answer = inject(&call(command, "c1", 8000), point, "signal=SIGKILL");
            let killed = answer.code != Some(0) || point.name == "execve";
            assert!(killed, "{command} at {} ({}): it was not", point.name, point.nth);
        },
    );
}

#[test]
fn refused_at_every_system_call() {
    at_every_point(Point::can_fail, |command, point, before| {
        let answer = inject(&call(command, "c1", 8000), point, "error=ENOMEM");
        let label = format!("{command}, ENOMEM at {} ({})\n{}", point.name, point.nth, answer.dump());
        assert!(!answer.stderr.contains("panicked"), "{label}");
        match answer.code {
            Some(0) => {}
            Some(1) => {
                let told: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
                let lost = answer.stderr.contains("the result could not be written");
                assert!(lost || told["code"].is_u64(), "{label}");
                assert!(
                    command != "ADD" || rules() == before,
                    "{label}: a failed ADD leaves nothing\n{}",
                    rules()
                );
            }
            _ => panic!("{label}"),
        }
    });
}
