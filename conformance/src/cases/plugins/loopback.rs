//! `loopback`, which every container runtime calls first.

use crate::cases::{addresses, list, pings};
use crate::expect;
use crate::suite::{Bed, Case, On, Verdict, convention, must, should};
use serde_json::json;

const LOOPBACK: &str = "loopback: sets the loopback interface up";
const CHECK: &str = "Section 2: CHECK, resources of the result";
const RUNTIMES: &str = "container runtimes";

const fn loopback(case: Case) -> Case {
    case.on(On::Plugin("loopback")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    loopback(must("loopback.up", LOOPBACK, "lo is up")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        let link = bed.inside(&pod, "ip", "-o link show lo");
        expect!(link.contains(",UP"), "lo up", "{link}");
        Ok(())
    }),
    loopback(must("loopback.addresses", LOOPBACK, "127.0.0.1 and ::1 are on it, and answer")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        pings(bed, &pod, "127.0.0.1")?;
        pings(bed, &pod, "::1")
    }),
    loopback(must("loopback.result", "Section 5: ADD Success", "the result has lo with its sandbox, and its addresses")).check(|bed| {
        let pod = bed.pod();
        let result = bed.add(&pod)?;
        let lo = list(&result["interfaces"]).iter().any(|one| one["name"] == "lo" && one["sandbox"] == *pod.path.to_string_lossy());
        expect!(lo && addresses(&result).iter().any(|one| one == "127.0.0.1/8"), "lo, 127.0.0.1/8", "{result}");
        Ok(())
    }),
    loopback(must("loopback.prev-result", "Section 5: ADD Success", "a prevResult is passed through")).check(|bed| {
        let pod = bed.pod();
        let earlier = json!({"cniVersion": bed.version, "interfaces": [{"name": "eth0", "sandbox": pod.path}],
                             "ips": [{"address": "10.83.0.7/24", "interface": 0}], "dns": {"nameservers": ["10.83.0.1"]}});
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/prevResult", earlier.clone()))?;
        expect!(result["ips"] == earlier["ips"] && result["dns"] == earlier["dns"], format!("{earlier}"), "{result}");
        Ok(())
    }),
    loopback(must("loopback.again", RUNTIMES, "ADD succeeds though lo is up already")).check(|bed| {
        let pod = bed.pod();
        bed.inside(&pod, "ip", "link set lo up");
        bed.add(&pod)?;
        bed.add(&pod).map(drop)
    }),
    loopback(should("loopback.check-down", CHECK, "CHECK sees that lo is down")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.check(&pod)?;
        bed.inside(&pod, "ip", "link set lo down");
        bed.ask("CHECK", &pod).run().fails().map(drop)
    }),
    loopback(convention("loopback.any-ifname", RUNTIMES, "runtimes call it with CNI_IFNAME lo; what that is does not matter")).check(|bed| {
        let container = bed.pod();
        let pod = bed.second_interface(&container, "eth0");
        bed.add(&pod)?;
        bed.del(&pod)
    }),
    loopback(must("loopback.netns-missing", "Section 2: Parameters", "ADD to a namespace that is not there is an error")).check(|bed| {
        bad_netns(bed, "/nowhere")
    }),
    loopback(must("loopback.netns-file", "Section 2: Parameters", "ADD to a file that is no namespace is an error")).check(|bed| {
        bad_netns(bed, "/etc/passwd")
    }),
];

fn bad_netns(bed: &Bed, path: &str) -> Verdict {
    bed.ask("ADD", &bed.pod()).env("CNI_NETNS", path).run().fails().map(drop)
}
