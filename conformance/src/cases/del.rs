//! Section 2, DEL: it takes back what ADD did, and forgives whatever is missing.

use super::first_address;
use crate::expect;
use crate::suite::{Bed, Case, On, Pod, Verdict, convention, must, should};
use serde_json::json;

const DEL: &str = "Section 2: DEL";
const LIFE: &str = "Section 3: Lifecycle & Ordering";
const RUNTIMES: &str = "container runtimes after a crash";

pub const CASES: &[Case] = &[
    must("del.interface", DEL, "DEL deletes the interface").on(On::Link).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)?;
        let link = bed.try_inside(&pod, "ip", "link show eth0");
        expect!(link.is_err(), "no eth0 in the container", "{link:?}");
        Ok(())
    }),
    must("del.silent", DEL, "DEL prints nothing").on(On::Configured).each().check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)
    }),
    must(
        "del.leaves-nothing",
        DEL,
        "DEL, and the end of the interface, take back all that ADD did on the host",
    )
    .on(On::Configured)
    .check(|bed| {
        bed.warm()?;
        let before = bed.look();
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)?;
        bed.finish(&pod);
        bed.is_back_to(&before)
    }),
    must("del.leaves-nothing-inside", DEL, "DEL takes back all that ADD did in the container")
        .on(On::Link)
        .check(|bed| {
            let pod = bed.pod();
            let before = bed.look_inside(&pod);
            bed.add(&pod)?;
            bed.del(&pod)?;
            bed.is_back_inside(&pod, &before)
        }),
    must("del.twice", DEL, "a second DEL succeeds").on(On::Configured).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)?;
        bed.del(&pod)
    }),
    must("del.never-added", DEL, "DEL of what was never added succeeds and changes nothing")
        .on(On::Configured)
        .check(|bed| {
            bed.warm()?;
            let pod = bed.pod();
            let (host, inside) = (bed.look(), bed.look_inside(&pod));
            bed.ask("DEL", &pod).unset("prevResult").run().is_silent()?;
            bed.is_back_to(&host)?;
            bed.is_back_inside(&pod, &inside)
        }),
    must("del.never-added-cold", DEL, "DEL on a machine where nothing was ever added succeeds")
        .on(On::Configured)
        .check(|bed| bed.ask("DEL", &bed.pod()).unset("prevResult").run().is_silent()),
    should(
        "del.netns-of-another",
        DEL,
        "DEL leaves the interface of another container, whose namespace CNI_NETNS is by now",
    )
    .on(On::Link)
    .check(|bed| {
        let (old, living) = (bed.pod(), bed.pod());
        bed.add(&old)?;
        bed.kill(&old);
        bed.add(&living)?;
        let before = bed.look_inside(&living);
        bed.ask("DEL", &old).env("CNI_NETNS", living.path.as_os_str()).run().is_silent()?;
        bed.is_back_inside(&living, &before)
    }),
    must("del.netns-gone", DEL, "DEL succeeds when the namespace is gone").on(On::Configured).check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.kill(&pod);
        bed.del(&pod)
    }),
    must("del.netns-gone.leaves-nothing", DEL, "DEL takes back all on the host when the namespace is gone")
        .on(On::Configured)
        .check(|bed| gone(bed, |ask| ask)),
    should("del.netns-empty.leaves-nothing", DEL, "DEL takes back all on the host when CNI_NETNS is empty")
        .on(On::Configured)
        .check(|bed| gone(bed, |ask| ask.env("CNI_NETNS", ""))),
    should(
        "del.netns-unset.leaves-nothing",
        DEL,
        "DEL takes back all on the host when there is no CNI_NETNS",
    )
    .on(On::Configured)
    .check(|bed| gone(bed, |ask| ask.without("CNI_NETNS"))),
    convention(
        "del.netns-file",
        RUNTIMES,
        "DEL succeeds when CNI_NETNS is a plain file, what is left of a bind mount after a reboot",
    )
    .on(On::Configured)
    .check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.kill(&pod);
        bed.file(&pod.path.file_name().unwrap_or_default().to_string_lossy(), "", 0o600);
        bed.del(&pod)
    }),
    should("del.no-prev-result", DEL, "DEL takes back all without prevResult")
        .on(On::Configured)
        .since("0.4.0")
        .check(|bed| {
            bed.warm()?;
            let before = bed.look();
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.ask("DEL", &pod).unset("prevResult").run().is_silent()?;
            bed.finish(&pod);
            bed.is_back_to(&before)
        }),
    convention(
        "del.nothing-known",
        RUNTIMES,
        "DEL takes back all on the host without namespace and prevResult",
    )
    .on(On::Configured)
    .check(|bed| gone(bed, |ask| ask.env("CNI_NETNS", "").unset("prevResult"))),
    must("del.interface-gone", DEL, "DEL succeeds when the interface is gone").on(On::Link).check(|bed| {
        bed.warm()?;
        let pod = bed.pod();
        let before = bed.look();
        bed.add(&pod)?;
        bed.inside(&pod, "ip", "link del eth0");
        bed.del(&pod)?;
        bed.is_back_to(&before)
    }),
    must("del.others", DEL, "DEL leaves other attachments alone").on(On::Configured).check(|bed| {
        bed.warm()?;
        let stays = bed.pod();
        bed.add(&stays)?;
        let (host, inside) = (bed.look(), bed.look_inside(&stays));
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.del(&pod)?;
        bed.finish(&pod);
        bed.is_back_to(&host)?;
        bed.is_back_inside(&stays, &inside)
    }),
    must("del.own-ifname", DEL, "DEL of one of a container's attachments leaves the other alone")
        .on(On::Ipam)
        .check(|bed| {
            let pod = bed.pod();
            let second = bed.second_interface(&pod, "eth1");
            bed.add(&pod)?;
            let before = bed.look();
            bed.add(&second)?;
            bed.del(&second)?;
            bed.is_back_to(&before)
        }),
    must("del.same-address-later", DEL, "a late DEL does not take the address of its next holder")
        .on(On::Addressing)
        .check(|bed| {
            let ranges = json!([[{"subnet": "10.83.0.0/30"}]]);
            let ask = |verb: &str, pod: &Pod| bed.ask(verb, pod).set("/ipam/ranges", ranges.clone());
            let (old, new) = (bed.pod(), bed.pod());
            bed.added(&old, ask("ADD", &old))?;
            ask("DEL", &old).run().is_silent()?;
            bed.added(&new, ask("ADD", &new))?;
            let before = bed.look();
            ask("DEL", &old).run().is_silent()?;
            bed.is_back_to(&before)
        }),
    must("del.frees-address", DEL, "after DEL the address can be given again").on(On::Addressing).check(
        |bed| {
            let ranges = json!([[{"subnet": "10.83.0.0/30"}]]);
            let mut seen = Vec::new();
            for _ in 0..3 {
                let pod = bed.pod();
                let result = bed.added(&pod, bed.ask("ADD", &pod).set("/ipam/ranges", ranges.clone()))?;
                seen.push(first_address(&result));
                bed.ask("DEL", &pod).set("/ipam/ranges", ranges.clone()).run().is_silent()?;
            }
            expect!(seen.iter().all(|one| *one == seen[0]), "the one address, three times", "{seen:?}");
            Ok(())
        },
    ),
    convention(
        "del.config-changed",
        LIFE,
        "DEL frees the address though the config has other ranges by then",
    )
    .on(On::Addressing)
    .check(|bed| {
        bed.warm()?;
        let pod = bed.pod();
        let before = bed.look();
        bed.add(&pod)?;
        bed.ask("DEL", &pod).set("/ipam/ranges", json!([[{"subnet": "10.99.0.0/24"}]])).run().is_silent()?;
        bed.is_back_to(&before)
    }),
    convention("del.prev-result-odd", RUNTIMES, "DEL forgives a prevResult that is empty")
        .on(On::Configured)
        .since("0.4.0")
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.ask("DEL", &pod).set("/prevResult", json!({"cniVersion": bed.version})).run().is_silent()
        }),
    convention("del.half", RUNTIMES, "DEL after an ADD that was killed at its first write leaves nothing")
        .on(On::Configured)
        .check(|bed| {
            bed.warm()?;
            let before = bed.look();
            let pod = bed.pod();
            bed.ask("ADD", &pod).through("/bin/sh", &["-c", "ulimit -f 0; exec \"$0\""]).run();
            bed.ask("DEL", &pod).run().is_silent()?;
            bed.finish(&pod);
            bed.is_back_to(&before)
        }),
];

/// ADD, the container dies, DEL as `ask` makes it: nothing is left on the host.
fn gone<'b>(bed: &'b Bed<'_>, ask: impl Fn(crate::suite::Ask<'b>) -> crate::suite::Ask<'b>) -> Verdict {
    bed.warm()?;
    let before = bed.look();
    let pod = bed.pod();
    bed.add(&pod)?;
    bed.kill(&pod);
    let call = ask(bed.ask("DEL", &pod));
    call.run().is_silent()?;
    bed.is_back_to(&before)
}
