//! Hundreds of containers at once. They keep the kernel busy for seconds, for all namespaces of the machine, so
//! no other test runs beside these.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "it/bed.rs"]
#[allow(dead_code, reason = "shared with the other test programs")]
mod bed;

use bed::{Bed, call, check, del};
use cni_harness::{Answer, Call, Container, Snapshot, raise_file_limit};
use serde_json::{Value, json};
use std::collections::HashSet;

#[test]
fn many_adds_at_once_on_a_fresh_machine_all_succeed() {
    const PODS: usize = 40;
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true, "isDefaultGateway": true}));
    let pods: Vec<Container> = (0..PODS).map(|_| Container::new()).collect();
    let calls: Vec<Call> =
        pods.iter().enumerate().map(|(n, pod)| call("ADD", &conf, &format!("c{n}"), pod)).collect();
    // The threads inherit this test's namespace.
    let results: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = calls.iter().map(|call| scope.spawn(|| call.run().ok())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let addresses: HashSet<String> =
        results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
    assert_eq!(addresses.len(), PODS);
    let bridges = Snapshot::take().links.values().filter(|link| link.contains("\"bridge\"")).count();
    assert_eq!(bridges, 1);
    let mac = bed.host.ip("-br link show br1");
    for (n, (result, pod)) in results.iter().zip(&pods).enumerate() {
        assert!(mac.contains(result["interfaces"][0]["mac"].as_str().unwrap()), "{mac} {result}");
        check(&conf, result, &format!("c{n}"), pod).ok();
        del(&conf, &format!("c{n}"), pod).ok();
    }
    assert!(bed.leases().is_empty());
}

/// A node that boots starts hundreds of pods at once, and nothing is there yet.
#[test]
fn three_hundred_at_once_on_a_machine_with_nothing() {
    const MANY: usize = 300;
    raise_file_limit();
    let bed = Bed::new();
    let conf = bed.conf(&json!({"ipMasq": true, "isDefaultGateway": true, "macspoofchk": true,
                                "ipam": bed.ipam(&json!([[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00:1::/64"}]]))}));
    let pods: Vec<Container> = (0..MANY).map(|_| Container::new()).collect();
    let calls: Vec<_> =
        pods.iter().enumerate().map(|(n, pod)| call("ADD", &conf, &format!("c{n}"), pod)).collect();
    // With the routes that the container has at the moment when its ADD is done.
    let add = |(call, pod): (&Call, &Container)| (call.run(), pod.ip("-6 route show table local"));
    let answers: Vec<(Answer, String)> = std::thread::scope(|scope| {
        let running: Vec<_> = calls.iter().zip(&pods).map(|each| scope.spawn(move || add(each))).collect();
        running.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    let here = bed.host.ip("-6 route show table local");
    assert!(here.contains("local fd00:1::1 dev br1 "), "packets to the gateway do not arrive yet: {here}");
    let links = bed.host.ip("-o link");
    assert_eq!(links.lines().filter(|line| line.contains("master br1")).count(), MANY);
    let mac_of = |text: &str| {
        text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next().map(ToOwned::to_owned))
    };
    let bridge = mac_of(&bed.host.ip("-o link show br1"));
    let mut addresses = HashSet::new();
    for ((answer, local), pod) in answers.iter().zip(&pods) {
        let result = answer.ok();
        let ip = result["ips"][1]["address"].as_str().unwrap().trim_end_matches("/64").to_owned();
        assert!(local.contains(&format!("local {ip} ")), "packets to {ip} do not arrive yet: {local}");
        assert_eq!(result["interfaces"][0]["mac"].as_str(), bridge.as_deref());
        assert_eq!(result["interfaces"][2]["mac"].as_str(), mac_of(&pod.ip("-o link show eth0")).as_deref());
        for ip in result["ips"].as_array().unwrap() {
            assert!(addresses.insert(ip["address"].to_string()), "{ip} twice");
        }
    }
    assert_eq!(addresses.len(), 2 * MANY);
    assert!(pods[MANY - 1].pings("10.1.0.1") && pods[0].pings("fd00:1::1"));
    assert_eq!(Snapshot::take().rules.matches("comment \"cni/net1/c").count(), 4 * MANY);
}
