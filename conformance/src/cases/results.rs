//! Section 5: the shape of results, in every version of the specification.

use super::{addresses, list, routes};
use crate::expect;
use crate::suite::{Bed, Case, On, Trouble, Verdict, must, should};
use serde_json::{Value, json};
use std::net::IpAddr;

const SUCCESS: &str = "Section 5: ADD Success";
const OLD: &str = "Specification 0.2.0: Result";
const MIDDLE: &str = "Specification 0.4.0: Result";

pub const CASES: &[Case] = &[
    must("result.shape", OLD, "0.1.0 and 0.2.0: ip4, ip6 and dns, nothing of later versions")
        .on(On::Configured)
        .until("0.2.0")
        .each()
        .check(|bed| {
            shape(
                bed,
                &["cniVersion", "ip4", "ip6", "dns"],
                &[("ip4", &["ip", "gateway", "routes"]), ("ip6", &["ip", "gateway", "routes"])],
            )
        }),
    must(
        "result.shape-0.3",
        MIDDLE,
        "0.3.0 to 0.4.0: interfaces, ips, routes, dns, nothing of other versions",
    )
    .on(On::Configured)
    .since("0.3.0")
    .until("0.4.0")
    .each()
    .check(|bed| {
        let result = shape(bed, &["cniVersion", "interfaces", "ips", "routes", "dns"], &[]);
        result
            .and_then(|()| members(bed, "interfaces", &["name", "mac", "sandbox"]))
            .and_then(|()| members(bed, "ips", &["version", "interface", "address", "gateway"]))
    }),
    must("result.shape-1", SUCCESS, "1.0.0: interfaces, ips, routes, dns, nothing of other versions")
        .on(On::Configured)
        .since("1.0.0")
        .until("1.0.0")
        .check(|bed| {
            shape(bed, &["cniVersion", "interfaces", "ips", "routes", "dns"], &[])?;
            // Both versions are one type to libraries: what 1.1.0 added may come.
            members(bed, "interfaces", &["name", "mac", "mtu", "sandbox", "socketPath", "pciID"])?;
            members(bed, "ips", &["interface", "address", "gateway"])
        }),
    must("result.shape-1.1", SUCCESS, "1.1.0: interfaces, ips, routes, dns with their keys")
        .on(On::Configured)
        .since("1.1.0")
        .check(|bed| {
            shape(bed, &["cniVersion", "interfaces", "ips", "routes", "dns"], &[])?;
            members(bed, "interfaces", &["name", "mac", "mtu", "sandbox", "socketPath", "pciID"])?;
            members(bed, "ips", &["interface", "address", "gateway"])?;
            members(bed, "routes", &["dst", "gw", "mtu", "advmss", "priority", "table", "scope"])
        }),
    must("result.ip-version", MIDDLE, "0.3.0 to 0.4.0: version of an address is \"4\" or \"6\", as it is")
        .on(On::Configured)
        .since("0.3.0")
        .until("0.4.0")
        .each()
        .check(|bed| {
            let result = added(bed)?;
            for ip in list(&result["ips"]) {
                let want = if ip["address"].as_str().unwrap_or_default().contains(':') { "6" } else { "4" };
                expect!(ip["version"] == want, format!("version {want:?}"), "{ip}");
            }
            Ok(())
        }),
    must("result.addresses", SUCCESS, "every address is one, with its prefix length")
        .on(On::Configured)
        .each()
        .check(|bed| {
            let result = added(bed)?;
            for address in addresses(&result) {
                expect!(
                    address.parse::<ipnet::IpNet>().is_ok() && address.contains('/'),
                    "an address in CIDR notation",
                    "{address}"
                );
            }
            Ok(())
        }),
    must("result.gateways", SUCCESS, "every gateway is an address without prefix length")
        .on(On::Configured)
        .each()
        .check(|bed| {
            let result = added(bed)?;
            let old = [&result["ip4"], &result["ip6"]].into_iter().filter(|ip| ip.is_object());
            for ip in list(&result["ips"]).iter().chain(old) {
                let gateway = ip.get("gateway").map(|gateway| gateway.as_str().unwrap_or("?"));
                expect!(
                    gateway.is_none_or(|gateway| gateway.parse::<IpAddr>().is_ok()),
                    "an address",
                    "{ip}"
                );
            }
            Ok(())
        }),
    must("result.routes", SUCCESS, "every route has a dst in CIDR notation, and its gw is an address")
        .on(On::Configured)
        .each()
        .check(|bed| {
            let result = added(bed)?;
            for route in routes(&result) {
                let dst = route["dst"]
                    .as_str()
                    .is_some_and(|dst| dst.contains('/') && dst.parse::<ipnet::IpNet>().is_ok());
                let gw = route
                    .get("gw")
                    .is_none_or(|gw| gw.as_str().is_some_and(|gw| gw.parse::<IpAddr>().is_ok()));
                expect!(dst && gw, "a dst in CIDR notation, and a gw that is an address", "{route}");
            }
            Ok(())
        }),
    must("result.interfaces", SUCCESS, "every interface has a name, and macs and sandboxes are texts")
        .on(On::Configured)
        .since("0.3.0")
        .each()
        .check(|bed| {
            let result = added(bed)?;
            for one in list(&result["interfaces"]) {
                let named = one["name"].as_str().is_some_and(|name| !name.is_empty());
                let mac = one.get("mac").is_none_or(|mac| {
                    mac.as_str().is_some_and(|mac| mac.is_empty() || mac.split(':').count() == 6)
                });
                let sandbox = one.get("sandbox").is_none_or(Value::is_string);
                expect!(named && mac && sandbox, "a name, a mac such as 02:00:00:00:00:01, a path", "{one}");
            }
            Ok(())
        }),
    must("result.dns", SUCCESS, "dns has nameservers, domain, search and options, of their types")
        .on(On::Configured)
        .each()
        .check(|bed| {
            let result = added(bed)?;
            for (key, value) in result["dns"].as_object().into_iter().flatten() {
                let texts = list(value).iter().all(Value::is_string);
                let right = match key.as_str() {
                    "domain" => value.is_string(),
                    "nameservers" | "search" | "options" => value.is_array() && texts,
                    _ => false,
                };
                expect!(right, "the keys of dns with their types", "{key}: {value}");
            }
            Ok(())
        }),
    must("result.no-nulls", SUCCESS, "what there is not is left out, not null")
        .on(On::Configured)
        .each()
        .check(|bed| {
            let result = added(bed)?;
            expect!(!has_null(&result), "no null", "{result}");
            Ok(())
        }),
    should(
        "result.same-in-all",
        SUCCESS,
        "a config has the same addresses and routes in every version of its result",
    )
    .on(On::Configured)
    .each()
    .check(|bed| {
        let pod = bed.pod();
        let newest = bed.subject.newest();
        let mut ask = bed.ask("ADD", &pod).set("/cniVersion", newest);
        if let Some(earlier) = ask.conf.get("prevResult").cloned() {
            // The chain's earlier plugin would have spoken the newest too.
            ask = ask.set("/prevResult", newer(&earlier, newest));
        }
        let want = ask.run().succeeds()?;
        bed.ask("DEL", &pod).unset("prevResult").run().is_silent()?;
        let again = bed.pod();
        let got = bed.add(&again)?;
        let count = |result: &Value| (addresses(result).len(), routes(result).len());
        expect!(count(&want) == count(&got), format!("as many addresses and routes as in {want}"), "{got}");
        let prefixes = |result: &Value| -> Vec<String> {
            addresses(result).iter().filter_map(|one| Some(one.split_once('/')?.1.to_owned())).collect()
        };
        expect!(prefixes(&want) == prefixes(&got), format!("{want}"), "{got}");
        Ok(())
    }),
];

