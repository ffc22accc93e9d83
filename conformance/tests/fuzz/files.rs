//! What lies in the folders of state.

use crate::{Bed, answered, corpus, how_much};
use cni_common::runtime::Cache;
use cni_common::spec::Attachment;
use cni_harness::fuzz::{Dice, fuzz, mutate};
use cni_harness::{leases, write_file};
use host_local::HostLocal;
use kubenet_shim::plugin::KubenetShim;
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

#[test]
fn leases_and_hints() {
    let bed = Bed::new();
    let conf = bed.conf("host-local").to_string();
    let known =
        [corpus("lease"), vec![b"c1\r\neth0".to_vec(), b"c1\neth0".to_vec(), b"10.1.0.9".to_vec()]].concat();
    let make = |dice: &mut Dice| {
        let name = (*dice.pick(&[
            "10.1.0.9",
            "10.1.0.10",
            "fd00:1::9",
            "last_reserved_ip.0",
            "lock",
            "10.1.0.300",
            "junk",
        ]))
        .to_owned();
        let command = *dice.pick(&["ADD", "DEL", "CHECK", "GC", "STATUS"]);
        (command, name, String::from_utf8_lossy(&mutate(dice, &known)).into_owned())
    };
    let folder = bed.path("leases/net");
    std::fs::create_dir_all(&folder).unwrap();
    fuzz("lease files", how_much(), make, |(command, name, text)| {
        write_file(&folder.join(name), text, 0o600);
        let _ = answered(&HostLocal, &bed.env(command), conf.as_bytes());
        std::fs::remove_file(folder.join(name)).unwrap_or_default();
    });
}

/// An index that the folder vouches for, whatever it says: no address may be handed out twice for it, and no lease lost.
#[test]
fn index() {
    let bed = Bed::new();
    let mut conf = bed.conf("host-local");
    conf["args"] = json!({});
    conf["cni.dev/valid-attachments"] =
        json!([{"containerID": "c7", "ifname": "eth0"}, {"containerID": "c8", "ifname": "eth0"}]);
    let conf = conf.to_string();
    let env = |command: &str, id: &str| {
        let mut env = bed.env(command);
        env[1].1 = id.as_bytes().to_vec();
        env[5].1.clear();
        env
    };
    let folder = bed.path("leases/net");
    for id in ["c7", "c8"] {
        // As a process does it, so that it stays.
        let env: cni_common::plugin::Env =
            env("ADD", id).into_iter().map(|(key, value)| (key, String::from_utf8(value).unwrap())).collect();
        let reply = cni_common::plugin::serve(&HostLocal, &env, &mut conf.as_bytes());
        assert!(reply.ok, "{}", reply.stdout);
        reply.commit();
    }
    let index = folder.join(".index");
    let right = std::fs::read(&index).unwrap();
    let token = std::fs::metadata(&folder).unwrap();
    let token = SystemTime::UNIX_EPOCH
        + Duration::new(token.mtime().try_into().unwrap(), token.mtime_nsec().try_into().unwrap());
    let held = leases(&bed.path("leases"));
    let make = |dice: &mut Dice| {
        (*dice.pick(&["ADD", "DEL", "CHECK", "GC", "STATUS"]), mutate(dice, std::slice::from_ref(&right)))
    };
    fuzz("index", how_much(), make, |(command, bytes)| {
        write_file(&index, bytes, 0o600);
        std::fs::File::open(&folder).unwrap().set_modified(token).unwrap();
        let _ = answered(&HostLocal, &env(command, "c9"), conf.as_bytes());
        assert_eq!(leases(&bed.path("leases")), held);
    });
}

#[test]
fn resolver_settings() {
    let bed = Bed::new();
    let conf = bed.conf("host-local").to_string();
    let known = [
        corpus("resolv"),
        vec![
            b"nameserver 10.1.0.1\nsearch example.org a.example\noptions ndots:5\ndomain example.org\n"
                .to_vec(),
        ],
    ]
    .concat();
    fuzz(
        "resolv.conf",
        how_much(),
        |dice| mutate(dice, &known),
        |bytes| {
            write_file(&bed.path("resolv.conf"), bytes, 0o600);
            let _ = answered(&HostLocal, &bed.env("ADD"), conf.as_bytes());
        },
    );
}

/// What kubenet-shim keeps of pods, and libcni's cache, which has the same form.
#[test]
fn results_kept() {
    let bed = Bed::new();
    let conf = bed.conf("kubenet-shim");
    let results = bed.path("state/results");
    std::fs::create_dir_all(&results).unwrap();
    let entry = json!({"kind": "cniCacheV1", "containerId": "c1", "config": "eyJjbmlWZXJzaW9uIjoiMS4xLjAifQ==", "ifName": "eth0", "networkName": "net",
        "netns": bed.pod.path(), "cniArgs": [["K8S_POD_NAME", "web"]], "capabilityArgs": {"bandwidth": {"ingressRate": 1}}, "result": conf["prevResult"]});
    let known = [corpus("cache"), vec![entry.to_string().into_bytes()]].concat();
    let cache = Cache::new(&bed.path("state"));
    let attachment = Attachment {
        network: "net".try_into().unwrap(),
        container_id: "c1".try_into().unwrap(),
        ifname: "eth0".try_into().unwrap(),
    };
    let make = |dice: &mut Dice| {
        let name = *dice.pick(&["results/net-c1-eth0", "results/kubenet-c1-eth0", "pod-cidr", "results/x"]);
        (
            *dice.pick(&["DEL", "CHECK", "GC", "STATUS"]),
            name,
            String::from_utf8_lossy(&mutate(dice, &known)).into_owned(),
        )
    };
    fuzz("result cache", how_much(), make, |(command, name, text)| {
        write_file(&bed.path("state").join(name), text, 0o600);
        drop(cache.load(&attachment));
        drop(cache.of_network("net").unwrap());
        let _ = answered(&KubenetShim, &bed.env(command), conf.to_string().as_bytes());
        std::fs::remove_file(bed.path("state").join(name)).unwrap_or_default();
    });
}
