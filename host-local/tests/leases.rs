//! `host-local` as a process on real files, compared with what the reference plugin documents.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

use cni_harness::{Answer, Call, leases, reference_dir, snapshot, write_file};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Nothing here takes a second.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bed {
    data: TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { data: tempfile::tempdir().unwrap() }
    }

    fn conf(&self, ranges: &Value) -> Value {
        json!({"cniVersion": "1.1.0", "name": "net", "ipam": {"type": "host-local", "dataDir": self.data.path(),
               "ranges": ranges}})
    }

    fn dir(&self) -> PathBuf {
        self.data.path().join("net")
    }

    fn leases(&self) -> BTreeMap<String, String> {
        leases(self.data.path())
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.dir()).unwrap();
        write_file(&self.dir().join(name), text, 0o600);
    }
}

fn call(command: &str, conf: &Value, id: &str) -> Call {
    Call::new("host-local").command(command, conf).attachment(id, "eth0").env("CNI_NETNS", "/run/netns/none")
}

fn run(command: &str, conf: &Value, id: &str) -> Answer {
    call(command, conf, id).run()
}

fn addresses(result: &Value) -> Vec<String> {
    result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}

fn add(conf: &Value, id: &str) -> Vec<String> {
    addresses(&run("ADD", conf, id).ok())
}

#[test]
fn a_lease_has_the_references_bytes_and_modes() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]));
    assert_eq!(add(&conf, "c1"), ["10.1.0.2/24", "fd00::2/64"]);
    let files = snapshot::files(&bed.dir());
    let want = [
        ("10.1.0.2", "c1\r\neth0"),
        ("fd00::2", "c1\r\neth0"),
        ("last_reserved_ip.0", "10.1.0.2"),
        ("last_reserved_ip.1", "fd00::2"),
        ("lock", ""),
    ];
    assert_eq!(files, want.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect());
    let mode = |name: &str| std::fs::metadata(bed.dir().join(name)).unwrap().mode() & 0o777;
    assert_eq!(
        (mode("10.1.0.2"), mode("last_reserved_ip.0"), mode("lock"), mode("")),
        (0o600, 0o600, 0o600, 0o755)
    );
    run("CHECK", &conf, "c1").ok();
    run("DEL", &conf, "c1").ok();
    assert!(bed.leases().is_empty());
    run("DEL", &conf, "c1").ok();
    run("CHECK", &conf, "c1").fails(100);
}

#[test]
fn addresses_go_round() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/29"}]]));
    assert_eq!(add(&conf, "c1"), ["10.1.0.2/29"]);
    run("DEL", &conf, "c1").ok();
    assert_eq!(add(&conf, "c2"), ["10.1.0.3/29"], "not the one that was just freed");
    for (id, want) in
        [("c3", "10.1.0.4/29"), ("c4", "10.1.0.5/29"), ("c5", "10.1.0.6/29"), ("c6", "10.1.0.2/29")]
    {
        assert_eq!(add(&conf, id), [want]);
    }
    let why = run("ADD", &conf, "c7").fails(11);
    assert!(why.contains("no IP addresses available in range set: 10.1.0.1-10.1.0.6"), "{why}");
    assert!(why.contains("5 of 5 addresses are in use"), "{why}");
    assert!(why.contains("held longest: 10.1.0.3 by eth0 of container c2 for 0 s, 10.1.0.4 by"), "{why}");
    for hint in ["", "garbage", "10.1.0.4\n", "192.168.0.1"] {
        bed.put("last_reserved_ip.0", hint);
        run("DEL", &conf, "c4").ok();
        assert_eq!(add(&conf, "c4"), ["10.1.0.5/29"], "hint {hint:?}");
    }
}

#[test]
fn excluded_addresses_are_not_given_and_the_reference_does_not_mind_the_key() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/29"}]]));
    conf["cniVersion"] = json!("1.0.0");
    conf["ipam"]["exclude"] = json!(["10.1.0.2", "10.1.0.4/31"]);
    assert_eq!(add(&conf, "c1"), ["10.1.0.3/29"]);
    assert_eq!(add(&conf, "c2"), ["10.1.0.6/29"]);
    let why = run("ADD", &conf, "c3").fails(11);
    assert!(why.contains("2 of 2 addresses"), "{why}");
    conf["runtimeConfig"] = json!({"ips": ["10.1.0.2"]});
    assert!(run("ADD", &conf, "c3").fails(7).contains("failed to allocate all requested IPs: 10.1.0.2"));
    conf["runtimeConfig"] = json!({});
    let reference = Call::of(&reference_dir(), "host-local").command("ADD", &conf);
    reference.attachment("c3", "eth0").env("CNI_NETNS", "/x").run().ok();
    for (bad, words) in
        [(json!(["x"]), "\"x\" is neither"), (json!(["10.0.0.0/8"]), "exclude leaves nothing")]
    {
        conf["ipam"]["exclude"] = bad;
        assert!(run("ADD", &conf, "c4").fails(7).contains(words));
    }
}

