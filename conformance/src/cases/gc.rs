//! Section 2, GC. It is tried on plugins that do not say that they speak 1.1.0 too: leaks stay without it.

use crate::expect;
use crate::suite::{Bed, Case, On, Pod, Verdict, convention, must, should};
use serde_json::json;

const GC: &str = "Section 2: GC";
const PROCEDURE: &str = "Section 4: Delegated plugin execution procedure";
const LIBCNI: &str = "libcni, which sends this key too";

pub const CASES: &[Case] = &[
    must("gc.answers", GC, "GC succeeds and prints nothing")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| bed.gc(&[]).run().is_silent()),
    must("gc.env", GC, "GC needs no container: CNI_COMMAND and CNI_PATH alone")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            let ask = bed.gc(&[]).without("CNI_CONTAINERID").without("CNI_IFNAME").without("CNI_NETNS");
            ask.run().is_silent()
        }),
    must("gc.too-old", GC, "GC with a config of before 1.1.0 is an error of code 1")
        .until("1.0.0")
        .check(|bed| bed.gc(&[]).run().fails_with(&[1]).map(drop)),
    must("gc.keeps-valid", GC, "GC leaves valid attachments alone")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            let (one, two) = (bed.pod(), bed.pod());
            speaks(bed)?;
            bed.add(&one)?;
            bed.add(&two)?;
            let (host, inside) = (bed.look(), bed.look_inside(&one));
            bed.gc(&[&one, &two]).run().is_silent()?;
            bed.is_back_to(&host)?;
            bed.is_back_inside(&one, &inside)?;
            bed.check(&one)
        }),
    should("gc.removes-stale", GC, "GC removes what an attachment left that is not valid, and nothing else")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| stale(bed, |bed, valid| bed.gc(&[valid]).run().is_silent())),
    should("gc.removes-all", GC, "GC without valid attachments removes all")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            speaks(bed)?;
            bed.warm()?;
            let before = bed.look();
            for _ in 0..3 {
                let pod = bed.pod();
                bed.add(&pod)?;
                bed.kill(&pod);
            }
            bed.gc(&[]).run().is_silent()?;
            bed.has_no_more_than(&before)
        }),
    should("gc.living-stale", GC, "GC removes an attachment that is not valid though its container lives")
        .on(On::Link)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            speaks(bed)?;
            bed.warm()?;
            let before = bed.look();
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.gc(&[]).run().is_silent()?;
            bed.has_no_more_than(&before)
        }),
    must("gc.other-network", GC, "GC leaves other networks alone")
        .on(On::Addressing)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            speaks(bed)?;
            let pod = bed.pod();
            bed.add(&pod)?;
            let before = bed.look();
            bed.gc(&[]).set("/name", "net2").run().is_silent()?;
            bed.is_back_to(&before)
        }),
    must(
        "gc.by-ifname",
        GC,
        "an attachment is container and interface: another interface of a valid container may be stale",
    )
    .on(On::Ipam)
    .since("1.1.0")
    .anyway()
    .check(|bed| {
        speaks(bed)?;
        let pod = bed.pod();
        bed.add(&pod)?;
        let before = bed.look();
        bed.add(&bed.second_interface(&pod, "eth1"))?;
        bed.gc(&[&pod]).run().is_silent()?;
        bed.is_back_to(&before)
    }),
    should("gc.twice", GC, "GC can be repeated").on(On::Configured).since("1.1.0").anyway().check(|bed| {
        speaks(bed)?;
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.gc(&[&pod]).run().is_silent()?;
        let before = bed.look();
        bed.gc(&[&pod]).run().is_silent()?;
        bed.is_back_to(&before)
    }),
    should("gc.unknown-valid", GC, "valid attachments that the plugin does not know do not matter")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| bed.gc(&[&bed.pod(), &bed.pod()]).run().is_silent()),
    convention("gc.old-key", LIBCNI, "the valid attachments may come as cni.dev/attachments alone")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            stale(bed, |bed, valid| bed.gc(&[valid]).unset("cni.dev/valid-attachments").run().is_silent())
        }),
    must(
        "gc.broken-list",
        GC,
        "a list of valid attachments that is none is an error, and nothing is removed",
    )
    .on(On::Configured)
    .since("1.1.0")
    .anyway()
    .check(|bed| {
        speaks(bed)?;
        let pod = bed.pod();
        bed.add(&pod)?;
        let before = bed.look();
        let broken = json!([{"containerID": 7}]);
        let ask = bed
            .gc(&[])
            .set("/cni.dev~1valid-attachments", broken.clone())
            .set("/cni.dev~1attachments", broken);
        ask.run().fails()?;
        bed.is_back_to(&before)
    }),
    must("gc.delegate", PROCEDURE, "GC frees the addresses that its IPAM plugin gave")
        .on(On::Delegating)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            speaks(bed)?;
            let small = json!([[{"subnet": "10.83.0.0/30"}]]);
            let pod = bed.pod();
            bed.added(&pod, bed.ask("ADD", &pod).set("/ipam/ranges", small.clone()))?;
            bed.kill(&pod);
            bed.gc(&[]).set("/ipam/ranges", small.clone()).run().is_silent()?;
            let next = bed.pod();
            let result = bed.ask("ADD", &next).set("/ipam/ranges", small).run().succeeds()?;
            expect!(result.is_object(), "the only address is free", "{result}");
            Ok(())
        }),
];

/// A plugin without 1.1.0 fails here, by its own answer, not by an ADD that it can't do in that version.
fn speaks(bed: &Bed) -> Verdict {
    bed.gc(&[]).run().is_silent()
}

/// One attachment is valid, one is not; `gc` removes what the other left, and the one is as before.
fn stale(bed: &Bed, gc: impl Fn(&Bed, &Pod) -> Verdict) -> Verdict {
    speaks(bed)?;
    bed.warm()?;
    let valid = bed.pod();
    bed.add(&valid)?;
    let (host, inside) = (bed.look(), bed.look_inside(&valid));
    let stale = bed.pod();
    bed.add(&stale)?;
    bed.kill(&stale);
    gc(bed, &valid)?;
    bed.is_back_to(&host)?;
    bed.is_back_inside(&valid, &inside)?;
    Ok(())
}
