//! Bad input: whatever comes in, a plugin answers with an error that a runtime and a person can read, does not panic,
//! and leaves nothing.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

use cni_harness::{Call, Container, Host, Snapshot, leases, write_file};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A config in which every key is right.
fn conf(data: &Path, plugin: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": plugin, "bridge": "br1", "isGateway": true, "ipMasq": true,
           "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.1.0.0/24"}]]}})
}

/// Runs `call` with ADD, which has to fail well, and with DEL, which has to end well either way.
fn survives(label: &str, data: &Path, pod: &Container, call: &Call) {
    let before = (Snapshot::take(), pod.ip("-o link"), leases(data));
    for command in ["ADD", "DEL"] {
        let answer = call.clone().env("CNI_COMMAND", command).run();
        assert!(!answer.stderr.contains("panicked"), "{label}: {command} panicked\n{}", answer.dump());
        if command == "DEL" && answer.is_ok() {
            continue;
        }
        assert_eq!(answer.code, Some(1), "{label}: {command}\n{}", answer.dump());
        let json = answer.json();
        let code = json["code"].as_u64().unwrap_or_else(|| panic!("{label}: {command}\n{}", answer.dump()));
        assert!(code != 0 && code != 999, "{label}: {command} has code {code}\n{}", answer.dump());
        assert!(
            !json["msg"].as_str().unwrap().is_empty() && json["cniVersion"].is_string(),
            "{label}: {json}"
        );
        assert!(answer.stdout.len() < 32_768, "{label}: an error of {} bytes", answer.stdout.len());
    }
    let after = (Snapshot::take(), pod.ip("-o link"), leases(data));
    assert_eq!(after, before, "{label}: something was left");
}

fn good(data: &Path, plugin: &str, pod: &Container) -> Call {
    Call::new(plugin).stdin(conf(data, plugin).to_string()).attachment("c1", "eth0").netns(pod)
}

#[test]
fn values_of_every_wrong_kind() {
    let _host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let pod = Container::new();
    let long = "x".repeat(1 << 20);
    let kinds = [
        json!("text"),
        json!(7.5),
        json!(-1),
        json!([]),
        json!([1, {"a": null}]),
        json!({}),
        json!({"a": "b"}),
        json!(long),
    ];
    let mut tried = 0;
    for (plugin, path, right) in [
        ("bridge", "/cniVersion", &["string"][..]),
        ("bridge", "/name", &["string"]),
        ("bridge", "/bridge", &["string"]),
        ("bridge", "/isGateway", &[]),
        ("bridge", "/isDefaultGateway", &[]),
        ("bridge", "/ipMasq", &[]),
        ("bridge", "/ipMasqBackend", &["string"]),
        ("bridge", "/mtu", &[]),
        ("bridge", "/hairpinMode", &[]),
        ("bridge", "/vlan", &[]),
        ("bridge", "/vlanTrunk", &["empty"]),
        ("bridge", "/ipam", &["object"]),
        ("bridge", "/ipam/type", &["string"]),
        ("bridge", "/args", &["object"]),
        ("bridge", "/runtimeConfig", &["object"]),
        ("bridge", "/dns", &["object"]),
        ("host-local", "/ipam", &[]),
        ("host-local", "/ipam/ranges", &[]),
        ("host-local", "/ipam/ranges/0", &[]),
        ("host-local", "/ipam/ranges/0/0", &[]),
        ("host-local", "/ipam/ranges/0/0/subnet", &[]),
        ("host-local", "/ipam/ranges/0/0/rangeStart", &[]),
        ("host-local", "/ipam/routes", &["empty"]),
        ("host-local", "/ipam/resolvConf", &[]),
        ("host-local", "/runtimeConfig", &["object"]),
        ("loopback", "/prevResult", &["object"]),
        ("loopback", "/name", &["string"]),
    ] {
        for kind in &kinds {
            // Some of the values happen to be right for the key, or to ask for nothing.
            let harmless = match kind {
                Value::String(text) => {
                    let plain = right.contains(&"string") && text.len() < 16;
                    plain && !["/cniVersion", "/ipMasqBackend", "/ipam/type"].contains(&path)
                }
                Value::Array(items) => right.contains(&"empty") && items.is_empty(),
                Value::Object(_) => right.contains(&"object"),
                _ => false,
            };
            if harmless {
                continue;
            }
            let mut conf = conf(data.path(), plugin);
            set(&mut conf, path, kind.clone());
            let call = good(data.path(), plugin, &pod).stdin(conf.to_string());
            let label = format!("{plugin} {path} = {:.30}", kind.to_string());
            survives(&label, data.path(), &pod, &call);
            tried += 1;
        }
    }
    assert!(tried > 150, "only {tried} tried");
}

