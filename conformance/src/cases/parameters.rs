//! Section 2, Parameters: the environment.

use crate::expect;
use crate::suite::{Bed, Case, On, Verdict, convention, must, should};

const PARAMETERS: &str = "Section 2: Parameters";
const ADD: &str = "Section 2: ADD, required environment parameters";
const DEL: &str = "Section 2: DEL, required environment parameters";
const CHECK: &str = "Section 2: CHECK, required environment parameters";
const ERROR: &str = "Section 5: Error, code 4";
const SKEL: &str = "cni/pkg/skel, which most plugins are built on";

pub const CASES: &[Case] = &[
    must("env.add.no-container-id", ADD, "ADD without CNI_CONTAINERID is an error of code 4")
        .check(|bed| missing(bed, "ADD", "CNI_CONTAINERID")),
    must("env.add.no-netns", ADD, "ADD without CNI_NETNS is an error of code 4")
        .check(|bed| missing(bed, "ADD", "CNI_NETNS")),
    must("env.add.no-ifname", ADD, "ADD without CNI_IFNAME is an error of code 4")
        .check(|bed| missing(bed, "ADD", "CNI_IFNAME")),
    must("env.del.no-container-id", DEL, "DEL without CNI_CONTAINERID is an error of code 4")
        .check(|bed| missing(bed, "DEL", "CNI_CONTAINERID")),
    must("env.del.no-ifname", DEL, "DEL without CNI_IFNAME is an error of code 4")
        .check(|bed| missing(bed, "DEL", "CNI_IFNAME")),
    must("env.check.no-container-id", CHECK, "CHECK without CNI_CONTAINERID is an error of code 4")
        .since("0.4.0")
        .check(|bed| missing(bed, "CHECK", "CNI_CONTAINERID")),
    must("env.check.no-netns", CHECK, "CHECK without CNI_NETNS is an error of code 4")
        .since("0.4.0")
        .check(|bed| missing(bed, "CHECK", "CNI_NETNS")),
    must("env.check.no-ifname", CHECK, "CHECK without CNI_IFNAME is an error of code 4")
        .since("0.4.0")
        .check(|bed| missing(bed, "CHECK", "CNI_IFNAME")),
    convention("env.empty-is-missing", SKEL, "an empty variable is a missing one")
        .check(|bed| bed.ask("ADD", &bed.pod()).env("CNI_IFNAME", "").run().fails_with(&[4]).map(drop)),
    must("env.names-all-missing", ERROR, "the error names every variable that is missing").check(|bed| {
        let ask =
            bed.ask("ADD", &bed.pod()).without("CNI_CONTAINERID").without("CNI_IFNAME").without("CNI_NETNS");
        ask.run().fails_naming(&["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"])
    }),
    must("env.command.unknown", ERROR, "code 4 for a command that there is not")
        .check(|bed| bed.ask("FROB", &bed.pod()).run().fails_with(&[4]).map(drop)),
    must("env.command.case", PARAMETERS, "commands are upper case: add is none")
        .check(|bed| bed.ask("add", &bed.pod()).run().fails_with(&[4]).map(drop)),
    must("env.command.space", PARAMETERS, "a command with a space is none")
        .check(|bed| bed.ask("ADD ", &bed.pod()).run().fails_with(&[4]).map(drop)),
    must("env.container-id.slash", PARAMETERS, "a container ID has no slash")
        .check(|bed| bad_id(bed, "a/../b")),
    must("env.container-id.dots", PARAMETERS, "a container ID does not start with a dot")
        .check(|bed| bad_id(bed, "..")),
    must("env.container-id.hyphen", PARAMETERS, "a container ID does not start with a hyphen")
        .check(|bed| bad_id(bed, "-rf")),
    must("env.container-id.space", PARAMETERS, "a container ID has no space").check(|bed| bad_id(bed, "a b")),
    must("env.container-id.newline", PARAMETERS, "a container ID has no line break")
        .check(|bed| bad_id(bed, "a\n")),
    must("env.container-id.letters", PARAMETERS, "a container ID has ASCII letters alone")
        .check(|bed| bad_id(bed, "ä")),
    must("env.container-id.every-letter", PARAMETERS, "a container ID may have letters, digits, _ . and -")
        .on(On::Configured)
        .check(|bed| good_id(bed, "Zz_9.-x")),
    convention(
        "env.container-id.long",
        "container runtimes",
        "a container ID of 64 digits, as runtimes have them, is fine",
    )
    .on(On::Configured)
    .check(|bed| good_id(bed, &"0123456789abcdef".repeat(4))),
    must("env.ifname.long", PARAMETERS, "a name that the kernel can't take, of 16 bytes, is an error")
        .check(|bed| bad_ifname(bed, "abcdefghijklmnop")),
    must("env.ifname.dots", PARAMETERS, ".. is no interface name").check(|bed| bad_ifname(bed, "..")),
    must("env.ifname.slash", PARAMETERS, "an interface name has no slash")
        .check(|bed| bad_ifname(bed, "a/b")),
    must("env.ifname.colon", PARAMETERS, "an interface name has no colon")
        .check(|bed| bad_ifname(bed, "a:b")),
    must("env.ifname.space", PARAMETERS, "an interface name has no space")
        .check(|bed| bad_ifname(bed, "a b")),
    must("env.ifname.longest", PARAMETERS, "a name of 15 bytes is fine")
        .on(On::Link)
        .check(|bed| good_ifname(bed, "abcdefghijklmno")),
    must("env.ifname.dot", PARAMETERS, "a name with a dot, as VLANs have, is fine")
        .on(On::Link)
        .check(|bed| good_ifname(bed, "net1.100")),
    must("env.netns.missing", PARAMETERS, "ADD to a namespace that is not there is an error")
        .on(On::Link)
        .check(|bed| bad_netns(bed, "/nowhere")),
    must("env.netns.no-namespace", PARAMETERS, "ADD to a file that is no namespace is an error")
        .on(On::Link)
        .check(|bed| bad_netns(bed, "/etc/passwd")),
    must("env.netns.other-kind", PARAMETERS, "ADD to a namespace of another kind is an error")
        .on(On::Link)
        .check(|bed| bad_netns(bed, "/proc/self/ns/mnt")),
    convention("env.netns.own", SKEL, "ADD to the host's own namespace is an error").on(On::Link).check(
        |bed| {
            bed.warm()?;
            let before = bed.look();
            bed.ask("ADD", &bed.pod()).env("CNI_NETNS", "/proc/self/ns/net").run().fails()?;
            bed.is_back_to(&before)
        },
    ),
    convention(
        "env.args.ignore-unknown",
        "kubelet's runtimes",
        "CNI_ARGS as Kubernetes' runtimes send them are fine",
    )
    .on(On::Configured)
    .check(|bed| {
        let pod = bed.pod();
        let args =
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1";
        bed.added(&pod, bed.ask("ADD", &pod).env("CNI_ARGS", args))?;
        bed.ask("DEL", &pod).env("CNI_ARGS", args).run().is_silent()
    }),
    should("env.path.several", PARAMETERS, "CNI_PATH may name folders that are not there, and several")
        .on(On::Delegating)
        .check(|bed| {
            let pod = bed.pod();
            let path = format!("/nowhere:{}:/nowhere/else", bed.subject.dir.display());
            bed.added(&pod, bed.ask("ADD", &pod).env("CNI_PATH", &path))?;
            bed.ask("DEL", &pod).env("CNI_PATH", &path).run().is_silent()
        }),
    should("env.others", PARAMETERS, "variables of others do not matter").on(On::Configured).check(|bed| {
        let pod = bed.pod();
        let ask = bed
            .ask("ADD", &pod)
            .env("CNI_EXAMPLE", "1")
            .env("LC_ALL", "xx_YY")
            .env("TMPDIR", "/nowhere")
            .env("HOME", "");
        bed.added(&pod, ask)?;
        bed.del(&pod)
    }),
];