#[test]
fn forms_of_ranges_come_in_their_order() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!([[{"subnet": "10.3.0.0/24"}], [{"subnet": "10.4.0.0/24"}]]));
    conf["ipam"]["subnet"] = json!("10.2.0.0/24");
    conf["ipam"]["rangeStart"] = json!("10.2.0.20");
    conf["ipam"]["rangeEnd"] = json!("10.2.0.21");
    conf["ipam"]["gateway"] = json!("10.2.0.254");
    conf["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "10.1.0.0/24", "gateway": "10.1.0.9"}]]});
    let result = run("ADD", &conf, "c1").ok();
    assert_eq!(addresses(&result), ["10.1.0.1/24", "10.2.0.20/24", "10.3.0.2/24", "10.4.0.2/24"]);
    assert_eq!(result["ips"][0]["gateway"], "10.1.0.9");
    assert_eq!(result["ips"][1]["gateway"], "10.2.0.254");
    assert_eq!(result["interfaces"], Value::Null);
    run("CHECK", &conf, "c1").ok();
}

#[test]
fn the_second_range_of_a_set_is_used_when_the_first_is_full() {
    let bed = Bed::new();
    let conf =
        bed.conf(&json!([[{"subnet": "10.1.0.0/30"}, {"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.7"}]]));
    assert_eq!(add(&conf, "c1"), ["10.1.0.2/30"]);
    let result = run("ADD", &conf, "c2").ok();
    assert_eq!(addresses(&result), ["10.9.0.7/24"]);
    assert_eq!(result["ips"][0]["gateway"], "10.9.0.1");
}

#[test]
fn requested_addresses_are_given_or_explained() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]));
    let with = |extra: Value| {
        let mut conf = conf.clone();
        for (key, value) in extra.as_object().unwrap() {
            conf[key] = value.clone();
        }
        conf
    };
    let both =
        with(json!({"args": {"cni": {"ips": ["fd00::77/64"]}}, "runtimeConfig": {"ips": ["10.1.0.77"]}}));
    assert_eq!(add(&both, "c1"), ["10.1.0.77/24", "fd00::77/64"]);
    let by_args = call("ADD", &conf, "c2").env("CNI_ARGS", "IgnoreUnknown=1;IP=10.1.0.50/24").run();
    assert_eq!(addresses(&by_args.ok()), ["10.1.0.50/24", "fd00::78/64"]);
    assert_eq!(add(&conf, "c3")[0], "10.1.0.51/24", "a requested address moves the hint, too");

    let held = bed.leases();
    for (ips, code, words) in [
        (
            json!(["10.1.0.77"]),
            11,
            "requested IP address 10.1.0.77 is not available in range set 10.1.0.1-10.1.0.254",
        ),
        (json!(["10.1.0.77"]), 11, "it is held by eth0 of container c1"),
        (json!(["10.1.0.1"]), 7, "requested ip 10.1.0.1 is subnet's gateway"),
        (json!(["10.7.0.1"]), 7, "failed to allocate all requested IPs: 10.7.0.1"),
        (json!(["10.1.0.60", "10.1.0.61"]), 7, "failed to allocate all requested IPs: 10.1.0.61"),
        (json!(["10.1.0.60", "fd00::77"]), 11, "fd00::77"),
        (json!(["bogus"]), 7, "bogus"),
        (json!([""]), 7, "runtimeConfig.ips"),
        (json!([null]), 6, "runtimeConfig.ips[0]"),
        (json!("10.1.0.60"), 6, "runtimeConfig.ips"),
    ] {
        let why = run("ADD", &with(json!({"runtimeConfig": {"ips": ips}})), "c9").fails(code);
        assert!(why.contains(words), "{ips} → {why}");
        assert_eq!(bed.leases(), held, "{ips}: nothing is leased by a failed ADD");
    }
}

