//! Input that no honest runtime sends, and machines that fail: a plugin answers with an error, in time, and leaves nothing.

use crate::expect;
use crate::suite::{Bed, Case, On, Pod, Trouble, Verdict, convention, must, should};
use serde_json::json;

const ERRORS: &str = "Section 2: Errors";
const PARAMETERS: &str = "Section 2: Parameters";
const LIFE: &str = "Section 3: Lifecycle & Ordering";

pub const CASES: &[Case] = &[
    must("hostile.nul-bytes", ERRORS, "a config of NUL bytes is an error")
        .check(|bed| refuses(bed, vec![0; 4096], "head -c 4096 /dev/zero")),
    must("hostile.megabytes", ERRORS, "a config of ten megabytes of nothing is an error")
        .check(|bed| refuses(bed, vec![b' '; 10 << 20], "head -c 10485760 /dev/zero | tr '\\0' ' '")),
    must("hostile.no-utf8", ERRORS, "a config of bytes that are no text is an error")
        .check(|bed| refuses(bed, vec![0xff, 0xfe, 0x7b, 0x7d], "printf '\\377\\376{}'")),
    must("hostile.deep", ERRORS, "a config of 100,000 lists in each other is an error, not a crash")
        .check(|bed| refuses(bed, vec![b'['; 100_000], "head -c 100000 /dev/zero | tr '\\0' '['")),
    must("hostile.deep-key", ERRORS, "a config with a very deep key ends well or in an error")
        .on(On::Configured)
        .check(|bed| {
            let pod = bed.pod();
            let conf = bed.ask("ADD", &pod).conf.to_string();
            let deep = format!(
                "{{\"x\":{}{},{}",
                "[".repeat(50_000),
                "]".repeat(50_000),
                conf.trim_start_matches('{')
            );
            let before = bed.look();
            let reply = bed.ask("ADD", &pod).stdin(deep).run();
            if reply.0.is_ok() {
                return bed.del(&pod);
            }
            reply.fails()?;
            bed.is_back_to(&before)
        }),
    must("hostile.long-variable", PARAMETERS, "a container ID of 100,000 letters ends well or in an error")
        .check(|bed| {
            let reply = bed.ask("ADD", &bed.pod()).env("CNI_CONTAINERID", "a".repeat(100_000)).run();
            if reply.0.is_ok() { Ok(()) } else { reply.fails().map(drop) }
        }),
    must(
        "hostile.variable-bytes",
        PARAMETERS,
        "an interface name of bytes that are no text ends well or in an error",
    )
    .on(On::Link)
    .check(|bed| {
        use std::os::unix::ffi::OsStringExt;
        let reply = bed
            .ask("ADD", &bed.pod())
            .env("CNI_IFNAME", std::ffi::OsString::from_vec(vec![b'a', 0xff]))
            .run();
        if reply.0.is_ok() { Ok(()) } else { reply.fails().map(drop) }
    }),
    must("hostile.netns-fifo", PARAMETERS, "ADD to a pipe in place of a namespace is an error, not a wait")
        .on(On::Link)
        .check(|bed| {
            let fifo = bed.dir().join("fifo").display().to_string();
            bed.run("mkfifo", &[&fifo]);
            bed.ask("ADD", &bed.pod()).env("CNI_NETNS", fifo).run().fails().map(drop)
        }),
    must("hostile.netns-device", PARAMETERS, "ADD to a device in place of a namespace is an error")
        .on(On::Link)
        .check(|bed| bed.ask("ADD", &bed.pod()).env("CNI_NETNS", "/dev/zero").run().fails().map(drop)),
    must(
        "hostile.name-escape",
        "Section 1: Configuration format",
        "a name cannot lead out of the folder for state",
    )
    .on(On::Ipam)
    .check(|bed| {
        let before = bed.look();
        bed.ask("ADD", &bed.pod()).set("/name", "../../escaped").run().fails()?;
        bed.is_back_to(&before)
    }),
    should("hostile.disk-full", LIFE, "ADD on a full disk fails and leaves nothing, and DEL succeeds")
        .on(On::Ipam)
        .check(|bed| {
            let full = bed.dir().join("full").display().to_string();
            bed.run("mkdir", &["-p", &full]);
            bed.run("mount", &["-t", "tmpfs", "-o", "size=4k,nr_inodes=16", "none", &full]);
            bed.run("sh", &["-c", "head -c 4096 /dev/zero >\"$0/filler\"", &full]);
            let pod = bed.pod();
            bed.ask("ADD", &pod).set("/ipam/dataDir", full.clone()).run().fails()?;
            bed.ask("DEL", &pod).set("/ipam/dataDir", full.clone()).run().is_silent()?;
            let left = bed.run("find", &[&full, "-type", "f", "-name", "10.*"]);
            expect!(left.is_empty(), "no lease", "{left}");
            Ok(())
        }),
    should("hostile.killed", LIFE, "an ADD that is killed at any of its writes loses no address")
        .on(On::Addressing)
        .check(killed),
    should("hostile.empty-lease", LIFE, "an empty lease, what a crash may leave, does not block DEL")
        .on(On::Plugin("host-local"))
        .check(|bed| {
            let pod = bed.pod();
            bed.add(&pod)?;
            bed.file("leases/net1/10.83.0.77", "", 0o600);
            bed.del(&pod)
        }),
    convention("hostile.read-only", LIFE, "an error that names the folder when state can't be kept")
        .on(On::Ipam)
        .check(|bed| {
            let ask = bed.ask("ADD", &bed.pod()).set("/ipam/dataDir", "/proc/self/leases");
            ask.run().fails_naming(&["/proc/self/leases"])
        }),
    must("hostile.time", ERRORS, "no call of these takes a minute").check(|bed| {
        let reply = bed
            .ask("ADD", &bed.pod())
            .stdin_made(vec![b'{'; 1 << 20], "head -c 1048576 /dev/zero | tr '\\0' '{'")
            .run();
        expect!(reply.0.code.is_some(), "an answer within a minute", "{}", reply.seen());
        Ok(())
    }),
];

