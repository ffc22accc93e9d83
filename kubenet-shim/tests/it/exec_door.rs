//! Exec plugins: those that the host runs, and this program as one.

use crate::bed::{Bed, said};
use cni_harness::{Container, write_file};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

/// A folder of exec plugins.
fn plugins(bed: &Bed, list: &[(&str, &str, &str)]) -> PathBuf {
    let dir = bed.path("exec");
    for (folder, file, script) in list {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
        write_file(&dir.join(folder).join(file), format!("#!/bin/sh\n{script}\n"), 0o755);
    }
    dir
}

#[test]
fn the_protocol() {
    let bed = Bed::new();
    let log = bed.path("log");
    let script = format!(
        "echo \"$@\" >>{}; [ $1 != status ] || echo '{{\"ip\": \"10.9.9.9\"}}'; echo warned >&2",
        log.display()
    );
    let dir = plugins(&bed, &[("mycompany~mysdn", "mysdn", &script), ("other", "other", "exit 0")]);
    let dir = format!("--network-plugin-dir={}", dir.display());
    let run =
        |words: &[&str]| bed.shim(&[&[dir.as_str(), "--network-plugin=mycompany/mysdn"], words].concat());
    let probe = run(&["probe"]).ok();
    assert!(probe.contains("mycompany/mysdn: ") && probe.contains("chosen: mycompany/mysdn"), "{probe}");
    run(&["init"]).ok();
    run(&["setup", "ns", "web", "c1"]).ok();
    // What it says on stderr does not get between the JSON.
    let status = run(&["status", "ns", "web", "c1"]);
    assert!(status.log.contains("warned"), "{}", status.log);
    assert!(status.ok().contains("\"ip\":\"10.9.9.9\""));
    run(&["teardown", "ns", "web", "c1"]).ok();
    let calls = std::fs::read_to_string(log).unwrap();
    assert_eq!(calls, "init\nsetup ns web c1\nstatus ns web c1\nteardown ns web c1\n");
}

#[test]
fn what_a_plugin_gets_wrong_is_named() {
    let bed = Bed::new();
    let dir = plugins(
        &bed,
        &[
            ("fails", "fails", "echo out; echo why >&2; exit 3"),
            ("kind", "kind", "echo '{\"kind\":\"Pod\"}'"),
            ("version", "version", "echo '{\"apiVersion\":\"v2\"}'"),
            ("garbage", "garbage", "echo garbage"),
            ("ip", "ip", "echo '{\"ip\":\"10.0.0.300\"}'"),
            ("hangs", "hangs", "exec sleep 60"),
            ("silent", "silent", "exit 0"),
            ("-bad-", "-bad-", "exit 0"),
            ("cni", "cni", "exit 0"),
        ],
    );
    std::fs::create_dir_all(dir.join("missing")).unwrap();
    let flag = format!("--network-plugin-dir={}", dir.display());
    let run = |name: &str, words: &[&str]| {
        let name = format!("--network-plugin={name}");
        bed.shim(&[&[flag.as_str(), &name, "--network-plugin-timeout=1"], words].concat())
    };
    let status = ["status", "ns", "web", "c1"];
    for (name, words, wanted) in [
        ("fails", &["init"][..], "network plugin \"fails\" failed init: "),
        ("fails", &status, "exit status: 3: stdout \"out\", stderr \"why\""),
        (
            "fails",
            &["setup", "ns", "web", "c1"],
            "networkPlugin fails failed to set up pod \"web_ns\" network: ",
        ),
        (
            "fails",
            &["teardown", "ns", "web", "c1"],
            "networkPlugin fails failed to teardown pod \"web_ns\" network: ",
        ),
        (
            "kind",
            &status,
            "Invalid 'kind' returned in network status for pod 'web'. Valid value is 'PodNetworkStatus', got 'Pod'.",
        ),
        ("version", &status, "Unknown version 'v2' in network status for pod 'web'."),
        ("garbage", &status, "network status for pod 'web' is no JSON"),
        ("ip", &status, "\"10.0.0.300\" is no address"),
        ("hangs", &["init"], "plugin \"hangs\" did not answer in time"),
        ("missing", &["init"], "does not have correct permissions."),
        ("cni", &["init"], "network plugin \"cni\" was registered more than once"),
        ("exec", &["init"], "network plugin \"exec\" stands for the only exec plugin, and there are"),
        ("none", &["init"], "network plugin \"none\" not found"),
    ] {
        let why = run(name, words).fails();
        assert!(why.contains(wanted), "{name} {words:?}: {why}");
    }
    assert_eq!(run("silent", &status).ok(), "");
    let probe = run("silent", &["probe"]).ok();
    assert!(probe.contains("-bad-: not to be chosen: network plugin has invalid name"), "{probe}");
}

