//! `host-local` (<https://www.cni.dev/plugins/current/ipam/host-local/>).

use crate::cases::{addresses, first_address, list, routes};
use crate::expect;
use crate::suite::{Bed, Case, On, Verdict, convention, must, should};
use serde_json::{Value, json};

const OPTIONS: &str = "host-local: Network configuration reference";
const ARGS: &str = "host-local: Supported arguments";
const FILES: &str = "host-local: Files";
const ISSUES: &str = "what operators of host-local report";

const fn host_local(case: Case) -> Case {
    case.on(On::Plugin("host-local")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    host_local(must("host-local.first", OPTIONS, "the first address is the first that is neither network nor gateway")).check(|bed| {
        gives(bed, json!([[{"subnet": "10.83.0.0/24"}]]), &["10.83.0.2/24"])
    }),
    host_local(must("host-local.range", OPTIONS, "rangeStart and rangeEnd: addresses are of that range")).check(|bed| {
        let ranges = json!([[{"subnet": "10.83.0.0/24", "rangeStart": "10.83.0.50", "rangeEnd": "10.83.0.51"}]]);
        gives(bed, ranges.clone(), &["10.83.0.50/24"])?;
        gives(bed, ranges.clone(), &["10.83.0.51/24"])?;
        bed.ask("ADD", &bed.pod()).set("/ipam/ranges", ranges).run().fails().map(drop)
    }),
    host_local(must("host-local.gateway", OPTIONS, "gateway: it is the result's, and never given")).check(|bed| {
        let ranges = json!([[{"subnet": "10.83.0.0/29", "gateway": "10.83.0.2"}]]);
        let mut given = Vec::new();
        for _ in 0..5 {
            let result = bed.ask("ADD", &bed.pod()).set("/ipam/ranges", ranges.clone()).run().succeeds()?;
            expect!(result["ips"][0]["gateway"] == "10.83.0.2", "gateway 10.83.0.2", "{result}");
            given.push(first_address(&result));
        }
        expect!(!given.iter().any(|one| one == "10.83.0.2"), "not the gateway's", "{given:?}");
        Ok(())
    }),
    host_local(must("host-local.round", OPTIONS, "addresses are given in turn: one that was freed comes last")).check(|bed| {
        let pod = bed.pod();
        let first = first_address(&bed.add(&pod)?);
        bed.del(&pod)?;
        let second = first_address(&bed.add(&bed.pod())?);
        expect!(first != second, "another address than the one just freed", "{second}");
        Ok(())
    }),
    host_local(must("host-local.two-sets", OPTIONS, "ranges: an address of each set")).check(|bed| {
        gives(bed, json!([[{"subnet": "10.83.0.0/24"}], [{"subnet": "fd00:83::/64"}]]), &["10.83.0.2/24", "fd00:83::2/64"])
    }),
    host_local(must("host-local.two-ranges", OPTIONS, "a set: the second range when the first is used up")).check(|bed| {
        let ranges = json!([[{"subnet": "10.83.0.0/30"}, {"subnet": "10.84.0.0/24"}]]);
        gives(bed, ranges.clone(), &["10.83.0.2/30"])?;
        gives(bed, ranges, &["10.84.0.2/24"])
    }),
    host_local(must("host-local.old-form", OPTIONS, "subnet without ranges, as old configs have it")).check(|bed| {
        let pod = bed.pod();
        let ipam = json!({"type": "host-local", "dataDir": bed.dir().join("leases"), "subnet": "10.85.0.0/24", "rangeStart": "10.85.0.9"});
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/ipam", ipam))?;
        expect!(addresses(&result) == ["10.85.0.9/24"], "10.85.0.9/24", "{result}");
        Ok(())
    }),
    host_local(must("host-local.routes", OPTIONS, "routes: they are the result's")).check(|bed| {
        let pod = bed.pod();
        let given = json!([{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24", "gw": "10.83.0.9"}]);
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/ipam/routes", given.clone()))?;
        expect!(json!(routes(&result)) == given, format!("{given}"), "{result}");
        Ok(())
    }),
    host_local(must("host-local.resolv-conf", OPTIONS, "resolvConf: its nameservers, search and options are the result's dns")).check(|bed| {
        let text = "# a comment\nnameserver 192.0.2.53\nsearch example.org a.example.org\noptions ndots:2\n";
        let file = bed.file("resolv.conf", text, 0o644);
        let pod = bed.pod();
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/ipam/resolvConf", file.to_string_lossy().into_owned()))?;
        let dns = &result["dns"];
        let right = dns["nameservers"] == json!(["192.0.2.53"]) && dns["search"] == json!(["example.org", "a.example.org"])
            && dns["options"] == json!(["ndots:2"]);
        expect!(right, "dns as in the file", "{result}");
        Ok(())
    }),
    host_local(must("host-local.args-ip", ARGS, "CNI_ARGS IP: that address")).check(|bed| {
        let pod = bed.pod();
        let result = bed.added(&pod, bed.ask("ADD", &pod).env("CNI_ARGS", "IgnoreUnknown=1;IP=10.83.0.77"))?;
        expect!(first_address(&result) == "10.83.0.77", "10.83.0.77", "{result}");
        Ok(())
    }),
    host_local(must("host-local.args-ips", ARGS, "args.cni.ips: that address")).check(|bed| {
        let pod = bed.pod();
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/args/cni/ips", json!(["10.83.0.78"])))?;
        expect!(first_address(&result) == "10.83.0.78", "10.83.0.78", "{result}");
        Ok(())
    }),
    host_local(must("host-local.capability-ips", ARGS, "runtimeConfig.ips: that address")).check(|bed| {
        let pod = bed.pod();
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/runtimeConfig/ips", json!(["10.83.0.79/24"])))?;
        expect!(first_address(&result) == "10.83.0.79", "10.83.0.79", "{result}");
        Ok(())
    }),
    host_local(must("host-local.capability-ranges", ARGS, "runtimeConfig.ipRanges: ranges of the runtime's")).check(|bed| {
        let pod = bed.pod();
        let ask = bed.ask("ADD", &pod).set("/runtimeConfig/ipRanges", json!([[{"subnet": "10.90.0.0/24"}]])).set("/ipam/ranges", json!([]));
        let result = bed.added(&pod, ask)?;
        expect!(addresses(&result) == ["10.90.0.2/24"], "10.90.0.2/24", "{result}");
        Ok(())
    }),
    host_local(must("host-local.wanted-outside", ARGS, "an address of no range is an error that names it")).check(|bed| {
        bed.ask("ADD", &bed.pod()).set("/args/cni/ips", json!(["192.0.2.9"])).run().fails_naming(&["192.0.2.9"])
    }),
    host_local(must("host-local.wanted-taken", ARGS, "an address that is taken is an error, and stays its holder's")).check(|bed| {
        let holder = bed.pod();
        let held = first_address(&bed.add(&holder)?);
        let before = bed.look();
        bed.ask("ADD", &bed.pod()).set("/args/cni/ips", json!([held])).run().fails()?;
        bed.is_back_to(&before)
    }),
    host_local(must("host-local.again", ISSUES, "ADD of an attachment that holds an address is an error, and it keeps it")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        let before = bed.look();
        bed.ask("ADD", &pod).run().fails()?;
        bed.is_back_to(&before)
    }),
    host_local(convention("host-local.exhausted", ISSUES, "no address left: the error says \"no IP addresses available in range set\"")).check(|bed| {
        let ranges = json!([[{"subnet": "10.83.0.0/30"}]]);
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/ipam/ranges", ranges.clone()))?;
        bed.ask("ADD", &bed.pod()).set("/ipam/ranges", ranges).run().fails_naming(&["no IP addresses available in range set"])
    }),
    host_local(must("host-local.second-set-full", OPTIONS, "when one set is used up, nothing is taken of the other")).check(|bed| {
        let ranges = json!([[{"subnet": "10.83.0.0/24"}], [{"subnet": "10.84.0.0/30"}]]);
        let holder = bed.pod();
        bed.added(&holder, bed.ask("ADD", &holder).set("/ipam/ranges", ranges.clone()))?;
        let before = bed.look();
        bed.ask("ADD", &bed.pod()).set("/ipam/ranges", ranges).run().fails()?;
        bed.is_back_to(&before)
    }),
    host_local(must("host-local.small", OPTIONS, "a subnet without room for an address is an error")).check(|bed| bad_range(bed, &json!({"subnet": "10.83.0.0/31"}))),
    host_local(must("host-local.host-bits", OPTIONS, "a subnet with host bits is an error")).check(|bed| bad_range(bed, &json!({"subnet": "10.83.0.5/24"}))),
    host_local(must("host-local.range-outside", OPTIONS, "a rangeStart outside the subnet is an error")).check(|bed| {
        bad_range(bed, &json!({"subnet": "10.83.0.0/24", "rangeStart": "10.99.0.1"}))
    }),
    host_local(must("host-local.range-backwards", OPTIONS, "a rangeEnd before rangeStart is an error")).check(|bed| {
        bad_range(bed, &json!({"subnet": "10.83.0.0/24", "rangeStart": "10.83.0.9", "rangeEnd": "10.83.0.8"}))
    }),
    host_local(must("host-local.overlap", OPTIONS, "ranges that overlap are an error")).check(|bed| {
        let ranges = json!([[{"subnet": "10.83.0.0/24"}], [{"subnet": "10.83.0.0/25"}]]);
        bed.ask("ADD", &bed.pod()).set("/ipam/ranges", ranges).run().fails().map(drop)
    }),
    host_local(must("host-local.mixed", OPTIONS, "a set of both families is an error")).check(|bed| {
        let ranges = json!([[{"subnet": "10.83.0.0/24"}, {"subnet": "fd00:83::/64"}]]);
        bed.ask("ADD", &bed.pod()).set("/ipam/ranges", ranges).run().fails().map(drop)
    }),
    host_local(must("host-local.no-ranges", OPTIONS, "a config without ranges is an error")).check(|bed| {
        bed.ask("ADD", &bed.pod()).set("/ipam/ranges", json!([])).run().fails().map(drop)
    }),
    host_local(must("host-local.files", FILES, "a file of the address's name holds container ID and interface")).check(|bed| {
        let pod = bed.pod();
        let address = first_address(&bed.add(&pod)?);
        let file = bed.dir().join("leases/net1").join(&address);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        expect!(text == format!("{}\r\n{}", pod.id, pod.ifname), format!("{}: ID, CR, LF, interface", file.display()), "{text:?}");
        Ok(())
    }),
    host_local(convention("host-local.files-mode", ISSUES, "the files are their owner's alone (CIS 1.1.9)")).check(|bed| {
        let address = first_address(&bed.add(&bed.pod())?);
        let file = bed.dir().join("leases/net1").join(address).display().to_string();
        let mode = bed.run("stat", &["-c", "%a", &file]);
        expect!(mode.trim() == "600", "mode 600", "{mode}");
        Ok(())
    }),
    host_local(must("host-local.taken-over", FILES, "a lease that another implementation left is respected")).check(|bed| {
        bed.file("leases/net1/10.83.0.2", "somebody\r\neth0", 0o644);
        gives(bed, json!([[{"subnet": "10.83.0.0/24"}]]), &["10.83.0.3/24"])
    }),
    host_local(convention("host-local.old-lease", FILES, "DEL frees a lease of before 0.8, which has no interface")).check(|bed| {
        let pod = bed.pod();
        bed.file("leases/net1/10.83.0.9", &pod.id, 0o644);
        bed.del(&pod)?;
        let left = bed.look().into_iter().find(|line| line.contains("10.83.0.9"));
        expect!(left.is_none(), "no lease of 10.83.0.9", "{left:?}");
        Ok(())
    }),
    host_local(should("host-local.strange-files", FILES, "files that are no leases are left alone")).check(|bed| {
        bed.file("leases/net1/README", "hands off", 0o644);
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)?;
        let kept = bed.look().iter().any(|line| line.contains("leases/net1/README"));
        expect!(kept, "README still there", "gone");
        Ok(())
    }),
    host_local(must("host-local.ipv6", OPTIONS, "an IPv6 range gives IPv6 addresses")).check(|bed| {
        gives(bed, json!([[{"subnet": "fd00:83::/64"}]]), &["fd00:83::2/64"])
    }),
];

/// ADD with `ranges` gives these addresses.
fn gives(bed: &Bed, ranges: Value, want: &[&str]) -> Verdict {
    let pod = bed.pod();
    let result = bed.added(&pod, bed.ask("ADD", &pod).set("/ipam/ranges", ranges))?;
    expect!(addresses(&result) == want && !list(&result["ips"]).is_empty(), format!("{want:?}"), "{result}");
    Ok(())
}

fn bad_range(bed: &Bed, range: &Value) -> Verdict {
    let before = bed.look();
    bed.ask("ADD", &bed.pod()).set("/ipam/ranges", json!([[range.clone()]])).run().fails()?;
    bed.is_back_to(&before)
}