fn missing(bed: &Bed, verb: &str, variable: &str) -> Verdict {
    let told = bed.ask(verb, &bed.pod()).without(variable).run().fails_with(&[4])?;
    expect!(told.text.contains(variable), format!("an error that names {variable}"), "{}", told.json);
    Ok(())
}

fn bad_id(bed: &Bed, id: &str) -> Verdict {
    bed.ask("ADD", &bed.pod()).env("CNI_CONTAINERID", id).run().fails_with(&[4]).map(drop)
}

fn bad_ifname(bed: &Bed, ifname: &str) -> Verdict {
    bed.ask("ADD", &bed.pod()).env("CNI_IFNAME", ifname).run().fails_with(&[4]).map(drop)
}

fn good_id(bed: &Bed, id: &str) -> Verdict {
    let mut pod = bed.pod();
    id.clone_into(&mut pod.id);
    bed.add(&pod)?;
    bed.del(&pod)
}

fn good_ifname(bed: &Bed, ifname: &str) -> Verdict {
    let mut pod = bed.pod();
    ifname.clone_into(&mut pod.ifname);
    bed.add(&pod)?;
    let link = bed.try_inside(&pod, "ip", &format!("link show {ifname}"));
    expect!(link.is_ok(), format!("an interface {ifname} in the container"), "{link:?}");
    bed.del(&pod)
}

fn bad_netns(bed: &Bed, path: &str) -> Verdict {
    bed.warm()?;
    let before = bed.look();
    bed.ask("ADD", &bed.pod()).env("CNI_NETNS", path).run().fails()?;
    bed.is_back_to(&before)
}
