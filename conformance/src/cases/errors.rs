//! Section 2, Errors, and section 5, Error: how a plugin says that it failed.

use crate::expect;
use crate::suite::{Bed, Case, On, Reply, convention, must, should};
use serde_json::Value;

const ERRORS: &str = "Section 2: Errors";
const ERROR: &str = "Section 5: Error";

pub const CASES: &[Case] = &[
    must("error.exit-code", ERRORS, "an exit code other than 0 on failure").check(|bed| {
        let reply = failing(bed);
        expect!(reply.0.code.is_some_and(|code| code != 0), "an exit code other than 0", "{}", reply.seen());
        Ok(())
    }),
    must("error.stdout", ERROR, "the error is an object on stdout").check(|bed| {
        let reply = failing(bed);
        let json: Result<Value, _> = serde_json::from_str(&reply.0.stdout);
        expect!(json.is_ok_and(|json| json.is_object()), "one JSON object on stdout", "{}", reply.seen());
        Ok(())
    }),
    must("error.code", ERROR, "code is a number, and not 0").check(|bed| {
        let told = failing(bed).fails()?;
        expect!(told.json["code"].as_u64().is_some_and(|code| code > 0), "a code above 0", "{}", told.json);
        Ok(())
    }),
    must("error.msg", ERROR, "msg is a text").check(|bed| {
        let told = failing(bed).fails()?;
        expect!(told.json["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "a msg", "{}", told.json);
        Ok(())
    }),
    must("error.details", ERROR, "details, where there are any, are a text").check(|bed| {
        let told = failing(bed).fails()?;
        let details = &told.json["details"];
        expect!(details.is_null() || details.is_string(), "details that are a text", "{}", told.json);
        Ok(())
    }),
    should("error.cni-version", ERROR, "the error has the cniVersion of the config").each().check(|bed| {
        let told = bed.ask("ADD", &bed.pod()).set("/name", "../x").run().fails()?;
        expect!(
            told.json["cniVersion"] == *bed.version,
            format!("cniVersion {}", bed.version),
            "{}",
            told.json
        );
        Ok(())
    }),
    should("error.keys", ERROR, "the error has cniVersion, code, msg and details, nothing else").check(
        |bed| {
            let told = failing(bed).fails()?;
            let odd: Vec<&String> =
                told.json.as_object().into_iter().flat_map(|error| error.keys()).collect();
            let odd: Vec<_> = odd
                .into_iter()
                .filter(|key| !["cniVersion", "code", "msg", "details"].contains(&key.as_str()))
                .collect();
            expect!(odd.is_empty(), "no other keys", "{odd:?}");
            Ok(())
        },
    ),
    should("error.well-known", ERROR, "code 1 to 99 only where the specification gives it a meaning").check(
        |bed| {
            let told = failing(bed).fails()?;
            let known = [1, 2, 3, 4, 5, 6, 7, 11, 50, 51].contains(&told.code) || told.code >= 100;
            expect!(known, "a well-known code, or 100 and above", "{}", told.json);
            Ok(())
        },
    ),
    should("error.stdout-full", ERRORS, "a result that can't be printed is a failure")
        .on(On::Configured)
        .check(|bed| {
            let pod = bed.pod();
            let reply = bed.ask("ADD", &pod).through("/bin/sh", &["-c", "\"$0\" >/dev/full"]).run();
            expect!(
                reply.0.code.is_some_and(|code| code != 0),
                "an exit code other than 0",
                "{}",
                reply.seen()
            );
            bed.del(&pod)
        }),
    convention("error.no-trace", "operators", "an error is no stack trace").check(|bed| {
        let reply = failing(bed);
        let text = format!("{}{}", reply.0.stdout, reply.0.stderr);
        let traced =
            text.contains("goroutine ") || text.contains("panicked at") || text.contains("Traceback");
        expect!(!traced, "no stack trace", "{}", reply.seen());
        Ok(())
    }),
    should("error.logs-apart", ERRORS, "logs go to stderr: stdout has the result alone")
        .on(On::Configured)
        .check(|bed| {
            let pod = bed.pod();
            let reply = bed.ask("ADD", &pod).run();
            let result = reply.succeeds()?;
            expect!(result.is_object(), "one JSON object on stdout", "{}", reply.seen());
            bed.del(&pod)
        }),
];

/// A call that can't but fail: the config has no name.
fn failing(bed: &Bed) -> Reply {
    bed.ask("ADD", &bed.pod()).unset("name").run()
}