#[test]
fn an_attachment_has_one_lease_a_set_however_it_asks() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    add(&conf, "c1");
    let held = bed.leases();
    let mut other = conf.clone();
    other["runtimeConfig"] = json!({"ips": ["10.1.0.99"]});
    for conf in [&conf, &other] {
        let why = run("ADD", conf, "c1").fails(101);
        assert!(
            why.contains("10.1.0.2 has been allocated to c1, duplicate allocation is not allowed"),
            "{why}"
        );
        assert_eq!(bed.leases(), held);
    }
    // Another interface of the container is another attachment.
    call("ADD", &conf, "c1").attachment("c1", "eth1").run().ok();
    run("DEL", &conf, "c1").ok();
    assert_eq!(bed.leases(), [("net/10.1.0.3".to_owned(), "c1\r\neth1".to_owned())].into());
}

#[test]
fn all_sets_or_none() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/30"}]]));
    add(&conf, "c1");
    let held = snapshot::files(&bed.dir());
    let why = run("ADD", &conf, "c2").fails(11);
    assert!(why.contains("failed to allocate for range 1"), "{why}");
    assert_eq!(snapshot::files(&bed.dir()), held, "neither a lease nor a hint has changed");
}

#[test]
fn leases_of_old_releases_are_known_by_their_container() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    bed.put("10.1.0.20", "old");
    bed.put("10.1.0.21", "old2\n");
    run("CHECK", &conf, "old").ok();
    assert!(run("ADD", &conf, "old").fails(101).contains("10.1.0.20 has been allocated to old"));
    run("DEL", &conf, "old").ok();
    assert_eq!(bed.leases().len(), 1);
    // With a lease by its full name, an old one of the same container is another interface's.
    bed.put("10.1.0.22", "old2\r\neth0");
    run("DEL", &conf, "old2").ok();
    assert_eq!(bed.leases(), [("net/10.1.0.21".to_owned(), "old2\n".to_owned())].into());
}

#[test]
fn a_container_called_like_a_hint_or_lock_frees_neither() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    add(&conf, "c1");
    let held = snapshot::files(&bed.dir());
    for id in ["10.1.0.2", "lock", "last_reserved_ip.0"] {
        run("DEL", &conf, id).ok();
        assert_eq!(snapshot::files(&bed.dir()), held, "{id}");
    }
}

#[test]
fn files_of_others_are_let_be_and_block_nobody_for_ever() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/29"}]]));
    bed.put("10.1.0.2", "");
    bed.put("10.1.0.3", "not a lease at all");
    bed.put("notes.txt", "c1\r\neth0");
    std::fs::create_dir(bed.dir().join("10.1.0.4")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", bed.dir().join("10.1.0.5")).unwrap();
    assert_eq!(add(&conf, "c1"), ["10.1.0.6/29"], "what looks taken is not handed out");
    run("DEL", &conf, "c1").ok();
    assert!(bed.dir().join("notes.txt").exists());

    let mut with_list = conf.clone();
    with_list["cni.dev/valid-attachments"] = json!([]);
    let answer = run("GC", &with_list, "none");
    for words in
        ["freed 10.1.0.2, held by nobody known (the file is empty)", "freed 10.1.0.3", "freed 10.1.0.5"]
    {
        assert!(answer.stderr.contains(words), "{}", answer.stderr);
    }
    assert!(Path::new("/etc/hostname").exists(), "the link went, not what it led to");
    let left: HashSet<String> = std::fs::read_dir(bed.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        left.contains("notes.txt") && left.contains("lock") && left.contains("last_reserved_ip.0"),
        "{left:?}"
    );
    assert!(left.contains("10.1.0.4"), "a folder is no lease");
}

