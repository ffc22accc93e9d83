//! Who reaches a mapped port, and as whom.

use crate::bed::{BACKENDS, Bed, HOST, HOST_V6, Pod, add, at, check, conf, del, port};
use cni_harness::Container;
use cni_harness::traffic::{ask, serve};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Where a call comes from, and the address that it asks.
struct From<'a> {
    what: &'static str,
    container: Option<&'a Container>,
    to: &'static str,
}

/// Everyone who might ask, over both families.
fn callers<'a>(bed: &'a Bed, pod: &'a Pod, other: &'a Pod) -> Vec<From<'a>> {
    let from = |what, container, to| From { what, container, to };
    vec![
        from("another host", Some(&bed.peer), HOST),
        from("the host", None, HOST),
        from("localhost", None, "127.0.0.1"),
        from("the pod itself", Some(&pod.container), HOST),
        from("another pod", Some(&other.container), HOST),
        from("another host", Some(&bed.peer), HOST_V6),
        from("the host", None, HOST_V6),
        from("the pod itself", Some(&pod.container), HOST_V6),
        from("another pod", Some(&other.container), HOST_V6),
    ]
}

#[test]
fn every_caller_reaches_the_pod_as_the_table_says() {
    // hostIP → does a caller of this address get through?
    type Reached = fn(&str) -> bool;
    let host_ips: [(Value, Reached); 5] = [
        (json!(null), |_| true),
        (json!(HOST), |to| to == HOST),
        (json!(HOST_V6), |to| to == HOST_V6),
        (json!("0.0.0.0"), |to| !to.contains(':')),
        (json!("::"), |to| to.contains(':')),
    ];
    for backend in BACKENDS {
        for transport in crate::transports() {
            for extra in [json!({}), json!({"masqAll": true})] {
                let bed = Bed::new();
                let (pod, other) = (bed.pod("c1"), bed.pod("c2"));
                serve(Some(&pod.container), transport, 80, "pod");
                for (host_ip, reached) in &host_ips {
                    let mut mapping = port(8080, 80, transport.name());
                    mapping["hostIP"] = host_ip.clone();
                    let mut extra = extra.clone();
                    extra["backend"] = json!(backend);
                    let conf = conf(&json!([mapping]), &extra);
                    add(&conf, &pod).ok();
                    check(&conf, &pod).ok();
                    for from in callers(&bed, &pod, &other) {
                        let localhost = from.to == "127.0.0.1";
                        let wanted = reached(from.to);
                        let found = ask(from.container, transport, at(from.to, 8080));
                        let row = format!(
                            "{backend} {transport:?} {extra} {host_ip}: {} to {}",
                            from.what, from.to
                        );
                        assert_eq!(found.is_some(), wanted, "{row}: {found:?}\n{}", crate::bed::rules());
                        let Some((seen, name)) = found else { continue };
                        assert_eq!(name, "pod", "{row}");
                        let v6 = from.to.contains(':');
                        let gateway: IpAddr = if v6 { "fd00:1::1" } else { "10.1.0.1" }.parse().unwrap();
                        let masqueraded = extra["masqAll"] == true
                            || localhost
                            || from.what.ends_with("pod")
                            || from.what.contains("pod ");
                        if masqueraded {
                            assert_eq!(seen, gateway, "{row}");
                        } else if from.what == "another host" {
                            assert_ne!(seen, gateway, "{row}: its own address is seen");
                        }
                    }
                    del(&conf, &pod).ok();
                    assert!(ask(Some(&bed.peer), transport, at(HOST, 8080)).is_none());
                }
            }
        }
    }
}
