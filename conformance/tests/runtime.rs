//! Chains of plugins as `cni-common::runtime` drives them: what each plugin is told, and what is kept.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use cni_common::invoke::PluginPath;
use cni_common::runtime::{Cache, ConfList, Endpoint, Runtime};
use cni_common::spec::Attachment;
use cni_harness::write_file;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Writes down what it is told, and answers as a plugin of its name.
const RECORDER: &str = r#"#!/bin/sh
name=${0##*/}
dir=${0%/*}
{ echo "$CNI_COMMAND $name $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $CNI_PATH"; cat; echo; } >>"$dir/calls"
[ ! -e "$dir/$CNI_COMMAND-$name-fails" ] || { echo '{"code": 42, "msg": "as told"}'; exit 1; }
[ ! -e "$dir/$CNI_COMMAND-$name-hangs" ] || exec sleep 60
case $CNI_COMMAND in
ADD) echo "{\"cniVersion\": \"1.0.0\", \"interfaces\": [{\"name\": \"$name\"}]}" ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.1.0"]}' ;;
esac
"#;

struct Bed {
    dir: TempDir,
    runtime: Runtime,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two", "three"] {
            write_file(&dir.path().join(name), RECORDER, 0o755);
        }
        let runtime = Runtime {
            path: PluginPath::of_dirs(&[dir.path().to_owned()]),
            cache: Some(Cache::new(&dir.path().join("cache"))),
            timeout: None,
        };
        Self { dir, runtime }
    }

    fn list(extra: &Value) -> ConfList {
        let mut list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
            {"type": "one", "name": "its own", "capabilities": {"ports": true, "other": false}},
            {"type": "two"}]});
        for (key, value) in extra.as_object().unwrap() {
            list[key] = value.clone();
        }
        ConfList::parse(list.to_string().as_bytes()).unwrap()
    }

    /// The calls since the last look: command and name, and stdin.
    fn calls(&self) -> Vec<(String, Value)> {
        let file = self.dir.path().join("calls");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        let lines: Vec<&str> = text.lines().collect();
        lines.chunks(2).map(|call| (call[0].to_owned(), serde_json::from_str(call[1]).unwrap())).collect()
    }

    fn names(&self) -> Vec<String> {
        let two_words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        self.calls().iter().map(|(line, _)| two_words(line)).collect()
    }

    fn mark(&self, name: &str) {
        write_file(&self.dir.path().join(name), "", 0o644);
    }

    fn kept(&self) -> bool {
        self.dir.path().join("cache/results/net-c1-eth0").exists()
    }
}

fn endpoint() -> Endpoint {
    let mut capabilities = Map::new();
    for (key, value) in [("ports", json!([80])), ("other", json!(1)), ("unasked", json!(2))] {
        capabilities.insert(key.to_owned(), value);
    }
    Endpoint {
        container_id: "c1".try_into().unwrap(),
        netns: "/run/netns/x".to_owned(),
        ifname: "eth0".try_into().unwrap(),
        args: vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())],
        capabilities,
        result: None,
    }
}

fn attachment(id: &str) -> Attachment {
    Attachment {
        network: "net".try_into().unwrap(),
        container_id: id.try_into().unwrap(),
        ifname: "eth0".try_into().unwrap(),
    }
}

#[test]
fn each_plugin_gets_the_result_of_the_one_before_and_what_it_declares() {
    let bed = Bed::new();
    let success = bed.runtime.add(&Bed::list(&json!({})), &endpoint()).unwrap();
    assert_eq!(success.interfaces[0].name, "two");
    let calls = bed.calls();
    let path = bed.dir.path().display();
    assert_eq!(calls[0].0, format!("ADD one c1 /run/netns/x eth0 A=1;B=2 {path}"));
    let one = &calls[0].1;
    assert_eq!(
        (&one["name"], &one["cniVersion"], &one["runtimeConfig"]),
        (&json!("net"), &json!("1.0.0"), &json!({"ports": [80]}))
    );
    assert!(one["prevResult"].is_null());
    let two = &calls[1].1;
    assert_eq!(two["prevResult"]["interfaces"][0]["name"], "one");
    assert!(two["runtimeConfig"].is_null());
    assert_eq!(calls.len(), 2);
}

#[test]
fn del_goes_backwards_with_what_add_was_told_and_forgets_only_when_all_is_gone() {
    let bed = Bed::new();
    let list = Bed::list(&json!({}));
    bed.runtime.add(&list, &endpoint()).unwrap();
    bed.calls();
    let bare = Endpoint { args: vec![], capabilities: Map::new(), netns: String::new(), ..endpoint() };
    bed.mark("DEL-one-fails");
    let error = bed.runtime.del(&list, &bare).unwrap_err();
    assert_eq!(
        (error.code.0, error.to_string()),
        (42, "plugin type=\"one\" name=\"its own\" failed (delete): as told (code 42)".to_owned())
    );
    let calls = bed.calls();
    assert!(
        calls[0].0.starts_with("DEL two c1  eth0 A=1;B=2") && calls[1].0.starts_with("DEL one"),
        "{calls:?}"
    );
    assert_eq!(calls[1].1["runtimeConfig"], json!({"ports": [80]}));
    assert_eq!(calls[0].1["prevResult"]["interfaces"][0]["name"], "two");
    assert!(bed.kept());
    std::fs::remove_file(bed.dir.path().join("DEL-one-fails")).unwrap();
    bed.runtime.del(&list, &bare).unwrap();
    assert!(!bed.kept());
    bed.runtime.del(&list, &bare).unwrap();
    assert!(bed.calls().last().unwrap().1["prevResult"].is_null());
}

#[test]
fn an_add_that_fails_stops_there_and_is_not_kept() {
    let bed = Bed::new();
    bed.mark("ADD-one-fails");
    let error = bed.runtime.add(&Bed::list(&json!({})), &endpoint()).unwrap_err();
    assert_eq!(error.code.0, 42);
    assert_eq!(bed.names(), ["ADD one"]);
    assert!(!bed.kept());
}

#[test]
fn check_stops_at_the_first_no_and_can_be_switched_off() {
    let bed = Bed::new();
    let list = Bed::list(&json!({}));
    bed.runtime.add(&list, &endpoint()).unwrap();
    bed.calls();
    bed.runtime.check(&list, &endpoint()).unwrap();
    assert_eq!(bed.names(), ["CHECK one", "CHECK two"]);
    bed.mark("CHECK-one-fails");
    assert_eq!(bed.runtime.check(&list, &endpoint()).unwrap_err().to_string(), "as told (code 42)");
    assert_eq!(bed.names(), ["CHECK one"]);
    bed.runtime.check(&Bed::list(&json!({"disableCheck": true})), &endpoint()).unwrap();
    let old = Bed::list(&json!({"cniVersion": "0.3.1"}));
    let error = bed.runtime.check(&old, &endpoint()).unwrap_err().to_string();
    assert!(error.contains("does not support the CHECK command"), "{error}");
    assert!(bed.names().is_empty());
}

#[test]
fn gc_deletes_what_is_kept_and_not_valid_then_asks_each_plugin() {
    let bed = Bed::new();
    let list = Bed::list(&json!({"cniVersion": "1.1.0"}));
    for id in ["kept", "gone"] {
        bed.runtime.add(&list, &Endpoint { container_id: id.try_into().unwrap(), ..endpoint() }).unwrap();
    }
    bed.calls();
    bed.mark("GC-one-fails");
    let error = bed.runtime.gc(&list, &[attachment("kept")]).unwrap_err();
    assert_eq!(error.code.0, 42);
    let calls = bed.calls();
    let lines: Vec<&str> =
        calls.iter().map(|(line, _)| line.split(" A=").next().unwrap().trim_end()).collect();
    assert!(lines[0].starts_with("DEL two gone") && lines[1].starts_with("DEL one gone"), "{lines:?}");
    assert!(lines[2].starts_with("GC one") && lines[3].starts_with("GC two"), "{lines:?}");
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        assert_eq!(calls[2].1[key], json!([{"containerID": "kept", "ifname": "eth0"}]));
    }
    bed.runtime.gc(&Bed::list(&json!({"disableGC": "true"})), &[]).unwrap();
    bed.runtime.status(&Bed::list(&json!({}))).unwrap();
    assert!(bed.names().is_empty(), "STATUS came with 1.1.0");
    bed.runtime.status(&list).unwrap();
    assert_eq!(bed.names(), ["STATUS one", "STATUS two"]);
}

#[test]
fn a_plugin_that_hangs_is_stopped() {
    let mut bed = Bed::new();
    bed.runtime.timeout = Some(Duration::from_millis(500));
    bed.mark("ADD-two-hangs");
    let begun = Instant::now();
    let error = bed.runtime.add(&Bed::list(&json!({})), &endpoint()).unwrap_err();
    assert!(error.to_string().contains("plugin \"two\" did not answer in time"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_drop_in_folder_adds_plugins_unless_it_must_not() {
    let bed = Bed::new();
    let (file, folder) = (bed.dir.path().join("1.conflist"), bed.dir.path().join("net"));
    std::fs::create_dir(&folder).unwrap();
    write_file(&folder.join("2.conf"), r#"{"type": "three"}"#, 0o644);
    write_file(&folder.join("1.conf"), r#"{"type": "two"}"#, 0o644);
    write_file(&folder.join("0.json"), "no plugin config", 0o644);
    let types = |text: &str| {
        write_file(&file, text, 0o644);
        ConfList::load(&file).map(|list| list.types().map(ToOwned::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(types(r#"{"name": "net", "plugins": [{"type": "one"}]}"#).unwrap(), ["one", "two", "three"]);
    assert_eq!(types(r#"{"name": "net"}"#).unwrap(), ["two", "three"]);
    assert_eq!(
        types(r#"{"name": "net", "loadOnlyInlinedPlugins": true, "plugins": [{"type": "one"}]}"#).unwrap(),
        ["one"]
    );
    let error = types(r#"{"name": "other"}"#).unwrap_err().to_string();
    assert!(error.contains("no plugin configs found"), "{error}");
    write_file(&folder.join("3.conf"), "{", 0o644);
    let error = types(r#"{"name": "net"}"#).unwrap_err().to_string();
    assert!(error.contains("3.conf"), "{error}");
}

#[test]
fn a_list_is_valid_when_every_plugin_is_there_and_speaks_its_version() {
    let bed = Bed::new();
    bed.runtime.validate(&Bed::list(&json!({}))).unwrap();
    let error = bed.runtime.validate(&Bed::list(&json!({"cniVersion": "0.3.1"}))).unwrap_err().to_string();
    assert!(error.contains("plugin one does not support config version \"0.3.1\""), "{error}");
    let missing = Bed::list(&json!({"plugins": [{"type": "four"}]}));
    assert!(
        bed.runtime.validate(&missing).unwrap_err().to_string().contains("failed to find plugin \"four\"")
    );
}

/// An ADD was killed while it kept its result, before or after all was written.
#[test]
fn what_was_not_kept_to_its_end_counts_for_nothing_and_goes() {
    let bed = Bed::new();
    let (list, cache) = (Bed::list(&json!({"cniVersion": "1.1.0"})), bed.runtime.cache.clone().unwrap());
    let results = bed.dir.path().join("cache/results");
    let left = |content: &[u8]| {
        std::fs::create_dir_all(&results).unwrap();
        write_file(&results.join(".net-c1-eth0.new"), content, 0o600);
    };
    let files = || std::fs::read_dir(&results).unwrap().count();
    bed.runtime.add(&list, &endpoint()).unwrap();
    let whole = std::fs::read(results.join("net-c1-eth0")).unwrap();
    for content in [&whole[..], &whole[..100], b""] {
        left(content);
        bed.runtime.del(&list, &endpoint()).unwrap();
        assert_eq!(files(), 0, "DEL");
        left(content);
        assert!(cache.of_network("net").unwrap().is_empty());
        bed.runtime.gc(&list, &[]).unwrap();
        assert_eq!(files(), 0, "GC");
        left(content);
        bed.runtime.add(&list, &endpoint()).unwrap();
        assert_eq!((files(), std::fs::read(results.join("net-c1-eth0")).unwrap()), (1, whole.clone()), "ADD");
    }
}

#[test]
fn what_is_kept_is_libcnis_format_and_nobody_elses_business() {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::new();
    bed.runtime.add(&Bed::list(&json!({})), &endpoint()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = bed.dir.path().join("cache/results/net-c1-eth0");
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let kept: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(
        (&kept["kind"], &kept["ifName"], &kept["networkName"]),
        (&json!("cniCacheV1"), &json!("eth0"), &json!("net"))
    );
    assert_eq!(kept["cniArgs"], json!([["A", "1"], ["B", "2"]]));
    assert_eq!(kept["result"]["interfaces"][0]["name"], "two");
    // Damaged, it is as good as nothing.
    write_file(&file, "{", 0o600);
    bed.calls();
    bed.runtime.del(&Bed::list(&json!({})), &endpoint()).unwrap();
    assert!(bed.calls()[0].1["prevResult"].is_null());
}