/// Whoever may write to the folder can keep nobody waiting, with the network's lock held, nor make us read
/// without end.
#[test]
fn what_is_planted_where_we_look_is_not_waited_for() {
    let planted = [
        "last_reserved_ip.0",
        ".freed",
        ".boot",
        ".index",
        ".index.new",
        ".lease.new",
        "10.1.0.2",
        "::ffff:10.1.0.2",
    ];
    for name in planted {
        for to in [None, Some("/dev/zero"), Some("../fifo")] {
            let bed = Bed::new();
            let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
            conf["ipam"]["quarantineSeconds"] = json!(60);
            let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            std::fs::create_dir_all(bed.dir()).unwrap();
            let place = bed.dir().join(name);
            fifo(&bed.data.path().join("fifo"));
            match to {
                None => fifo(&place),
                Some(to) => std::os::unix::fs::symlink(to, &place).unwrap(),
            }
            conf["ipam"]["reclaimAfterReboot"] = json!(true);
            call("ADD", &conf, "c1").limit(PATIENCE).run().ok();
            call("CHECK", &conf, "c1").limit(PATIENCE).run().ok();
            call("DEL", &conf, "c1").limit(PATIENCE).run().ok();
            let left = bed.leases().into_iter().filter(|(_, text)| text.starts_with("c1")).count();
            assert_eq!(left, 0, "{name} {to:?}");
        }
    }
    let bed = Bed::new();
    let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    for path in ["/dev/zero", "/proc/self/fd"] {
        conf["ipam"]["resolvConf"] = json!(path);
        let why = call("ADD", &conf, "c1").limit(PATIENCE).run().fails(5);
        assert!(why.contains("ipam.resolvConf") && why.contains("no regular file"), "{why}");
    }
}

#[test]
fn an_address_in_the_spelling_of_the_other_family_is_no_lease_and_no_loop() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/29"}]]));
    bed.put("10.1.0.2", "a\r\neth0");
    bed.put("::ffff:10.1.0.2", "b\r\neth0");
    bed.put("::ffff:10.1.0.4", "b\r\neth0");
    bed.put("10.1.0.3", "c\r\neth0");
    let answer = call("ADD", &conf, "new").limit(PATIENCE).run();
    assert_eq!(addresses(&answer.ok()), ["10.1.0.4/29"]);
}

#[test]
fn gc_frees_what_no_valid_attachment_owns() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]));
    for id in ["alive", "dead1", "dead2"] {
        add(&conf, id);
    }
    call("ADD", &conf, "alive").attachment("alive", "eth1").run().ok();
    bed.put("10.1.0.100", "alive");
    bed.put("10.1.0.101", "gone");
    let mut with_list = conf.clone();
    let why = run("GC", &with_list, "x").fails(7);
    assert!(why.contains("cni.dev/valid-attachments"), "{why}");
    assert_eq!(bed.leases().len(), 10);

    with_list["cni.dev/attachments"] = json!([{"containerID": "alive", "ifname": "eth0"}]);
    for _ in 0..2 {
        run("GC", &with_list, "x").ok();
        let left: Vec<String> = bed.leases().into_keys().collect();
        assert_eq!(left, ["net/10.1.0.100", "net/10.1.0.2", "net/fd00::2"]);
    }
}

#[test]
fn status_is_truthful_and_changes_nothing() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/30"}]]));
    run("STATUS", &conf, "x").ok();
    assert_eq!(std::fs::read_dir(bed.data.path()).unwrap().count(), 0, "not even the folder is made");
    add(&conf, "c1");
    // Nothing is broken: the next ADD fails, and the containers that run are well.
    let full = run("STATUS", &conf, "x");
    full.ok();
    assert!(full.stderr.contains("range 1") && full.stderr.contains("1 of 1"), "{}", full.dump());
    run("ADD", &conf, "c2").fails(11);

    let mut bad = conf.clone();
    let file = bed.data.path().join("file");
    write_file(&file, "", 0o600);
    bad["ipam"]["dataDir"] = json!(file.join("leases"));
    assert!(run("STATUS", &bad, "x").fails(50).contains(file.to_str().unwrap()));
    bad["ipam"]["ranges"] = json!([]);
    assert!(run("STATUS", &bad, "x").fails(50).contains("no IP ranges specified"));
}

#[test]
fn check_compares_with_the_result() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    let result = run("ADD", &conf, "c1").ok();
    add(&conf, "c2");
    conf["prevResult"] = result;
    run("CHECK", &conf, "c1").ok();
    // Addresses out of other plugins' ranges are theirs to check.
    conf["prevResult"]["ips"] = json!([{"address": "10.1.0.2/24"}, {"address": "192.168.7.7/24"}]);
    run("CHECK", &conf, "c1").ok();
    conf["prevResult"]["ips"] = json!([{"address": "10.1.0.3/24"}]);
    let why = run("CHECK", &conf, "c1").fails(100);
    assert!(
        why.contains("expected: eth0 of container c1") && why.contains("found: eth0 of container c2"),
        "{why}"
    );
}