fn added(bed: &Bed) -> Result<Value, Trouble> {
    bed.add(&bed.pod())
}

fn only(value: &Value, known: &[&str]) -> Verdict {
    for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
        expect!(
            known.contains(&key.as_str()),
            format!("no keys but {}", known.join(", ")),
            "{key} in {value}"
        );
    }
    Ok(())
}

/// The result's keys, and those of some of its members.
fn shape(bed: &Bed, keys: &[&str], inner: &[(&str, &[&str])]) -> Verdict {
    let result = added(bed)?;
    only(&result, keys)?;
    for (key, keys) in inner {
        only(&result[*key], keys)?;
    }
    let old = bed.version < "0.3.0";
    let filled = if old { result["ip4"].is_object() || result["ip6"].is_object() } else { !result.is_null() };
    expect!(filled, "a result of this version", "{result}");
    Ok(())
}

fn members(bed: &Bed, key: &str, known: &[&str]) -> Verdict {
    let result = added(bed)?;
    list(&result[key]).iter().try_for_each(|one| only(one, known))
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.iter().any(has_null),
        Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}

/// A result of an earlier plugin, in another version.
fn newer(earlier: &Value, version: &str) -> Value {
    let mut result = earlier.clone();
    result["cniVersion"] = json!(version);
    let old = result["ip4"].clone();
    if old.is_object() {
        let dns = result["dns"].clone();
        result = json!({"cniVersion": version, "dns": dns, "routes": old["routes"],
            "interfaces": [{"name": "vh1"}, {"name": "eth0", "sandbox": "/proc/self/ns/net"}],
            "ips": [{"address": old["ip"], "gateway": old["gateway"], "interface": 1}]});
    }
    for ip in result["ips"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        ip.remove("version");
    }
    result
}
