//! Texts that are read without a plugin around: lists of configs, results, errors, amounts, addresses.

use crate::{Bed, corpus, how_much};
use cni_common::runtime::ConfList;
use cni_common::spec::{Error, SpecVersion, addr, compat, json as spec_json};
use cni_harness::fuzz::{Dice, fuzz, mutate, mutate_json};
use serde_json::json;

#[test]
fn lists_of_configs() {
    let bed = Bed::new();
    let right = json!({"cniVersion": "1.1.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "net", "disableCheck": false, "disableGC": false,
        "loadOnlyInlinedPlugins": true, "plugins": [bed.conf("bridge"), {"type": "portmap", "capabilities": {"portMappings": true}}]});
    let mut known = corpus("conflist");
    known.push(right.to_string().into_bytes());
    let make = |dice: &mut Dice| {
        if dice.roll(2) == 0 {
            mutate(dice, &known)
        } else {
            mutate_json(dice, &right).to_string().into_bytes()
        }
    };
    fuzz("conflist", how_much(), make, |bytes| {
        if let Ok(list) = ConfList::parse(bytes) {
            let _ = list.types().count();
        }
        drop(ConfList::parse_single(bytes));
    });
}

#[test]
fn results_and_errors() {
    let bed = Bed::new();
    let result = bed.conf("bridge")["prevResult"].clone();
    let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.9/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]}, "ip6": {"ip": "fd00:1::9/64"}, "dns": {}});
    let error = json!({"cniVersion": "1.1.0", "code": 11, "msg": "try again", "details": "later"});
    let rights = [result, old, error];
    let known: Vec<Vec<u8>> =
        rights.iter().map(|right| right.to_string().into_bytes()).chain(corpus("result")).collect();
    let make = |dice: &mut Dice| {
        let right = dice.pick(&rights).clone();
        if dice.roll(2) == 0 {
            mutate(dice, &known)
        } else {
            mutate_json(dice, &right).to_string().into_bytes()
        }
    };
    fuzz("results and errors", how_much(), make, |bytes| {
        drop(Error::from_json(bytes));
        let Ok(document) = spec_json::parse(bytes) else { return };
        for version in ["0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let version = SpecVersion::parse(version).unwrap();
            drop(compat::from_json(&document, version).map(|success| compat::to_json(&success, version)));
        }
    });
}

#[test]
fn amounts_and_addresses() {
    let _bed = Bed::new();
    let known: Vec<Vec<u8>> = [
        "10M",
        "1.5Gi",
        "100m",
        "1e3",
        "10.1.0.0/24",
        "fd00::1/64",
        "::ffff:10.0.0.1",
        "02:00:00:00:00:01",
        "1.1.0",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    fuzz(
        "amounts and addresses",
        how_much(),
        |dice| String::from_utf8_lossy(&mutate(dice, &known)).into_owned(),
        |text| {
            drop(kubenet_shim::quantity::parse(text));
            drop(addr::parse_ip(text));
            drop(addr::parse_cidr(text));
            drop(text.parse::<cni_common::spec::MacAddr>());
            drop(SpecVersion::parse(text));
        },
    );
}
