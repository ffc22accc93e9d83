//! `tuning` (<https://www.cni.dev/plugins/current/meta/tuning/>).

use crate::cases::list;
use crate::expect;
use crate::suite::{Bed, Case, On, Verdict, convention, must, should};
use serde_json::json;

const OPTIONS: &str = "tuning: Interface attributes";
const SYSCTL: &str = "tuning: System controls";
const CHECK: &str = "Section 2: CHECK";

const fn tuning(case: Case) -> Case {
    case.on(On::Plugin("tuning")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    tuning(must("tuning.mtu", OPTIONS, "mtu: the container's interface has it")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        let link = bed.inside(&pod, "ip", "-o link show eth0");
        expect!(link.contains("mtu 1400"), "mtu 1400", "{link}");
        Ok(())
    }),
    tuning(must("tuning.mtu-back", "Section 2: DEL", "DEL gives the interface back its mtu")).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)?;
        let link = bed.inside(&pod, "ip", "-o link show eth0");
        expect!(link.contains("mtu 1500"), "mtu 1500", "{link}");
        Ok(())
    }),
    tuning(must("tuning.sysctl", SYSCTL, "sysctl: it is set in the container, not on the host")).check(
        |bed| {
            let pod = bed.pod();
            let host = || bed.run("cat", &["/proc/sys/net/ipv4/conf/default/arp_filter"]);
            let before = host();
            bed.added(
                &pod,
                bed.ask("ADD", &pod).set("/sysctl", json!({"net.ipv4.conf.default.arp_filter": "1"})),
            )?;
            let inside = bed.inside(&pod, "cat", "/proc/sys/net/ipv4/conf/default/arp_filter");
            expect!(
                inside.trim() == "1" && host() == before,
                "1 inside, the host as before",
                "{inside} inside, {} outside",
                host()
            );
            Ok(())
        },
    ),
    tuning(must("tuning.sysctl-ifname", SYSCTL, "IFNAME in a sysctl's name is the interface's name")).check(
        |bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            let inside = bed.inside(&pod, "cat", "/proc/sys/net/ipv4/conf/eth0/arp_filter");
            expect!(inside.trim() == "1", "1", "{inside}");
            Ok(())
        },
    ),
    tuning(must("tuning.sysctl-outside", SYSCTL, "a sysctl that is not of the network is an error")).check(
        |bed| {
            bed.ask("ADD", &bed.pod())
                .set("/sysctl", json!({"kernel.domainname": "evil"}))
                .run()
                .fails()
                .map(drop)
        },
    ),
    tuning(must("tuning.sysctl-escape", SYSCTL, "a sysctl's name can't lead out of the network's")).check(
        |bed| {
            bed.ask("ADD", &bed.pod())
                .set("/sysctl", json!({"net/../kernel/domainname": "evil"}))
                .run()
                .fails()
                .map(drop)
        },
    ),
    tuning(must("tuning.promiscuous", OPTIONS, "promisc: the interface is promiscuous")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/promisc", true))?;
        let link = bed.inside(&pod, "ip", "-d -o link show eth0");
        expect!(link.contains("promiscuity 1") || link.contains("PROMISC"), "eth0 promiscuous", "{link}");
        Ok(())
    }),
    tuning(must("tuning.mac", OPTIONS, "runtimeConfig.mac: the interface has it, and so does the result"))
        .check(|bed| {
            let pod = bed.pod();
            let result =
                bed.added(&pod, bed.ask("ADD", &pod).set("/runtimeConfig/mac", "c2:11:22:33:44:66"))?;
            let link = bed.inside(&pod, "ip", "-o link show eth0");
            expect!(link.contains("c2:11:22:33:44:66"), "eth0 with c2:11:22:33:44:66", "{link}");
            let told = list(&result["interfaces"])
                .iter()
                .any(|one| one["name"] == "eth0" && one["mac"] == "c2:11:22:33:44:66");
            expect!(told, "it in the result", "{result}");
            Ok(())
        }),
    tuning(should("tuning.check-mtu", CHECK, "CHECK sees another mtu"))
        .check(|bed| damaged(bed, "ip", "link set eth0 mtu 1300")),
    tuning(should("tuning.check-sysctl", CHECK, "CHECK sees another value of a sysctl"))
        .check(|bed| damaged(bed, "sysctl", "-w net.ipv4.conf.eth0.arp_filter=0")),
    tuning(convention("tuning.failed", "Section 2: ADD", "an ADD that fails leaves the interface as it was"))
        .check(|bed| {
            let pod = bed.pod();
            let before = bed.look_inside(&pod);
            bed.ask("ADD", &pod).set("/runtimeConfig/mac", "zz:11").run().fails()?;
            bed.is_back_inside(&pod, &before)
        }),
];

fn damaged(bed: &Bed, program: &str, args: &str) -> Verdict {
    let pod = bed.pod();
    // Alone, so that what the reference's CHECK thinks of other attributes does not matter.
    let sysctl = json!({"net.ipv4.conf.eth0.arp_filter": "1"});
    bed.added(&pod, bed.ask("ADD", &pod).set("/sysctl", sysctl.clone()))?;
    bed.ask("CHECK", &pod).set("/sysctl", sysctl.clone()).run().is_silent()?;
    bed.inside(&pod, program, args);
    bed.ask("CHECK", &pod).set("/sysctl", sysctl).run().fails().map(drop)
}
