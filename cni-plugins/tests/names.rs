//! One file, many names: what it is by each, and how it comes into a folder and out of it.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use cni_harness::write_file;
use cni_plugins::PLUGINS;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const EXECUTABLE: &str = env!("CARGO_BIN_EXE_cni-plugins");

fn run(program: &Path, words: &[&str], command: Option<&str>) -> Output {
    let mut child = Command::new(program);
    child.args(words).env_clear().stdin(Stdio::null());
    if let Some(command) = command {
        child.env("CNI_COMMAND", command);
    }
    child.output().unwrap()
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn it_is_the_plugin_that_its_name_says() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::hard_link(EXECUTABLE, at("linked-bridge"))
        .or_else(|_| fs::copy(EXECUTABLE, at("linked-bridge")).map(drop))
        .unwrap();
    fs::copy(EXECUTABLE, at("buildkit-cni-host-local")).unwrap();
    symlink(EXECUTABLE, at("loopback")).unwrap();
    symlink(at("loopback"), at("portmap")).unwrap();
    // A kubelet's exec plugin has its folder's name; a link of any name is what it leads to.
    fs::copy(EXECUTABLE, at("kubenet")).unwrap();
    symlink(at("linked-bridge"), at("anything")).unwrap();
    for (file, plugin) in [
        ("linked-bridge", "bridge"),
        ("buildkit-cni-host-local", "host-local"),
        ("loopback", "loopback"),
        ("portmap", "portmap"),
        ("kubenet", "kubenet-shim"),
        ("anything", "bridge"),
    ] {
        let output = run(&at(file), &[], None);
        let release = env!("CARGO_PKG_VERSION");
        assert_eq!(first_line(&output.stderr), format!("CNI {plugin} plugin v{release}"), "{file}");
        assert!(output.status.success() && output.stdout.is_empty());
    }
    let mut named = Command::new(EXECUTABLE);
    let output = named.arg0("/x/y/my-bandwidth").env_clear().output().unwrap();
    assert!(first_line(&output.stderr).starts_with("CNI bandwidth plugin v"));
}

#[test]
fn under_its_own_name_the_first_word_says_which() {
    let by_word = |words: &[&str]| run(EXECUTABLE.as_ref(), words, None);
    for plugin in PLUGINS {
        let output = by_word(&[plugin.name()]);
        assert!(first_line(&output.stderr).starts_with(&format!("CNI {} plugin v", plugin.name())));
    }
    let output = by_word(&["list"]);
    let names: Vec<&str> = PLUGINS.iter().map(|plugin| plugin.name()).collect();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().collect::<Vec<_>>(), names);
    assert!(names.is_sorted() && names.len() >= 6, "{names:?}");
    assert!(first_line(&by_word(&[]).stderr).starts_with("CNI cni-plugins plugin v"));
    assert!(
        String::from_utf8_lossy(&by_word(&["host-local", "--help"]).stdout)
            .starts_with("usage: host-local leases")
    );
    for words in [
        &["nothing"][..],
        &["list", "more"],
        &["install", "--what"],
        &["install", "a", "b"],
        &["install", ""],
    ] {
        let output = by_word(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty() && first_line(&output.stderr).starts_with("usage: "), "{words:?}");
    }
}

#[test]
fn a_name_that_is_no_plugins_is_told_as_the_specification_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("no-plugin");
    fs::copy(EXECUTABLE, &file).unwrap();
    let output = run(&file, &[], Some("ADD"));
    assert_eq!(output.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], 7);
    assert!(error["msg"].as_str().unwrap().contains("\"no-plugin\""), "{error}");
    assert!(error["details"].as_str().unwrap().contains("host-local"), "{error}");
}

