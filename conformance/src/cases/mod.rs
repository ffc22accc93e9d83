//! The requirements, one file a part of the specification, and one a plugin whose documented options are known.
//!
//! To add one: a line in a file's `CASES` with its id, clause, words and whom it is for, and the code that tries it on a
//! [`crate::suite::Bed`]. `words` are ours; the specification's text is at <https://www.cni.dev/docs/spec/>.

mod add;
mod chaining;
mod check;
mod concurrency;
mod configuration;
mod del;
mod delegation;
mod errors;
mod gc;
mod hostile;
mod ipam;
mod parameters;
mod plugins;
mod results;
mod status;
mod version;

use crate::suite::bed::NETWORK;
use crate::suite::{Bed, Case, Pod, Verdict};
use serde_json::{Value, json};

/// All of them.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        configuration::CASES,
        parameters::CASES,
        errors::CASES,
        version::CASES,
        add::CASES,
        del::CASES,
        check::CASES,
        status::CASES,
        gc::CASES,
        concurrency::CASES,
        chaining::CASES,
        delegation::CASES,
        ipam::CASES,
        results::CASES,
        hostile::CASES,
    ]
    .into_iter()
    .chain(plugins::all())
    .flatten()
    .copied()
    .collect()
}

/// The addresses of a result of any version, with their prefix lengths.
fn addresses(result: &Value) -> Vec<String> {
    let new = list(&result["ips"]).iter().map(|ip| &ip["address"]);
    let old = [&result["ip4"]["ip"], &result["ip6"]["ip"]];
    new.chain(old).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The routes of a result of any version.
fn routes(result: &Value) -> Vec<Value> {
    let of = |value: &Value| list(&value["routes"]).to_vec();
    [of(result), of(&result["ip4"]), of(&result["ip6"])].concat()
}

/// An array, or nothing.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The first address of a result, without its prefix length.
fn first_address(result: &Value) -> String {
    let first = addresses(result).into_iter().next().unwrap_or_default();
    first.split('/').next().unwrap_or_default().to_owned()
}

/// `address` answers the container.
fn pings(bed: &Bed, pod: &Pod, address: &str) -> Verdict {
    let answer = bed.try_inside(pod, "ping", &format!("-c 1 -W 3 {address}"));
    crate::expect!(answer.is_ok(), format!("an answer of {address}"), "{answer:?}");
    Ok(())
}

/// A config of the bridge of the subject's folder, for what a chained plugin is put behind.
fn bridge_before(bed: &Bed) -> Value {
    let ranges = json!([[{"subnet": "10.87.0.0/24"}]]);
    json!({"cniVersion": bed.version, "name": NETWORK, "type": "bridge", "bridge": "br7", "isGateway": true,
           "ipam": {"type": "host-local", "dataDir": bed.dir().join("leases"), "ranges": ranges}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_enough() {
        let ids: Vec<&str> = all().iter().map(|case| case.id).collect();
        let unique: BTreeSet<&str> = ids.iter().copied().collect();
        let twice: Vec<&&str> =
            unique.iter().filter(|id| ids.iter().filter(|other| other == id).count() > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert!(ids.len() >= 150, "{} cases", ids.len());
        let odd = |id: &&&str| {
            !id.contains('.') || !id.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
        };
        assert_eq!(ids.iter().filter(odd).collect::<Vec<_>>(), Vec::<&&str>::new());
        assert!(all().iter().all(|case| !case.section.is_empty() && case.words.len() > 5));
    }
}
