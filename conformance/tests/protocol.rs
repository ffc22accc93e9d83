//! The execution protocol, the same for every plugin: environment, config, versions, errors.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

use cni_harness::{Call, Container, Host};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The versions that a plugin speaks.
fn versions(plugin: &str) -> Vec<&'static str> {
    let all = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    all[if plugin == "bandwidth" { 2 } else { 0 }..].to_vec()
}

fn plugins() -> impl Iterator<Item = &'static str> {
    cni_plugins::PLUGINS.iter().map(|plugin| plugin.name())
}

/// A call whose every part is right.
fn good(plugin: &str, command: &str) -> Call {
    let conf = json!({"cniVersion": "1.1.0", "name": "net", "type": plugin, "ipam": {"dataDir": "/nonexistent/leases",
                      "subnet": "10.0.0.0/24"}, "cni.dev/valid-attachments": []});
    let call = Call::new(plugin).command(command, &conf).attachment("c1", "eth0");
    call.env("CNI_NETNS", "/run/netns/gone")
}

#[test]
fn without_a_command_a_plugin_introduces_itself() {
    for plugin in plugins() {
        let begun = Instant::now();
        let mut child = Command::new(cni_harness::bin_dir().join(plugin))
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // stdin stays open: Nomad waits no longer than three seconds.
        let held = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(held);
        assert!(begun.elapsed() < Duration::from_secs(3));
        assert!(output.status.success() && output.stdout.is_empty());
        let stderr = String::from_utf8(output.stderr).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let want = format!(
            "CNI {plugin} plugin v{version}\n\
             CNI protocol versions supported: {}\n",
            versions(plugin).join(", ")
        );
        assert_eq!(stderr, want);
    }
}

#[test]
fn a_plugin_works_under_any_name() {
    let dir = tempfile::tempdir().unwrap();
    let source = cni_harness::bin_dir().join("bridge");
    std::os::unix::fs::symlink(&source, dir.path().join("buildkit-cni-bridge")).unwrap();
    let answer = Call::of(dir.path(), "buildkit-cni-bridge").env("CNI_COMMAND", "VERSION").run();
    assert_eq!(answer.ok()["supportedVersions"].as_array().unwrap().len(), 7);
}

#[test]
fn version_is_answered_without_reading_stdin() {
    for plugin in plugins() {
        let answer = Call::new(plugin).env("CNI_COMMAND", "VERSION").stdin("not json").run();
        let want = json!({"cniVersion": "1.1.0", "supportedVersions": versions(plugin)});
        assert_eq!(answer.ok(), want);
        assert!(answer.stdout.ends_with('\n') && answer.stdout.lines().count() == 1);
    }
}

#[test]
fn the_environment_is_checked_in_order() {
    // Command, variables taken away, variables set, code, words.
    type Row = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)], u32, String);
    let missing = |names: &str| format!("required env variables [{names}] missing");
    let table: &[Row] = &[
        ("ADD", &["CNI_CONTAINERID"], &[], 4, missing("CNI_CONTAINERID")),
        ("ADD", &["CNI_NETNS"], &[], 4, missing("CNI_NETNS")),
        ("ADD", &["CNI_IFNAME"], &[], 4, missing("CNI_IFNAME")),
        (
            "ADD",
            &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            &[],
            4,
            missing("CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME"),
        ),
        ("ADD", &[], &[("CNI_NETNS", "")], 4, missing("CNI_NETNS")),
        ("CHECK", &["CNI_NETNS"], &[], 4, missing("CNI_NETNS")),
        ("CHECK", &["CNI_CONTAINERID", "CNI_IFNAME"], &[], 4, missing("CNI_CONTAINERID,CNI_IFNAME")),
        ("DEL", &["CNI_CONTAINERID"], &[], 4, missing("CNI_CONTAINERID")),
        ("DEL", &["CNI_IFNAME", "CNI_NETNS"], &[], 4, missing("CNI_IFNAME")),
        ("GC", &["CNI_PATH"], &[], 4, missing("CNI_PATH")),
        // A malformed name is told before any that are missing.
        ("ADD", &["CNI_NETNS"], &[("CNI_CONTAINERID", "-x")], 4, "CNI_CONTAINERID \"-x\" is invalid".into()),
        ("ADD", &["CNI_NETNS"], &[("CNI_CONTAINERID", "a/../b")], 4, "'/'".into()),
        ("DEL", &[], &[("CNI_CONTAINERID", "a\n")], 4, "CNI_CONTAINERID".into()),
        ("ADD", &[], &[("CNI_IFNAME", "1234567890123456")], 4, "longer than 15 bytes".into()),
        ("ADD", &[], &[("CNI_IFNAME", "..")], 4, "CNI_IFNAME".into()),
        ("ADD", &[], &[("CNI_IFNAME", "a/b")], 4, "CNI_IFNAME".into()),
        ("ADD", &[], &[("CNI_IFNAME", "a b")], 4, "CNI_IFNAME".into()),
        ("DEL", &[], &[("CNI_IFNAME", "a:b")], 4, "CNI_IFNAME".into()),
        ("add", &[], &[], 4, "unknown CNI_COMMAND: add".into()),
        ("FROB", &["CNI_CONTAINERID", "CNI_NETNS"], &[], 4, "unknown CNI_COMMAND: FROB".into()),
    ];
    for plugin in plugins() {
        for (command, without, with, code, words) in table {
            let mut call = good(plugin, command);
            for name in *without {
                call = call.without(name);
            }
            for (name, value) in *with {
                call = call.env(name, *value);
            }
            let why = call.run().fails(*code);
            assert!(why.contains(words.as_str()), "{plugin} {command} {without:?} {with:?} → {why}");
        }
        // Names that are not asked for are not looked at.
        good(plugin, "VERSION").env("CNI_CONTAINERID", "//").run().ok();
    }
}