#[test]
fn exec_stands_for_the_only_one() {
    let bed = Bed::new();
    let dir = plugins(&bed, &[("only", "only", "exit 0")]);
    let probe = bed
        .shim(&[&format!("--network-plugin-dir={}", dir.display()), "--network-plugin=exec", "probe"])
        .ok();
    assert!(probe.contains("chosen: only"), "{probe}");
}

/// Installed in a kubelet's plugin folder: it is kubenet, and finds the namespace by itself.
#[test]
fn this_program_as_an_exec_plugin() {
    let bed = Bed::new();
    let dir = bed.path("exec/kubenet-shim");
    std::fs::create_dir_all(&dir).unwrap();
    let program = dir.join("kubenet-shim");
    symlink(cni_harness::bin_dir().join("kubenet-shim"), &program).unwrap();
    let pod = Container::new();
    // A runtime that knows one container.
    let mut inside =
        Command::new("nsenter").arg(format!("--net={}", pod.path())).args(["sleep", "60"]).spawn().unwrap();
    let fake = format!(
        "#!/bin/sh\n[ \"$4\" = c1 ] || {{ echo no such container >&2; exit 1; }}\necho {}\n",
        inside.id()
    );
    let bin = bed.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    write_file(&bin.join("podman"), fake, 0o755);
    let run = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.env_clear().env("PATH", &bin).args(bed.flags()).arg("--pod-cidr=10.1.0.0/24");
        said(command.args(words))
    };
    run(&["init"]).ok();
    bed.host.ip("link show cbr0");
    let why = run(&["setup", "ns", "web", "c2"]).fails();
    assert!(
        why.contains("the network namespace of container c2 is not known: podman: no such container"),
        "{why}"
    );
    // A pod in the node's own namespace is refused before any work.
    let why = run(&["setup", "ns", "web", "c1", "--netns=/proc/self/ns/net"]).fails();
    assert!(why.contains("should not be the same"), "{why}");
    let status = run(&["setup", "ns", "web", "c1"]).ok();
    assert!(status.contains("\"ip\":\"10.1.0.2\""), "{status}");
    assert_eq!(run(&["status", "ns", "web", "c1"]).ok(), status);
    run(&["teardown", "ns", "web", "c1"]).ok();
    inside.kill().unwrap();
    inside.wait().unwrap();
    let script = bed.path("netns");
    write_file(&script, format!("#!/bin/sh\necho {}\n", pod.path()), 0o755);
    let told = format!("--netns-command={}", script.display());
    let status = run(&["setup", "ns", "web", "c1", &told]).ok();
    assert!(status.contains("\"ip\":\"10.1.0.3\""), "{status}");
    assert_eq!(run(&["status", "ns", "web", "c1", &told]).ok(), status);
    run(&["teardown", "ns", "web", "c1", &told]).ok();
    // And by our own host, as the only exec plugin that there is.
    let host = |words: &[&str]| {
        bed.shim(
            &[
                &[&format!("--network-plugin-dir={}", bed.path("exec").display()), "--network-plugin=exec"],
                words,
            ]
            .concat(),
        )
    };
    assert!(host(&["probe"]).ok().contains("chosen: kubenet-shim"));
}
