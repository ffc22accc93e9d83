//! Section 1: what a plugin makes of its configuration.

use crate::suite::{Bed, Case, On, Verdict, convention, must, should};
use serde_json::{Value, json};

const FORMAT: &str = "Section 1: Configuration format";
const OBJECTS: &str = "Section 1: Plugin configuration objects";
const ERROR: &str = "Section 5: Error";
const DERIVING: &str = "Section 3: Deriving request configuration";

/// No JSON is code 6; some say 7 where it is JSON, but no config.
const DECODE: &[u64] = &[6];
const CONFIG: &[u64] = &[6, 7];

pub const CASES: &[Case] = &[
    must("conf.empty", ERROR, "code 6 when there is no config on stdin")
        .check(|bed| refuses(bed, "", DECODE)),
    must("conf.no-json", ERROR, "code 6 when the config is no JSON")
        .check(|bed| refuses(bed, "nonsense", DECODE)),
    must("conf.truncated", ERROR, "code 6 when the config ends early")
        .check(|bed| refuses(bed, r#"{"cniVersion": "1.0.0", "name": "net1""#, DECODE)),
    must("conf.two-documents", ERROR, "code 6 when something comes after the config").check(|bed| {
        let pod = bed.pod();
        let conf = bed.conf(&pod).to_string();
        refuses(bed, &format!("{conf}{conf}"), DECODE)
    }),
    must("conf.list", FORMAT, "a config is an object, so a list is an error")
        .check(|bed| refuses(bed, "[]", CONFIG)),
    must("conf.null", FORMAT, "a config is an object, so null is an error")
        .check(|bed| refuses(bed, "null", CONFIG)),
    must("conf.name.missing", FORMAT, "a network has a name: code 7 without")
        .check(|bed| bed.ask("ADD", &bed.pod()).unset("name").run().fails_with(&[7]).map(drop)),
    must("conf.name.empty", FORMAT, "a name must not be empty").check(|bed| bad_name(bed, "")),
    must("conf.name.path", FORMAT, "a name has no slash: it becomes part of file names")
        .check(|bed| bad_name(bed, "../x")),
    must("conf.name.start", FORMAT, "a name starts with a letter or digit")
        .check(|bed| bad_name(bed, "-net")),
    must("conf.name.newline", FORMAT, "a name has no line break, at its end neither")
        .check(|bed| bad_name(bed, "net\n")),
    must("conf.name.every-letter", FORMAT, "a name may have letters, digits, _ . and -")
        .on(On::Configured)
        .check(|bed| {
            let pod = bed.pod();
            bed.added(&pod, bed.ask("ADD", &pod).set("/name", "A0_z.-9"))?;
            bed.ask("DEL", &pod).set("/name", "A0_z.-9").run().is_silent()
        }),
    must("conf.version.unknown", ERROR, "code 1 for a version that nobody speaks")
        .check(|bed| bad_version(bed, "9.9.9")),
    must("conf.version.short", ERROR, "code 1 for 1.0, which is no version of the specification")
        .check(|bed| bad_version(bed, "1.0")),
    must("conf.version.type", ERROR, "an error for a version that is no string")
        .check(|bed| bed.ask("ADD", &bed.pod()).set("/cniVersion", 1).run().fails_with(&[1, 6, 7]).map(drop)),
    should("conf.version.names-spoken", ERROR, "the error of an unknown version names those that are spoken")
        .check(|bed| {
            let spoken: Vec<&str> = bed.subject.versions.iter().map(String::as_str).collect();
            bed.ask("ADD", &bed.pod()).set("/cniVersion", "9.9.9").run().fails_naming(&spoken)
        }),
    convention(
        "conf.version.missing",
        "cni/pkg/version: a config without cniVersion is 0.1.0",
        "no version means 0.1.0",
    )
    .on(On::Configured)
    .until("0.1.0")
    .check(|bed| {
        let pod = bed.pod();
        let result = bed.ask("ADD", &pod).unset("cniVersion").run().succeeds()?;
        crate::expect!(result["ip4"].is_object(), "a result of version 0.1.0, with ip4", "{result}");
        Ok(())
    }),
    must("conf.keys.unknown", OBJECTS, "configs may have keys that a plugin does not know")
        .on(On::Configured)
        .check(|bed| accepts(bed, "/org.example~1key", json!({"a": [1, null]}))),
    must("conf.keys.capabilities", DERIVING, "a runtime may leave capabilities in, as libcni does")
        .on(On::Configured)
        .check(|bed| accepts(bed, "/capabilities/org.example", json!(true))),
    must("conf.keys.args", OBJECTS, "args may hold data of others")
        .on(On::Configured)
        .check(|bed| accepts(bed, "/args/labels", json!([{"key": "app", "value": "web"}]))),
    must("conf.keys.runtime", DERIVING, "runtimeConfig may hold capabilities of others")
        .on(On::Configured)
        .check(|bed| accepts(bed, "/runtimeConfig/org.example", json!({"a": 1}))),
    must("conf.keys.reserved", OBJECTS, "keys that begin with cni.dev/ may come")
        .on(On::Configured)
        .check(|bed| accepts(bed, "/cni.dev~1example", json!([]))),
    convention(
        "conf.keys.case",
        "encoding/json of Go, which most plugins read configs with",
        "keys match in any case",
    )
    .on(On::Configured)
    .check(|bed| {
        let pod = bed.pod();
        bed.added(&pod, bed.ask("ADD", &pod).unset("name").set("/NAME", "net1"))?;
        bed.del(&pod)
    }),
    should("conf.large", OBJECTS, "a config of a megabyte is read to its end")
        .on(On::Configured)
        .check(|bed| accepts(bed, "/org.example~1key", json!("x".repeat(1 << 20)))),
    must("conf.unchanged-by-order", FORMAT, "the order of keys means nothing").on(On::Configured).check(
        |bed| {
            let pod = bed.pod();
            let ask = bed.ask("ADD", &pod);
            let text = ask.conf.as_object().map_or(String::new(), |conf| {
                let keys: Vec<String> =
                    conf.iter().rev().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
                format!("\n\t{{{}}}\n\n", keys.join(" ,\r\n "))
            });
            bed.added(&pod, ask.stdin(text))?;
            bed.del(&pod)
        },
    ),
];

fn refuses(bed: &Bed, text: &str, codes: &[u64]) -> Verdict {
    let pod = bed.pod();
    let before = bed.look();
    bed.ask("ADD", &pod).stdin(text).run().fails_with(codes)?;
    bed.is_back_to(&before)
}

fn bad_name(bed: &Bed, name: &str) -> Verdict {
    let pod = bed.pod();
    let before = bed.look();
    bed.ask("ADD", &pod).set("/name", name).run().fails_with(&[7])?;
    bed.is_back_to(&before)
}

fn bad_version(bed: &Bed, version: &str) -> Verdict {
    let pod = bed.pod();
    let before = bed.look();
    bed.ask("ADD", &pod).set("/cniVersion", version).run().fails_with(&[1])?;
    bed.is_back_to(&before)
}

/// ADD and DEL succeed with this key.
fn accepts(bed: &Bed, pointer: &str, value: Value) -> Verdict {
    let pod = bed.pod();
    bed.added(&pod, bed.ask("ADD", &pod).set(pointer, value.clone()))?;
    bed.ask("DEL", &pod).set(pointer, value).run().is_silent()
}