/// Sets the value at a JSON pointer whose parents are there, or one level below.
fn set(conf: &mut Value, path: &str, value: Value) {
    let (parent, key) = path.rsplit_once('/').unwrap();
    let parent = conf.pointer_mut(parent).unwrap();
    match key.parse::<usize>() {
        Ok(index) if parent.is_array() => parent[index] = value,
        _ => parent[key] = value,
    }
}

#[test]
fn texts_that_are_no_configs() {
    let _host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let pod = Container::new();
    let good_text = conf(data.path(), "bridge").to_string();
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let texts: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("NUL", vec![0]),
        ("a megabyte of NULs", vec![0; 1 << 20]),
        ("not UTF-8", vec![0xff, 0xfe, 0x00]),
        ("a byte order mark", [b"\xef\xbb\xbf", good_text.as_bytes()].concat()),
        ("half", good_text.as_bytes()[..good_text.len() / 2].to_vec()),
        ("two", good_text.repeat(2).into_bytes()),
        ("deep lists", deep("[", "]").into_bytes()),
        ("deep objects", deep("{\"a\":", "}").into_bytes()),
        (
            "deep inside a key",
            good_text.replacen('{', &format!("{{\"x\":{},", deep("[", "]")), 1).into_bytes(),
        ),
        ("a number beyond all", good_text.replacen('{', "{\"mtu\":1e999,", 1).into_bytes()),
        ("a number of 20 digits", good_text.replacen('{', "{\"mtu\":99999999999999999999,", 1).into_bytes()),
        ("a name with a NUL", good_text.replace("\"net\"", "\"n\\u0000et\"").into_bytes()),
        ("a name that walks", good_text.replace("\"net\"", "\"../../etc\"").into_bytes()),
        ("a name that is dots", good_text.replace("\"net\"", "\"..\"").into_bytes()),
        ("a name of half a surrogate", good_text.replace("\"net\"", "\"\\ud800\"").into_bytes()),
        ("a name with a slash", good_text.replace("\"net\"", "\"a/b\"").into_bytes()),
        ("a name of 256", good_text.replace("\"net\"", &format!("{:?}", "n".repeat(256))).into_bytes()),
        ("a bridge that walks", good_text.replace("br1", "../br1").into_bytes()),
        ("a bridge with a NUL", good_text.replace("br1", "b\\u0000r").into_bytes()),
        ("a bridge called all dots", good_text.replace("br1", "..").into_bytes()),
        (
            "a delegate that walks",
            good_text.replace("\"type\":\"host-local\"", "\"type\":\"../../bin/true\"").into_bytes(),
        ),
        (
            "an absolute delegate",
            good_text.replace("\"type\":\"host-local\"", "\"type\":\"/bin/true\"").into_bytes(),
        ),
        (
            "a delegate with a NUL",
            good_text.replace("\"type\":\"host-local\"", "\"type\":\"host\\u0000local\"").into_bytes(),
        ),
        ("a delegate of dots", good_text.replace("\"type\":\"host-local\"", "\"type\":\"..\"").into_bytes()),
        (
            "itself as delegate",
            good_text.replace("\"type\":\"host-local\"", "\"type\":\"bridge\"").into_bytes(),
        ),
        ("a subnet of everything", good_text.replace("10.1.0.0/24", "0.0.0.0/-1").into_bytes()),
        ("a subnet of words", good_text.replace("10.1.0.0/24", "$(reboot)").into_bytes()),
        (
            "a folder with a NUL",
            good_text.replace(data.path().to_str().unwrap(), "/tmp/a\\u0000b").into_bytes(),
        ),
        (
            "a folder of 5000",
            good_text.replace(data.path().to_str().unwrap(), &format!("/{}", "d".repeat(5000))).into_bytes(),
        ),
        (
            "a folder that is a device",
            good_text.replace(data.path().to_str().unwrap(), "/dev/null").into_bytes(),
        ),
        ("a folder in proc", good_text.replace(data.path().to_str().unwrap(), "/proc/self").into_bytes()),
    ];
    for (label, text) in &texts {
        survives(label, data.path(), &pod, &good(data.path(), "bridge", &pod).stdin(text.clone()));
    }
    for plugin in ["host-local", "loopback"] {
        for (label, text) in texts.iter().take(10) {
            let label = format!("{plugin}: {label}");
            if plugin == "loopback" && *label == *"loopback: deep inside a key" {
                continue;
            }
            survives(&label, data.path(), &pod, &good(data.path(), plugin, &pod).stdin(text.clone()));
        }
    }
}

