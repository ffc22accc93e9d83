//! Results between all pairs of versions, through text as plugins and runtimes exchange it.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use cni_common::spec::{SpecVersion, Success, compat};
use serde_json::{Value, json};

/// A result with everything in it, in 1.1.0's shape.
fn full() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "br0", "mac": "02:00:00:00:00:01", "mtu": 1500},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1400, "sandbox": "/run/netns/a",
             "socketPath": "/s", "pciID": "0000:01:02.3"}
        ],
        "ips": [
            {"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1},
            {"address": "fd00::3/64", "gateway": "fd00::1", "interface": 0},
            {"address": "10.9.9.9/24"}
        ],
        "routes": [
            {"dst": "0.0.0.0/0", "gw": "10.1.2.1", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 0, "scope": 0},
            {"dst": "::/0"}
        ],
        "dns": {"nameservers": ["10.1.2.1"], "domain": "d", "search": ["s"], "options": ["o"]}
    })
}

/// What is left of [`full`] in `version`.
fn in_version(version: SpecVersion) -> Value {
    let mut result = full();
    result["cniVersion"] = json!(version.as_str());
    if version < SpecVersion::V1_1_0 {
        for interface in result["interfaces"].as_array_mut().unwrap() {
            for key in ["mtu", "socketPath", "pciID"] {
                interface.as_object_mut().unwrap().remove(key);
            }
        }
    }
    if version < SpecVersion::V1_0_0 {
        for ip in result["ips"].as_array_mut().unwrap() {
            let family = if ip["address"].as_str().unwrap().contains(':') { "6" } else { "4" };
            ip["version"] = json!(family);
        }
    }
    if version < SpecVersion::V0_3_0 {
        return json!({
            "cniVersion": version.as_str(),
            "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]},
            "ip6": {"ip": "fd00::3/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]},
            "dns": full()["dns"]
        });
    }
    result
}

fn parse(document: &Value) -> Success {
    compat::from_json(document, SpecVersion::V0_1_0).unwrap()
}

fn print(success: &Success, version: SpecVersion) -> Value {
    serde_json::from_str(&compat::to_json(success, version).unwrap()).unwrap()
}

#[test]
fn each_version_reads_what_it_prints() {
    for version in SpecVersion::ALL {
        let document = in_version(version);
        assert_eq!(print(&parse(&document), version), document, "{version}");
    }
}

#[test]
fn all_pairs_convert_and_lose_only_what_the_target_has_no_room_for() {
    for from in SpecVersion::ALL {
        for to in SpecVersion::ALL {
            let got = print(&parse(&in_version(from)), to);
            // Going up, what the source never had stays away.
            let want = if from < to { strip(&in_version(to), from) } else { in_version(to) };
            assert_eq!(got, want, "{from} → {to}");
        }
    }
}

/// A document without what a result of the older version `had` could not tell.
fn strip(document: &Value, had: SpecVersion) -> Value {
    let mut result = document.clone();
    if result.get("ips").is_none() {
        return result;
    }
    if had < SpecVersion::V1_1_0 {
        for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
            for key in ["mtu", "socketPath", "pciID"] {
                interface.as_object_mut().unwrap().remove(key);
            }
        }
    }
    if had < SpecVersion::V0_3_0 {
        result.as_object_mut().unwrap().remove("interfaces");
        let ips = result["ips"].as_array_mut().unwrap();
        ips.truncate(2);
        for ip in ips {
            ip.as_object_mut().unwrap().remove("interface");
        }
        result["routes"][0] = json!({"dst": "0.0.0.0/0", "gw": "10.1.2.1"});
    }
    result
}

#[test]
fn what_another_plugin_said_beyond_its_version_is_passed_on_and_ours_is_not() {
    let interface = json!({"name": "eth0", "mtu": 1500, "pciID": "0000:00:1f.6", "socketPath": "/run/x"});
    let result = json!({"cniVersion": "1.0.0", "interfaces": [interface]});
    assert_eq!(print(&parse(&result), SpecVersion::V1_0_0), result);
    let ours = json!({"cniVersion": "1.1.0", "interfaces": [interface]});
    assert_eq!(print(&parse(&ours), SpecVersion::V1_0_0)["interfaces"], json!([{"name": "eth0"}]));
}

#[test]
fn what_is_empty_is_left_out_but_old_dns() {
    for (version, want) in [
        ("0.3.1", json!({"cniVersion": "0.3.1", "dns": {}})),
        ("1.0.0", json!({"cniVersion": "1.0.0"})),
        ("1.1.0", json!({"cniVersion": "1.1.0"})),
    ] {
        assert_eq!(print(&Success::default(), SpecVersion::parse(version).unwrap()), want);
    }
    for version in [SpecVersion::V0_1_0, SpecVersion::V0_2_0] {
        let error = compat::to_json(&Success::default(), version).unwrap_err();
        assert!(error.msg().contains("cannot convert: no valid IP addresses"));
    }
}

#[test]
fn keys_stand_in_the_order_that_the_reference_prints() {
    let order = |version| {
        let text = compat::to_json(&parse(&full()), version).unwrap();
        let keys: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with("    \""))
            .map(|line| line.split('"').nth(1).unwrap().to_owned())
            .collect();
        keys.join(" ")
    };
    assert_eq!(order(SpecVersion::V0_2_0), "cniVersion ip4 ip6 dns");
    assert_eq!(order(SpecVersion::V0_4_0), "cniVersion interfaces ips routes dns");
    assert_eq!(order(SpecVersion::V1_0_0), "cniVersion dns interfaces ips routes");
}

#[test]
fn the_version_inside_decides_and_a_strange_one_is_refused() {
    let bare = json!({"ips": [{"address": "10.0.0.5/24"}]});
    assert_eq!(compat::from_json(&bare, SpecVersion::V1_0_0).unwrap().ips.len(), 1);
    for (document, code) in [
        (json!({"cniVersion": "3.0.0"}), 1),
        (json!({"cniVersion": 1}), 6),
        (json!({"cniVersion": "1.0.0", "ips": {}}), 6),
        (json!({"cniVersion": "1.0.0", "ips": [{"gateway": "10.0.0.1"}]}), 6),
        (json!({"cniVersion": "1.0.0", "routes": [{"gw": "10.0.0.1"}]}), 6),
        (json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.5"}}), 6),
        (json!([]), 6),
        (json!("x"), 6),
    ] {
        let error = compat::from_json(&document, SpecVersion::V1_0_0).unwrap_err();
        assert_eq!(error.code.0, code, "{document} → {error}");
    }
}

#[test]
fn ipv4_mapped_addresses_are_printed_as_ipv4() {
    let result = json!({"cniVersion": "1.0.0", "ips": [{"address": "::ffff:10.0.0.5/120", "gateway": "::ffff:10.0.0.1"}]});
    let printed = print(&parse(&result), SpecVersion::V1_0_0);
    assert_eq!(printed["ips"][0], json!({"address": "10.0.0.5/24", "gateway": "10.0.0.1"}));
}