fn install(dir: &Path, words: &[&str]) -> String {
    let dir = dir.display().to_string();
    let words: Vec<&str> = [&["install", dir.as_str()], words].concat();
    let output = run(EXECUTABLE.as_ref(), &words, None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Name and content of each file, in order.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

#[test]
fn what_was_there_stays_beside_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_file(&at("bridge"), "another bridge", 0o644);
    fs::set_permissions(at("bridge"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("/nowhere", at("portmap")).unwrap();
    write_file(&at("firewall"), "of another release", 0o644);
    let before = files(dir.path());
    for round in ["first", "again", "over another release of ours"] {
        install(dir.path(), &[]);
        let own = fs::read(EXECUTABLE).unwrap();
        let ino = |name: &str| fs::metadata(at(name)).unwrap().ino();
        for plugin in PLUGINS {
            assert_eq!(ino(plugin.name()), ino("cni-plugins"), "{round}: {} is no hard link", plugin.name());
            assert_eq!(fs::metadata(at(plugin.name())).unwrap().mode() & 0o7777, 0o755);
        }
        assert!(fs::read(at("bridge")).unwrap() == own, "{round}");
        assert_eq!(fs::read_to_string(at("bridge.previous")).unwrap(), "another bridge", "{round}");
        // Two of the links, ours, cni-plugins, and what is not ours to touch.
        assert_eq!(
            files(dir.path()).len(),
            PLUGINS.len() + 4,
            "{round}: {:?}",
            fs::read_dir(dir.path()).unwrap().collect::<Vec<_>>()
        );
        if round == "again" {
            // Another release of ours: all its names are one file, by links or copies.
            write_file(&at("cni-plugins"), "an older release", 0o644);
            fs::remove_file(at("bandwidth")).unwrap();
            fs::copy(at("cni-plugins"), at("bandwidth")).unwrap();
        }
    }
    assert!(install(dir.path(), &[]).contains("bridge: is up to date"));
    install(dir.path(), &["--uninstall"]);
    assert!(files(dir.path()) == before, "{:?}", fs::read_dir(dir.path()).unwrap().collect::<Vec<_>>());
    assert_eq!(fs::metadata(at("bridge")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read_link(at("portmap")).unwrap(), Path::new("/nowhere"));
}

#[test]
fn a_file_of_others_that_has_our_name_comes_back_too() {
    let dir = tempfile::tempdir().unwrap();
    write_file(&dir.path().join("cni-plugins"), "of somebody else", 0o755);
    let before = files(dir.path());
    install(dir.path(), &[]);
    install(dir.path(), &["--uninstall"]);
    assert!(files(dir.path()) == before);
}

#[test]
fn one_that_was_stopped_in_between_knows_what_is_ours() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    install(dir.path(), &[]);
    // As an older release left it, and the first of the new one's names.
    write_file(&at("cni-plugins"), "an older release", 0o755);
    fs::remove_file(at("bandwidth")).unwrap();
    fs::copy(EXECUTABLE, at("bandwidth")).unwrap();
    install(dir.path(), &[]);
    assert_eq!(files(dir.path()).len(), PLUGINS.len() + 1, "no older release of ours counts as previous");
    install(dir.path(), &["--uninstall"]);
    assert_eq!(files(dir.path()), []);
}

/// What people and scripts read beside [`PLUGINS`] names the same.
#[test]
fn the_readme_and_the_features_have_every_plugin() {
    let names: BTreeSet<&str> = PLUGINS.iter().map(|plugin| plugin.name()).collect();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(top.join("README.md")).unwrap();
    let rows = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| [`")?.split_once("`]("))
        .filter(|(_, to)| to.contains("| ADD "));
    assert_eq!(rows.map(|(name, _)| name).collect::<BTreeSet<_>>(), names);
    let manifest = fs::read_to_string(top.join("cni-plugins/Cargo.toml")).unwrap();
    let default = manifest.lines().find_map(|line| line.strip_prefix("default = [")).unwrap();
    let features = default.trim_end_matches(']').split(", ").map(|name| name.trim_matches('"'));
    assert_eq!(features.collect::<BTreeSet<_>>(), names);
}

#[test]
fn what_is_not_ours_is_not_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), &[]);
    let bridge = dir.path().join("bridge");
    fs::remove_file(&bridge).unwrap();
    write_file(&bridge, "somebody put this here since", 0o644);
    let told = install(dir.path(), &["--uninstall"]);
    assert!(told.contains("bridge: stays, it is not ours"), "{told}");
    assert_eq!(files(dir.path()).len(), 1);
    // And a folder where nothing of ours ever was is left as it is.
    assert!(install(dir.path(), &["--uninstall"]).contains("stays"));
    assert_eq!(fs::read_to_string(&bridge).unwrap(), "somebody put this here since");
}

#[test]
fn a_folder_that_can_not_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("bridge")).unwrap();
    let path = dir.path().display().to_string();
    let output = run(EXECUTABLE.as_ref(), &["install", &path], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bridge is no file"), "{output:?}");
    let output = run(EXECUTABLE.as_ref(), &["install", "/proc/no/folder"], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/proc/no/folder"), "{output:?}");
}
