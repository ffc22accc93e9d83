//! `firewall` (<https://www.cni.dev/plugins/current/meta/firewall/>), its iptables back end.

use crate::expect;
use crate::suite::{Bed, Case, On, Pod, Trouble, Verdict, must, should};

const OPTIONS: &str = "firewall: iptables backend rule structure";
const RULES: &str = "Section 2: CHECK, firewall rules";

const fn firewall(case: Case) -> Case {
    case.on(On::Plugin("firewall")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    firewall(must("firewall.source", OPTIONS, "what comes from the container's address is accepted")).check(
        |bed| {
            ruled(bed, |rules, address| {
                rules.iter().any(|rule| rule.contains(&format!("-s {address}")) && rule.contains("-j ACCEPT"))
            })
        },
    ),
    firewall(must("firewall.destination", OPTIONS, "answers to the container's address are accepted")).check(
        |bed| {
            ruled(bed, |rules, address| {
                rules
                    .iter()
                    .any(|rule| rule.contains(&format!("-d {address}")) && rule.contains("ESTABLISHED"))
            })
        },
    ),
    firewall(must("firewall.forward", OPTIONS, "FORWARD jumps to CNI-FORWARD")).check(|bed| {
        ruled(bed, |rules, _| {
            rules.iter().any(|rule| rule.starts_with("-A FORWARD") && rule.ends_with("-j CNI-FORWARD"))
        })
    }),
    firewall(must(
        "firewall.admin",
        OPTIONS,
        "CNI-ADMIN, the administrator's chain, comes first in CNI-FORWARD",
    ))
    .check(|bed| {
        ruled(bed, |rules, _| {
            let first = rules.iter().find(|rule| rule.starts_with("-A CNI-FORWARD"));
            first.is_some_and(|rule| rule.ends_with("-j CNI-ADMIN"))
        })
    }),
    firewall(must("firewall.admin-name", OPTIONS, "iptablesAdminChainName: that chain in its place")).check(
        |bed| {
            let pod = bed.pod();
            bed.added(&pod, bed.ask("ADD", &pod).set("/iptablesAdminChainName", "OUR-ADMIN"))?;
            let rules = rules(bed);
            expect!(
                rules.iter().any(|rule| rule.ends_with("-j OUR-ADMIN")),
                "a jump to OUR-ADMIN",
                "{rules:?}"
            );
            Ok(())
        },
    ),
    firewall(must("firewall.deleted", "Section 2: DEL", "DEL takes the address's rules away")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)?;
        let rules = rules(bed);
        expect!(
            !rules.iter().any(|rule| rule.contains(ADDRESS)),
            format!("no rule about {ADDRESS}"),
            "{rules:?}"
        );
        Ok(())
    }),
    firewall(should("firewall.check", RULES, "CHECK sees that a rule is gone")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.check(&pod)?;
        bed.run("iptables", &["-D", "CNI-FORWARD", "-s", ADDRESS, "-j", "ACCEPT"]);
        bed.ask("CHECK", &pod).run().fails().map(drop)
    }),
    firewall(must(
        "firewall.same-bridge",
        "firewall: ingressPolicy, since plugins 1.1",
        "ingressPolicy same-bridge: other bridges are kept out",
    ))
    .check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/ingressPolicy", "same-bridge"))?;
        let rules = rules(bed);
        let kept_out = rules.iter().any(|rule| rule.contains("-o br0") && rule.ends_with("-j DROP"));
        expect!(kept_out, "a rule that drops what others send to br0", "{rules:?}");
        Ok(())
    }),
    firewall(must(
        "firewall.policy-bad",
        OPTIONS,
        "an ingressPolicy that there is not is an error that names it",
    ))
    .check(|bed| {
        bed.ask("ADD", &bed.pod()).set("/ingressPolicy", "nonsense").run().fails_naming(&["nonsense"])
    }),
];

/// The first container's.
const ADDRESS: &str = "10.83.0.10/32";

fn rules(bed: &Bed) -> Vec<String> {
    bed.run("iptables", &["-S"]).lines().map(str::to_owned).collect()
}

fn ruled(bed: &Bed, holds: impl Fn(&[String], &str) -> bool) -> Verdict {
    let pod: Pod = bed.pod();
    bed.add(&pod)?;
    let rules = rules(bed);
    if holds(&rules, ADDRESS) {
        Ok(())
    } else {
        Err(Trouble::deviation("the documented rule", rules.join("; ")))
    }
}