/// Kills ADD at its first write, its second, and so on until it is through; DEL frees the one address each time.
fn killed(bed: &Bed) -> Verdict {
    const STRACE: &str = "/usr/bin/strace";
    if !std::path::Path::new(STRACE).is_file() {
        return Err(Trouble::Untried("strace is not installed".into()));
    }
    let small = json!([[{"subnet": "10.83.0.0/30"}]]);
    let ask = |verb: &str, pod: &Pod| bed.ask(verb, pod).set("/ipam/ranges", small.clone());
    for nth in 1..100 {
        let pod = bed.pod();
        let inject = format!("inject=write:signal=SIGKILL:when={nth}");
        let reply = ask("ADD", &pod).through(STRACE, &["-f", "-qq", "-o", "/dev/null", "-e", &inject]).run();
        ask("DEL", &pod).run().is_silent()?;
        let next = bed.pod();
        let added = ask("ADD", &next).run();
        expect!(
            added.0.is_ok(),
            format!("the only address is free after an ADD killed at write {nth}, and DEL"),
            "{}",
            added.seen()
        );
        ask("DEL", &next).run().is_silent()?;
        if reply.0.is_ok() {
            expect!(nth > 1, "ADD writes something", "{}", reply.seen());
            return Ok(());
        }
    }
    Err(Trouble::Untried("ADD writes more than a hundred times".into()))
}

fn refuses(bed: &Bed, bytes: Vec<u8>, made_by: &str) -> Verdict {
    let before = bed.look();
    let told = bed.ask("ADD", &bed.pod()).stdin_made(bytes, made_by).run().fails()?;
    if told.json.to_string().len() > 65_536 {
        return Err(Trouble::deviation(
            "an error that a person can read",
            format!("{} bytes", told.json.to_string().len()),
        ));
    }
    bed.is_back_to(&before)
}
