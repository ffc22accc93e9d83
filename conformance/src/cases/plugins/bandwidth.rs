//! `bandwidth` (<https://www.cni.dev/plugins/current/meta/bandwidth/>), by the queueing disciplines that `tc` tells of.

use crate::cases::list;
use crate::expect;
use crate::suite::{Bed, Case, On, Pod, Verdict, convention, must, should};
use serde_json::{Value, json};

const OPTIONS: &str = "bandwidth: Network configuration reference";
const SHAPING: &str = "Section 2: CHECK, traffic shaping controls";
const ISSUES: &str = "what operators of bandwidth report";

const fn bandwidth(case: Case) -> Case {
    case.on(On::Plugin("bandwidth")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    bandwidth(must(
        "bandwidth.ingress",
        OPTIONS,
        "ingressRate, bits a second: a token bucket of it on the host's end of the veth",
    ))
    .check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        let rate = rate_of(bed, &format!("vh{}", pod_number(&pod)));
        expect!(rate == json!(1_000_000), "8,000,000 bits: 1,000,000 bytes a second", "{rate}");
        Ok(())
    }),
    bandwidth(must(
        "bandwidth.egress",
        OPTIONS,
        "egressRate: a token bucket of it on an ifb, which the veth's traffic is redirected to",
    ))
    .check(|bed| {
        let pod = bed.pod();
        let result = bed.add(&pod)?;
        let ifb = ifb_of(&result);
        let rate = rate_of(bed, &ifb);
        expect!(rate == json!(2_000_000), "16,000,000 bits: 2,000,000 bytes a second", "{rate} on {ifb:?}");
        let filter = bed.run("tc", &["filter", "show", "dev", "vh1", "ingress"]);
        expect!(filter.contains(&format!("device {ifb}")), format!("a redirect to {ifb}"), "{filter}");
        Ok(())
    }),
    bandwidth(must(
        "bandwidth.result",
        "Section 5: ADD Success",
        "the ifb is in the result, without a sandbox",
    ))
    .check(|bed| {
        let result = bed.add(&bed.pod())?;
        let ifb = ifb_of(&result);
        let link = bed.ip("-o link show type ifb");
        expect!(!ifb.is_empty() && link.contains(&ifb), "the ifb that the kernel has", "{result} and {link}");
        Ok(())
    }),
    bandwidth(must("bandwidth.capability", OPTIONS, "runtimeConfig.bandwidth: the runtime's limits")).check(
        |bed| {
            let pod = bed.pod();
            let limits = json!({"ingressRate": 4_000_000, "ingressBurst": 400_000});
            bed.added(&pod, unlimited(bed, "ADD", &pod).set("/runtimeConfig/bandwidth", limits))?;
            let rate = rate_of(bed, "vh1");
            expect!(rate == json!(500_000), "4,000,000 bits: 500,000 bytes a second", "{rate}");
            Ok(())
        },
    ),
    bandwidth(must("bandwidth.one-way", OPTIONS, "ingress alone needs no ifb")).check(|bed| {
        let pod = bed.pod();
        let ask = bed.ask("ADD", &pod).unset("egressRate").unset("egressBurst");
        let result = bed.added(&pod, ask)?;
        let links = bed.ip("-o link show type ifb");
        expect!(ifb_of(&result).is_empty() && links.is_empty(), "no ifb", "{result} and {links}");
        Ok(())
    }),
    bandwidth(must(
        "bandwidth.unlimited",
        OPTIONS,
        "without limits there is nothing to do: the result is prevResult",
    ))
    .check(|bed| {
        let pod = bed.pod();
        let before = bed.look();
        let ask = unlimited(bed, "ADD", &pod);
        let earlier = ask.conf["prevResult"].clone();
        let result = bed.added(&pod, ask)?;
        expect!(result["interfaces"] == earlier["interfaces"], format!("{earlier}"), "{result}");
        bed.is_back_to(&before)?;
        unlimited(bed, "CHECK", &pod).run().is_silent()?;
        unlimited(bed, "DEL", &pod).run().is_silent()
    }),
    bandwidth(must("bandwidth.no-burst", OPTIONS, "a rate without a burst is an error"))
        .check(|bed| bed.ask("ADD", &bed.pod()).unset("ingressBurst").run().fails().map(drop)),
    bandwidth(must("bandwidth.no-rate", OPTIONS, "a burst without a rate is an error"))
        .check(|bed| bed.ask("ADD", &bed.pod()).unset("egressRate").run().fails().map(drop)),
    bandwidth(must("bandwidth.burst-big", OPTIONS, "a burst of 4 GiB is an error"))
        .check(|bed| bed.ask("ADD", &bed.pod()).set("/ingressBurst", 8_u64 << 32).run().fails().map(drop)),
    bandwidth(must("bandwidth.negative", OPTIONS, "a rate below zero is an error"))
        .check(|bed| bed.ask("ADD", &bed.pod()).set("/ingressRate", -1).run().fails().map(drop)),
    bandwidth(must("bandwidth.ifb-gone", "Section 2: DEL", "DEL deletes the ifb, with a dead namespace too"))
        .check(|bed| {
            for dies in [false, true] {
                let pod = bed.pod();
                bed.add(&pod)?;
                if dies {
                    bed.kill(&pod);
                }
                bed.del(&pod)?;
                let links = bed.ip("-o link show type ifb");
                expect!(links.is_empty(), "no ifb", "{links}");
            }
            Ok(())
        }),
    bandwidth(convention("bandwidth.failed", ISSUES, "an ADD that fails leaves no shaping")).check(|bed| {
        let pod = bed.pod();
        let before = bed.look();
        bed.ask("ADD", &pod)
            .set("/prevResult/interfaces", json!([{"name": "eth0", "sandbox": pod.path}]))
            .run()
            .fails()?;
        bed.is_back_to(&before)
    }),
    bandwidth(convention("bandwidth.again", ISSUES, "a repeated ADD brings the new limits")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.added(&pod, bed.ask("ADD", &pod).set("/ingressRate", 24_000_000))?;
        let rate = rate_of(bed, "vh1");
        expect!(rate == json!(3_000_000), "24,000,000 bits: 3,000,000 bytes a second", "{rate}");
        Ok(())
    }),
    bandwidth(should("bandwidth.check-rate", SHAPING, "CHECK sees another rate")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.check(&pod)?;
        bed.ask("CHECK", &pod).set("/ingressRate", 9_000_000).run().fails().map(drop)
    }),
    bandwidth(should("bandwidth.check-bucket", SHAPING, "CHECK sees that the token bucket is gone"))
        .check(|bed| damaged(bed, &["qdisc", "del", "dev", "vh1", "root"])),
    bandwidth(should("bandwidth.check-redirect", SHAPING, "CHECK sees that the redirect is gone"))
        .check(|bed| damaged(bed, &["filter", "del", "dev", "vh1", "ingress"])),
    bandwidth(should("bandwidth.check-ifb", SHAPING, "CHECK sees that the ifb is gone")).check(|bed| {
        let pod = bed.pod();
        let result = bed.add(&pod)?;
        bed.check(&pod)?;
        bed.ip(&format!("link del {}", ifb_of(&result)));
        bed.ask("CHECK", &pod).run().fails().map(drop)
    }),
];