#[test]
fn del_and_gc_work_with_a_config_that_is_broken_now() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    for (ranges, args) in [(json!([]), ""), (json!([[{"subnet": "x"}]]), "BAD"), (json!("x"), "A=B")] {
        add(&conf, "c1");
        call("DEL", &bed.conf(&ranges), "c1").env("CNI_ARGS", args).without("CNI_NETNS").run().ok();
        assert!(bed.leases().is_empty(), "{ranges}");
    }
}

#[test]
fn wrong_configs_are_refused_by_name() {
    let bed = Bed::new();
    let range = |extra: Value| {
        let mut range = json!({"subnet": "10.1.0.0/24"});
        for (key, value) in extra.as_object().unwrap() {
            range[key] = value.clone();
        }
        bed.conf(&json!([[range]]))
    };
    let mut no_ipam = bed.conf(&json!([]));
    no_ipam.as_object_mut().unwrap().remove("ipam");
    let old = |version: &str| {
        let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]));
        conf["cniVersion"] = json!(version);
        conf
    };
    let mut resolv = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    resolv["ipam"]["resolvConf"] = json!("/no/such/file");
    for (conf, code, words) in [
        (no_ipam, 7, "IPAM config missing 'ipam' key"),
        (bed.conf(&json!([])), 7, "no IP ranges specified"),
        (bed.conf(&json!([[]])), 7, "invalid range set 0: empty range set"),
        (bed.conf(&json!([[{}]])), 7, "invalid range set 0: invalid CIDR address"),
        (
            bed.conf(&json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/16"}]])),
            7,
            "range set 0 overlaps with 1",
        ),
        (
            bed.conf(&json!([[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]])),
            7,
            "mixed address families",
        ),
        (range(json!({"rangeStart": "10.2.0.1"})), 7, "RangeStart 10.2.0.1 not in network 10.1.0.0/24"),
        (range(json!({"rangeEnd": "10.2.0.1"})), 7, "RangeEnd 10.2.0.1 not in network"),
        (range(json!({"rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"})), 7, "comes after RangeEnd"),
        (range(json!({"gateway": "bogus"})), 7, "invalid IP address: bogus"),
        (range(json!({"gateway": "fd00::1"})), 7, "different families"),
        (range(json!({"subnet": "10.1.0.1/24"})), 7, "host bits set"),
        (range(json!({"subnet": "10.1.0.0/31"})), 7, "too small"),
        (range(json!({"subnet": 5})), 6, "ipam.ranges[0][0].subnet"),
        (bed.conf(&json!({})), 6, "ipam.ranges"),
        (old("0.2.0"), 7, "CNI version 0.2.0 does not support more than 1 address per family"),
        (resolv, 5, "/no/such/file"),
    ] {
        let why = run("ADD", &conf, "c1").fails(code);
        assert!(why.contains(words), "{conf} → {why}");
        assert_eq!(std::fs::read_dir(bed.data.path()).unwrap().count(), 0, "{conf}");
    }
    add(&old("0.3.0"), "c1");
}

#[test]
fn what_the_file_system_refuses_is_said() {
    let bed = Bed::new();
    let file = bed.data.path().join("file");
    write_file(&file, "", 0o600);
    let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    conf["ipam"]["dataDir"] = json!(file);
    let why = run("ADD", &conf, "c1").fails(5);
    assert!(why.contains(file.to_str().unwrap()), "{why}");
}

#[test]
fn a_result_that_nobody_takes_gives_the_lease_back() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    let script = format!(
        "printf %s '{conf}' | CNI_PATH=/x CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=/x {} >/dev/full",
        cni_harness::bin_dir().join("host-local").display()
    );
    let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(bed.leases().is_empty());
}

