//! `macvlan` (<https://www.cni.dev/plugins/current/main/macvlan/>).

use crate::cases::{first_address, list, pings};
use crate::expect;
use crate::suite::{Case, On, must};
use serde_json::json;

const OPTIONS: &str = "macvlan: Network configuration reference";

const fn macvlan(case: Case) -> Case {
    case.on(On::Plugin("macvlan")).since("1.0.0")
}

pub const CASES: &[Case] = &[
    macvlan(must("macvlan.kind", OPTIONS, "the interface is a macvlan in the mode of the config")).check(
        |bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            let link = bed.inside(&pod, "ip", "-d -o link show eth0");
            expect!(link.contains("macvlan mode bridge"), "macvlan mode bridge", "{link}");
            Ok(())
        },
    ),
    macvlan(must("macvlan.mode", OPTIONS, "mode private: a private macvlan")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/mode", "private"))?;
        let link = bed.inside(&pod, "ip", "-d -o link show eth0");
        expect!(link.contains("macvlan mode private"), "macvlan mode private", "{link}");
        Ok(())
    }),
    macvlan(must("macvlan.mode-bad", OPTIONS, "a mode that there is not is an error that names it"))
        .check(|bed| bed.ask("ADD", &bed.pod()).set("/mode", "nonsense").run().fails_naming(&["nonsense"])),
    macvlan(must("macvlan.master-missing", OPTIONS, "a master that there is not is an error that names it"))
        .check(|bed| bed.ask("ADD", &bed.pod()).set("/master", "up77").run().fails_naming(&["up77"])),
    macvlan(must("macvlan.mtu", OPTIONS, "mtu: the interface has it")).check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/mtu", 1400))?;
        let link = bed.inside(&pod, "ip", "-o link show eth0");
        expect!(link.contains("mtu 1400"), "mtu 1400", "{link}");
        Ok(())
    }),
    macvlan(must("macvlan.mac", OPTIONS, "runtimeConfig.mac: the interface has it")).check(|bed| {
        let pod = bed.pod();
        let result = bed.added(&pod, bed.ask("ADD", &pod).set("/runtimeConfig/mac", "c2:11:22:33:44:77"))?;
        let told = list(&result["interfaces"]).iter().any(|one| one["mac"] == "c2:11:22:33:44:77");
        expect!(told, "c2:11:22:33:44:77 in the result", "{result}");
        Ok(())
    }),
    macvlan(must("macvlan.pods-talk", OPTIONS, "mode bridge: containers reach each other")).check(|bed| {
        let (one, other) = (bed.pod(), bed.pod());
        let ask = |pod| bed.ask("ADD", pod).set("/ipam/routes", json!([]));
        bed.added(&one, ask(&one))?;
        let result = bed.added(&other, ask(&other))?;
        pings(bed, &one, &first_address(&result))
    }),
];