fn pod_number(pod: &Pod) -> &str {
    pod.id.trim_start_matches("container")
}

fn unlimited<'a>(bed: &'a Bed<'_>, verb: &str, pod: &Pod) -> crate::suite::Ask<'a> {
    bed.ask(verb, pod).unset("ingressRate").unset("ingressBurst").unset("egressRate").unset("egressBurst")
}

/// The interface that the plugin added to the result.
fn ifb_of(result: &Value) -> String {
    let added = list(&result["interfaces"]).get(3);
    let outside = added.filter(|one| one["sandbox"].as_str().unwrap_or_default().is_empty());
    outside.and_then(|one| one["name"].as_str()).unwrap_or_default().to_owned()
}

/// The rate of a link's token bucket in bytes a second, `null` without one.
fn rate_of(bed: &Bed, link: &str) -> Value {
    if link.is_empty() {
        return Value::Null;
    }
    let qdiscs: Value =
        serde_json::from_str(&bed.run("tc", &["-j", "qdisc", "show", "dev", link])).unwrap_or_default();
    let bucket = list(&qdiscs).iter().find(|qdisc| qdisc["kind"] == "tbf");
    bucket.map_or(Value::Null, |bucket| bucket["options"]["rate"].clone())
}

/// CHECK sees what `tc` does.
fn damaged(bed: &Bed, words: &[&str]) -> Verdict {
    let pod = bed.pod();
    bed.add(&pod)?;
    bed.check(&pod)?;
    bed.run("tc", words);
    bed.ask("CHECK", &pod).run().fails().map(drop)
}