#[test]
fn many_at_once_get_addresses_of_their_own_and_share_with_the_reference() {
    const PODS: usize = 48;
    let bed = Bed::new();
    let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    conf["cniVersion"] = json!("1.0.0");
    let reference = reference_dir();
    let calls: Vec<Call> = (0..PODS)
        .map(|n| {
            let call = if n % 2 == 0 { Call::new("host-local") } else { Call::of(&reference, "host-local") };
            call.command("ADD", &conf)
                .attachment(&format!("c{n}"), "eth0")
                .env("CNI_NETNS", "/run/netns/none")
        })
        .collect();
    let given: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = calls.iter().map(|call| scope.spawn(|| addresses(&call.run().ok()))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(given.iter().collect::<HashSet<_>>().len(), PODS);
    assert_eq!(bed.leases().len(), PODS);
    // Each frees what the other gave.
    for n in 0..PODS {
        let call = if n % 2 == 1 { Call::new("host-local") } else { Call::of(&reference, "host-local") };
        call.command("DEL", &conf).attachment(&format!("c{n}"), "eth0").run().ok();
    }
    assert!(bed.leases().is_empty());
}

/// Since 1.10.0 the reference has GC. It deletes each file that is neither a living attachment's lease nor a file of its own: our index, too.
#[test]
fn the_references_gc_may_come_between() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/29"}]]));
    for id in ["c1", "c2", "c3"] {
        add(&conf, id);
    }
    assert!(bed.dir().join(".index").exists());
    conf["cni.dev/valid-attachments"] =
        json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c3", "ifname": "eth0"}]);
    Call::of(&reference_dir(), "host-local").command("GC", &conf).run().ok();
    assert_eq!(bed.leases().into_keys().collect::<Vec<_>>(), ["net/10.1.0.2", "net/10.1.0.4"]);
    assert!(
        !bed.dir().join(".index").exists(),
        "their GC does not touch our index any more: say so in the README"
    );
    for (id, want) in [("c4", "10.1.0.5/29"), ("c5", "10.1.0.6/29"), ("c6", "10.1.0.3/29")] {
        assert_eq!(add(&conf, id), [want], "none that is held, each that is free");
    }
    run("ADD", &conf, "c7").fails(11);
    for id in ["c1", "c3", "c4", "c5", "c6"] {
        run("DEL", &conf, id).ok();
    }
    assert!(bed.leases().is_empty());
}

#[test]
fn a_torn_write_aside_is_replaced_or_removed() {
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    bed.put(".lease.new", "half");
    assert_eq!(add(&conf, "c1"), ["10.1.0.2/24"]);
    assert!(!bed.dir().join(".lease.new").exists());
    // Killed between link and unlink, it is a second name of a good lease, which must not change.
    std::fs::hard_link(bed.dir().join("10.1.0.2"), bed.dir().join(".lease.new")).unwrap();
    add(&conf, "c2");
    assert_eq!(bed.leases()["net/10.1.0.2"], "c1\r\neth0");
    assert_eq!(std::fs::metadata(bed.dir().join("10.1.0.2")).unwrap().permissions().mode() & 0o777, 0o600);
    // Nor is it left when no ADD comes any more.
    for aside in [".lease.new", ".index.new"] {
        bed.put(aside, "half");
    }
    Call::new("host-local").command("DEL", &conf).attachment("nobody", "eth0").run().ok();
    assert!(!bed.dir().join(".lease.new").exists() && !bed.dir().join(".index.new").exists());
    assert_eq!(bed.leases().len(), 2);
}

#[test]
fn the_view_shows_what_is_there_and_what_is_gone() {
    let _host = cni_harness::Host::enter();
    let bed = Bed::new();
    let conf = bed.conf(&json!([[{"subnet": "10.1.0.0/24"}]]));
    add(&conf, "gone");
    add(&conf, "nobody-knows");
    bed.put("10.1.0.9", "");
    // One whose veth is there, made by our bridge plugin.
    let pod = cni_harness::Container::new();
    let mut attached = conf.clone();
    attached["bridge"] = json!("br1");
    Call::new("bridge").command("ADD", &attached).attachment("alive", "eth0").netns(&pod).run().ok();
    let results = tempfile::tempdir().unwrap();
    write_file(
        &results.path().join("net-gone-eth0"),
        r#"{"kind":"cniCacheV1","netns":"/run/netns/gone"}"#,
        0o600,
    );

    let view = |args: &[&str]| {
        let mut command = std::process::Command::new(cni_harness::bin_dir().join("host-local"));
        command.arg("leases").arg("--data-dir").arg(bed.data.path()).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let before = snapshot::files(bed.data.path());
    let text = view(&["--check-netns", "--results-dir", results.path().to_str().unwrap()]);
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NETWORK", "ADDRESS", "CONTAINER", "INTERFACE", "SINCE", "STATE"]);
    assert_eq!((&lines[1][..4], lines[1][5]), (&["net", "10.1.0.2", "gone", "eth0"][..], "gone"));
    assert_eq!((&lines[2][1..4], lines[2][5]), (&["10.1.0.3", "nobody-knows", "eth0"][..], "unknown"));
    assert_eq!((&lines[3][1..4], lines[3][5]), (&["10.1.0.4", "alive", "eth0"][..], "alive"));
    assert!(text.contains("(the file is empty)"), "{text}");
    let json: Value = serde_json::from_str(&view(&["--json", "--network", "net"])).unwrap();
    assert_eq!(json["leases"][0]["container"], "gone");
    assert_eq!(json["leases"].as_array().unwrap().len(), 4);
    let list = results.path().join("net.conflist");
    let text =
        json!({"cniVersion": "1.0.0", "name": "net", "plugins": [attached, {"type": "portmap"}]}).to_string();
    write_file(&list, text, 0o600);
    let text = view(&["--config", list.to_str().unwrap()]);
    assert!(text.contains("net: 4 of 253 addresses in use of 10.1.0.1-10.1.0.254"), "{text}");
    assert_eq!(snapshot::files(bed.data.path()), before, "a view changes nothing");
    assert!(view(&["--network", "other"]).lines().count() == 1);
    for text in ["", "[]", "\"x\"", "{\"plugins\": [7, {\"ipam\": {\"type\": \"host-local\"}}]}"] {
        write_file(&list, text, 0o600);
        let mut command = std::process::Command::new(cni_harness::bin_dir().join("host-local"));
        let output =
            command.arg("leases").arg("--data-dir").arg(bed.data.path()).arg("--config").arg(&list).output();
        let output = output.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains("net.conflist"), "{text}: {stderr}");
    }
}