#[test]
fn environments_that_are_wrong() {
    let _host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let pod = Container::new();
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).into_os_string();
    write_file(Path::new(&path("file")), "x", 0o600);
    nix::unistd::mkfifo(Path::new(&path("fifo")), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("loop", path("loop")).unwrap();
    let long = OsString::from("a".repeat(100_000));
    let raw = OsStr::from_bytes(b"a\xff").to_owned();
    let text = OsString::from;
    let cases: Vec<(&str, OsString)> = vec![
        ("CNI_NETNS", path("file")),
        ("CNI_NETNS", path("fifo")),
        ("CNI_NETNS", path("loop")),
        ("CNI_NETNS", path("missing")),
        ("CNI_NETNS", files.path().as_os_str().to_owned()),
        ("CNI_NETNS", text("/dev/zero")),
        ("CNI_NETNS", text("/proc/self/ns/mnt")),
        ("CNI_NETNS", text("/proc/self/ns/user")),
        ("CNI_NETNS", text("relative/path")),
        ("CNI_NETNS", text("")),
        ("CNI_NETNS", long.clone()),
        ("CNI_NETNS", raw.clone()),
        ("CNI_NETNS", text("/proc/self/ns/net")),
        ("CNI_IFNAME", text("")),
        ("CNI_IFNAME", text("..")),
        ("CNI_IFNAME", text("a/b")),
        ("CNI_IFNAME", text("../../x")),
        ("CNI_IFNAME", text("eth 0")),
        ("CNI_IFNAME", text("eth0\n")),
        ("CNI_IFNAME", text("1234567890123456")),
        ("CNI_IFNAME", text("lo")),
        ("CNI_IFNAME", text("all")),
        ("CNI_IFNAME", long.clone()),
        ("CNI_IFNAME", raw.clone()),
        ("CNI_CONTAINERID", text("")),
        ("CNI_CONTAINERID", text("../../etc/passwd")),
        ("CNI_CONTAINERID", text("-rf")),
        ("CNI_CONTAINERID", text("a;reboot")),
        ("CNI_CONTAINERID", text("a\r\nb")),
        ("CNI_CONTAINERID", long.clone()),
        ("CNI_CONTAINERID", raw.clone()),
        ("CNI_PATH", text("")),
        ("CNI_PATH", text("/nowhere")),
        ("CNI_PATH", text(":::")),
        ("CNI_PATH", path("file")),
        ("CNI_PATH", long.clone()),
        ("CNI_ARGS", text("=")),
        ("CNI_ARGS", text("MAC=zz")),
        ("CNI_ARGS", text("MAC=02:00:00:00:00:01;")),
        ("CNI_ARGS", text("X=Y")),
        ("CNI_ARGS", long),
        ("CNI_ARGS", raw),
    ];
    for (key, value) in cases {
        let label = format!("{key}={:.40}", value.to_string_lossy());
        survives(&label, data.path(), &pod, &good(data.path(), "bridge", &pod).env(key, value));
    }
    for command in [OsStr::from_bytes(b"AD\xff"), OsStr::new("ADD DEL"), OsStr::new("add")] {
        let answer = good(data.path(), "bridge", &pod).env("CNI_COMMAND", command).run();
        answer.fails(4);
    }
}

#[test]
fn a_delegate_that_can_not_run() {
    let _host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    let pod = Container::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(cni_harness::bin_dir().join("bridge"), dir.path().join("bridge")).unwrap();
    let delegate = dir.path().join("host-local");
    for (label, text, mode) in [
        ("not executable", "#!/bin/sh\n", 0o644),
        ("empty", "", 0o755),
        ("no program", "\u{7f}ELF nonsense", 0o755),
        ("no such interpreter", "#!/no/such/program\n", 0o755),
        ("a megabyte of noise", "#!/bin/sh\nhead -c 1000000 /dev/zero\n", 0o755),
        ("an error of a megabyte", "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x; exit 1\n", 0o755),
    ] {
        let _ = std::fs::remove_file(&delegate);
        write_file(&delegate, text, mode);
        let call = Call::of(dir.path(), "bridge").stdin(conf(data.path(), "bridge").to_string());
        survives(label, data.path(), &pod, &call.attachment("c1", "eth0").netns(&pod));
    }
}
