//! Section 2, STATUS. It is tried on plugins that do not say that they speak 1.1.0 too: a runtime needs it of them all the same.

use crate::expect;
use crate::suite::{Case, On, must, should};
use serde_json::json;

const STATUS: &str = "Section 2: STATUS";
const CODES: &str = "Section 2: STATUS, codes 50 and 51";

pub const CASES: &[Case] = &[
    must("status.ready", STATUS, "STATUS succeeds when the plugin is ready, and prints nothing")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| bed.ask("STATUS", &bed.pod()).run().is_silent()),
    must("status.ready-in-use", STATUS, "STATUS succeeds while there are attachments")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            let pod = bed.pod();
            bed.ask("STATUS", &bed.pod()).run().is_silent()?;
            bed.add(&pod)?;
            bed.ask("STATUS", &pod).run().is_silent()
        }),
    must("status.changes-nothing", STATUS, "STATUS changes nothing")
        .on(On::Configured)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            let before = bed.look();
            bed.ask("STATUS", &bed.pod()).run().is_silent()?;
            bed.is_back_to(&before)
        }),
    must("status.too-old", STATUS, "STATUS with a config of before 1.1.0 is an error of code 1")
        .until("1.0.0")
        .check(|bed| bed.ask("STATUS", &bed.pod()).run().fails_with(&[1]).map(drop)),
    should("status.no-delegate", CODES, "STATUS fails with 50 or 51 when its IPAM plugin is missing")
        .on(On::Delegating)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            let ask = bed.ask("STATUS", &bed.pod()).set("/ipam/type", "no-such-plugin");
            ask.run().fails_with(&[50, 51]).map(drop)
        }),
    should("status.exhausted", CODES, "STATUS succeeds while every address is taken: who has one is well")
        .on(On::Addressing)
        .since("1.1.0")
        .anyway()
        .check(|bed| {
            let small = json!([[{"subnet": "10.83.0.0/30"}]]);
            let (pod, other) = (bed.pod(), bed.pod());
            let result = bed.ask("ADD", &pod).set("/ipam/ranges", small.clone()).run().succeeds()?;
            expect!(result.is_object(), "a result", "{result}");
            bed.ask("STATUS", &pod).set("/ipam/ranges", small.clone()).run().is_silent()?;
            bed.ask("ADD", &other).set("/ipam/ranges", small).run().fails().map(drop)
        }),
    must("status.bad-config", STATUS, "STATUS says that a config is broken")
        .since("1.1.0")
        .anyway()
        .check(|bed| bed.ask("STATUS", &bed.pod()).unset("name").run().fails_with(&[7]).map(drop)),
];