#[test]
fn a_quarantined_address_is_chosen_last() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/29"}]]));
    conf["ipam"]["quarantineSeconds"] = json!(3600);
    for (id, want) in [("c1", "10.1.0.2/29"), ("c2", "10.1.0.3/29"), ("c3", "10.1.0.4/29")] {
        assert_eq!(add(&conf, id), [want]);
    }
    // Round robin alone would go on with 5, 6, and then 2.
    run("DEL", &conf, "c1").ok();
    bed.put("last_reserved_ip.0", "10.1.0.1");
    assert_eq!(add(&conf, "c4"), ["10.1.0.5/29"], "10.1.0.2 was freed a moment ago");
    assert_eq!(add(&conf, "c5"), ["10.1.0.6/29"]);
    assert_eq!(add(&conf, "c6"), ["10.1.0.2/29"], "nothing else is left");
    assert!(run("ADD", &conf, "c7").fails(11).contains("5 of 5"));
    // Long enough ago.
    run("DEL", &conf, "c6").ok();
    bed.put(".freed", "1000000000 10.1.0.2\nnonsense\n");
    bed.put("last_reserved_ip.0", "10.1.0.1");
    assert_eq!(add(&conf, "c8"), ["10.1.0.2/29"]);
    conf["ipam"]["quarantineSeconds"] = json!(-1);
    assert!(run("ADD", &conf, "c9").fails(6).contains("quarantineSeconds"));
    run("DEL", &conf, "c8").ok();
}

#[test]
fn leases_of_an_earlier_boot_are_freed_when_asked_for() {
    let bed = Bed::new();
    let mut conf = bed.conf(&json!([[{"subnet": "10.1.0.0/29"}]]));
    for id in ["old1", "old2", "new"] {
        add(&conf, id);
    }
    for name in ["10.1.0.2", "10.1.0.3"] {
        let touched =
            std::process::Command::new("touch").args(["-d", "2001-01-01"]).arg(bed.dir().join(name)).status();
        assert!(touched.unwrap().success());
    }
    add(&conf, "c1");
    assert_eq!(bed.leases().len(), 4, "not unless asked for");
    conf["ipam"]["reclaimAfterReboot"] = json!(true);
    run("STATUS", &conf, "x").ok();
    let answer = run("ADD", &conf, "c2");
    answer.ok();
    assert!(answer.stderr.contains("freed 10.1.0.2, held by eth0 of container old1"), "{}", answer.stderr);
    let holders: Vec<String> = bed.leases().into_values().collect();
    assert_eq!(holders, ["new\r\neth0", "c1\r\neth0", "c2\r\neth0"]);
    // Once a boot: what looks old later was not there before.
    let touched = std::process::Command::new("touch")
        .args(["-d", "2001-01-01"])
        .arg(bed.dir().join("10.1.0.4"))
        .status();
    assert!(touched.unwrap().success());
    run("DEL", &conf, "c2").ok();
    add(&conf, "c3");
    run("CHECK", &conf, "new").ok();
}
