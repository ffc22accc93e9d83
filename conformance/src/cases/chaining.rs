//! Sections 3 and 5: plugins in a chain, and what they make of `prevResult`.

use super::{addresses, bridge_before, list, routes};
use crate::expect;
use crate::suite::{Bed, Case, On, Trouble, convention, must, should};
use serde_json::{Value, json};

const SUCCESS: &str = "Section 5: ADD Success";
const ADD: &str = "Section 2: ADD";
const ADDING: &str = "Section 3: Adding an attachment";
const DELETING: &str = "Section 3: Deleting an attachment";

pub const CASES: &[Case] = &[
    must("chain.addresses", SUCCESS, "the addresses of prevResult are in the result")
        .on(On::Chained)
        .each()
        .check(|bed| {
            let (earlier, result) = passed(bed)?;
            expect!(addresses(&earlier) == addresses(&result), format!("{earlier}"), "{result}");
            Ok(())
        }),
    must("chain.routes", SUCCESS, "the routes of prevResult are in the result").on(On::Chained).each().check(
        |bed| {
            let (earlier, result) = passed(bed)?;
            expect!(routes(&earlier) == routes(&result), format!("{earlier}"), "{result}");
            Ok(())
        },
    ),
    must("chain.dns", SUCCESS, "the dns of prevResult is in the result").on(On::Chained).each().check(
        |bed| {
            let (earlier, result) = passed(bed)?;
            expect!(earlier["dns"] == result["dns"], format!("{earlier}"), "{result}");
            Ok(())
        },
    ),
    must("chain.interfaces", SUCCESS, "the interfaces of prevResult are in the result, at their places")
        .on(On::Chained)
        .since("0.3.0")
        .each()
        .check(|bed| {
            let (earlier, result) = passed(bed)?;
            let (before, now) = (list(&earlier["interfaces"]), list(&result["interfaces"]));
            let same = |(one, other): (&Value, &Value)| {
                one["name"] == other["name"] && one["sandbox"] == other["sandbox"]
            };
            let kept = now.len() >= before.len() && before.iter().zip(now).all(same);
            expect!(kept, format!("{earlier}"), "{result}");
            Ok(())
        }),
    must("chain.no-prev-result", ADD, "a chained plugin that needs prevResult says so when there is none")
        .on(On::Chained)
        .since("0.3.0")
        .check(|bed| {
            let reply = bed.ask("ADD", &bed.pod()).unset("prevResult").run();
            reply.fails().map(drop)
        }),
    must("chain.prev-result-broken", ADD, "a prevResult that is none is an error")
        .on(On::Chained)
        .since("0.3.0")
        .check(|bed| {
            bed.ask("ADD", &bed.pod()).set("/prevResult", json!("nonsense")).run().fails().map(drop)
        }),
    must("chain.prev-result-version", ADD, "a prevResult in a version that nobody speaks is an error")
        .on(On::Chained)
        .since("0.3.0")
        .check(|bed| {
            bed.ask("ADD", &bed.pod()).set("/prevResult/cniVersion", "9.9.9").run().fails().map(drop)
        }),
    must("chain.prev-result-address", ADD, "a prevResult with an address that is none is an error")
        .on(On::Chained)
        .since("0.3.0")
        .check(|bed| {
            bed.ask("ADD", &bed.pod())
                .set("/prevResult/ips/0/address", "10.83.0.300/24")
                .run()
                .fails()
                .map(drop)
        }),
    should("chain.netns-gone", ADD, "ADD to a namespace that is gone is an error, and leaves nothing")
        .on(On::Plugin("bandwidth"))
        .check(|bed| {
            let pod = bed.pod();
            bed.kill(&pod);
            let before = bed.look();
            bed.ask("ADD", &pod).run().fails()?;
            bed.is_back_to(&before)
        }),
    should("chain.repeated-add", ADDING, "ADD again with the same prevResult changes nothing more")
        .on(On::Chained)
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            let before = bed.look();
            let reply = bed.ask("ADD", &pod).run();
            if reply.0.is_ok() {
                return bed.is_back_to(&before);
            }
            reply.fails()?;
            bed.is_back_to(&before)
        }),
    convention(
        "chain.empty-prev-result",
        "cni/pkg/types",
        "a prevResult without addresses passes through where there is nothing to do for them",
    )
    .on(On::Plugin("tuning"))
    .check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).set("/prevResult/ips", json!([]))).map(drop)
    }),
    must("chain.after-bridge", ADDING, "the plugin works on what the bridge of its folder made")
        .on(On::Chained)
        .since("1.0.0")
        .check(|bed| {
            let container = bed.pod();
            let pod = bed.second_interface(&container, "eth7");
            let earlier = |verb: &str, result: Option<&Value>| {
                let mut conf = bridge_before(bed);
                if let Some(result) = result {
                    conf["prevResult"] = result.clone();
                }
                bed.ask_plugin("bridge", verb, conf, &pod)
            };
            if !bed.subject.dir.join("bridge").is_file() || !bed.subject.dir.join("host-local").is_file() {
                return Err(Trouble::Untried("no bridge and host-local in the folder".into()));
            }
            let first = earlier("ADD", None).run().succeeds()?;
            let own = |verb: &str, result: &Value| bed.ask(verb, &pod).set("/prevResult", result.clone());
            let last = own("ADD", &first).run().succeeds()?;
            expect!(addresses(&first) == addresses(&last), format!("{first}"), "{last}");
            earlier("CHECK", Some(&last)).run().is_silent()?;
            own("CHECK", &last).run().is_silent()?;
            own("DEL", &last).run().is_silent()?;
            earlier("DEL", Some(&last)).run().is_silent()
        }),
    must(
        "chain.del-order",
        DELETING,
        "DEL succeeds after the interface is gone, as when the order is not kept",
    )
    .on(On::Chained)
    .check(|bed| {
        let pod = bed.pod();
        bed.add(&pod)?;
        bed.inside(&pod, "ip", "link del eth0");
        bed.del(&pod)
    }),
    must("chain.first", ADDING, "the first plugin of a chain gets no prevResult, and prints its own")
        .on(On::Link)
        .since("0.3.0")
        .check(|bed| {
            let pod = bed.pod();
            let result = bed.add(&pod)?;
            expect!(!list(&result["interfaces"]).is_empty(), "interfaces of its own", "{result}");
            Ok(())
        }),
];

/// What went in and what came out.
fn passed(bed: &Bed) -> Result<(Value, Value), Trouble> {
    let pod = bed.pod();
    let ask = bed.ask("ADD", &pod);
    let earlier = ask.conf["prevResult"].clone();
    let result = bed.added(&pod, ask)?;
    bed.del(&pod)?;
    Ok((earlier, result))
}