#[test]
fn the_config_is_checked_in_order() {
    let table: &[(&str, &str, u32, &str)] = &[
        ("ADD", "", 6, "not valid JSON"),
        ("ADD", "{", 6, "not valid JSON"),
        ("DEL", "nonsense", 6, "not valid JSON"),
        ("CHECK", "{}{}", 6, "not valid JSON"),
        ("ADD", "[]", 6, "sequence"),
        ("ADD", "7", 6, "7"),
        ("ADD", "null", 7, "missing network name"),
        ("ADD", "{}", 7, "missing network name"),
        ("STATUS", "{}", 7, "missing network name"),
        ("ADD", r#"{"name":""}"#, 7, "missing network name"),
        ("ADD", r#"{"name":5}"#, 6, "\"name\""),
        ("DEL", r#"{"name":"../../etc"}"#, 7, "invalid characters found in network name"),
        ("ADD", r#"{"name":"a b"}"#, 7, "invalid characters"),
        ("ADD", r#"{"name":"a\u0000"}"#, 7, "invalid characters"),
        ("ADD", r#"{"name":"n","cniVersion":1.1}"#, 6, "decoding version"),
        ("ADD", r#"{"name":"n","cniVersion":"1.0"}"#, 1, "incompatible CNI versions"),
        ("DEL", r#"{"name":"n","cniVersion":"2.0.0"}"#, 1, "incompatible CNI versions"),
        ("CHECK", r#"{"name":"n","cniVersion":"0.3.1"}"#, 1, "config version does not allow CHECK"),
        ("CHECK", r#"{"name":"n"}"#, 1, "config version does not allow CHECK"),
        ("GC", r#"{"name":"n","cniVersion":"1.0.0"}"#, 1, "config version does not allow GC"),
        ("STATUS", r#"{"name":"n","cniVersion":"1.0.0"}"#, 1, "config version does not allow STATUS"),
        ("GC", r#"{"name":"n","cniVersion":"1.1.0"}"#, 7, "cni.dev/valid-attachments"),
        // An unknown command is told after the config.
        ("FROB", "{", 6, "not valid JSON"),
        ("FROB", r#"{"name":"n"}"#, 4, "unknown CNI_COMMAND"),
    ];
    for plugin in plugins() {
        for (command, text, code, words) in table {
            let why = good(plugin, command).stdin(*text).run().fails(*code);
            assert!(why.contains(words), "{plugin} {command} {text} → {why}");
        }
    }
}

#[test]
fn a_version_that_a_plugin_does_not_speak_is_refused_for_every_command() {
    for version in ["0.1.0", "0.2.0"] {
        let conf = json!({"cniVersion": version, "name": "n"});
        for command in ["ADD", "DEL"] {
            let why = good("bandwidth", command).stdin(conf.to_string()).run().fails(1);
            assert!(why.contains(r#"plugin supports ["0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#), "{why}");
        }
    }
}

#[test]
fn an_error_names_the_version_of_the_config() {
    for (text, want) in [
        (r#"{"name":"n","cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"name":"n"}"#, "0.1.0"),
        (r#"{"name":"n","cniVersion":"9.0.0"}"#, "1.1.0"),
        ("{", "1.1.0"),
    ] {
        let answer = good("host-local", "ADD").stdin(text).run();
        assert_eq!(answer.json()["cniVersion"], want, "{text}");
        assert!(!answer.stdout.ends_with('\n') && answer.stdout.contains("\n    \"code\": "));
    }
}

#[test]
fn cni_args_are_read_where_they_matter() {
    let _host = Host::enter();
    let pod = Container::new();
    for plugin in ["bridge", "host-local"] {
        for args in ["FOO=bar", "IP", "IgnoreUnknown=1;", "IgnoreUnknown=maybe"] {
            let why = good(plugin, "ADD").netns(&pod).env("CNI_ARGS", args).run().fails(4);
            assert!(why.contains("ARGS"), "{plugin} {args} → {why}");
        }
    }
    good("loopback", "ADD").netns(&pod).env("CNI_ARGS", "FOO=bar").run().ok();
    let why = good("host-local", "ADD").netns(&pod).env("CNI_ARGS", "IP=bogus").run().fails(4);
    assert!(why.contains("bogus"), "{why}");
}

#[test]
fn our_own_namespace_is_refused_before_any_work() {
    let _host = Host::enter();
    for plugin in plugins() {
        let own = good(plugin, "ADD").env("CNI_NETNS", "/proc/self/ns/net");
        assert!(own.run().fails(8).contains("should not be the same"));
        let answer = own.run();
        assert_eq!(serde_json::Deserializer::from_str(&answer.stdout).into_iter::<Value>().count(), 1);
    }
    for value in ["1", "true", "TRUE"] {
        good("loopback", "ADD")
            .env("CNI_NETNS", "/proc/self/ns/net")
            .env("CNI_NETNS_OVERRIDE", value)
            .run()
            .ok();
    }
}

#[test]
fn cni_path_is_asked_for_only_where_a_delegate_is_needed() {
    let _host = Host::enter();
    let pod = Container::new();
    let alone = json!({"cniVersion": "1.1.0", "name": "n", "bridge": "br1"});
    let call = Call::new("bridge").without("CNI_PATH").attachment("c1", "eth0").netns(&pod);
    call.clone().command("ADD", &alone).run().ok();
    call.clone().command("DEL", &alone).run().ok();
    let delegating =
        json!({"cniVersion": "1.1.0", "name": "n", "bridge": "br1", "ipam": {"type": "host-local"}});
    let why = call.command("ADD", &delegating).run().fails(4);
    assert!(why.contains("required env variables [CNI_PATH] missing") && why.contains("host-local"), "{why}");
}

#[test]
fn keys_match_whatever_their_case() {
    let data = tempfile::tempdir().unwrap();
    let conf = json!({"CNIVERSION": "0.4.0", "Name": "n", "IPAM": {"DATADIR": data.path(),
        "RANGES": [[{"Subnet": "10.0.0.0/24", "RANGESTART": "10.0.0.50"}]]}});
    let result = good("host-local", "ADD").stdin(conf.to_string()).run().ok();
    assert_eq!(result["ips"][0]["address"], "10.0.0.50/24");
    assert_eq!(result["cniVersion"], "0.4.0");
}

/// Set `BLESS=1` to write the golden files anew.
fn golden(name: &str, got: &Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    let got = format!("{got:#}\n");
    if std::env::var_os("BLESS").is_some() {
        cni_harness::write_file(&path, &got, 0o644);
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, want, "{name} differs from its golden file; BLESS=1 accepts it");
}

/// A result with what chance gives replaced by words.
fn masked(result: &Value, pod: &Container) -> Value {
    let mut result = result.clone();
    for (interface, words) in
        result["interfaces"].as_array_mut().unwrap().iter_mut().zip(["bridge", "host", "container"])
    {
        interface["mac"] = json!(format!("{words} MAC"));
        if words == "host" {
            interface["name"] = json!("host veth");
        }
        if interface["sandbox"] == pod.path() {
            interface["sandbox"] = json!("CNI_NETNS");
        }
    }
    result
}

/// SPEC.md, "Appendix: Examples": the network `dbnet`, its bridge plugin with `host-local`, ADD, CHECK and DEL.
#[test]
fn the_specifications_own_example() {
    let _host = Host::enter();
    let data = tempfile::tempdir().unwrap();
    for version in ["1.1.0", "1.0.0", "0.4.0"] {
        let mut conf = json!({
            "cniVersion": version, "name": "dbnet", "type": "bridge", "bridge": "cni0",
            "keyA": ["some more", "plugin specific", "configuration"],
            "ipam": {"type": "host-local", "subnet": "10.1.0.0/16", "gateway": "10.1.0.1",
                     "rangeStart": "10.1.0.5", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": data.path().join(version)},
            "dns": {"nameservers": ["10.1.0.1"]}
        });
        let pod = Container::new();
        let call = |command: &str, conf: &Value| {
            let call = Call::new("bridge").command(command, conf).attachment("example-container", "eth0");
            call.netns(&pod)
        };
        let mut alone = conf.clone();
        alone["ipam"]["dataDir"] = json!(data.path().join("alone").join(version));
        let ipam = Call::new("host-local").command("ADD", &alone).attachment("c", "eth0").netns(&pod).run();
        golden(&format!("dbnet-ipam-{version}.json"), &ipam.ok());
        let result = call("ADD", &conf).run().ok();
        golden(&format!("dbnet-bridge-{version}.json"), &masked(&result, &pod));
        conf["prevResult"] = result;
        assert_eq!(call("CHECK", &conf).run().ok(), Value::Null);
        assert_eq!(call("DEL", &conf).run().ok(), Value::Null);
    }
    // "Error": the example of a network that is too small.
    let conf = json!({"cniVersion": "1.1.0", "name": "dbnet", "ipam": {"subnet": "192.168.0.0/31"}});
    let answer =
        Call::new("host-local").command("ADD", &conf).attachment("c", "eth0").env("CNI_NETNS", "/x").run();
    answer.fails(7);
    golden("error-too-small.json", &answer.json());
}
