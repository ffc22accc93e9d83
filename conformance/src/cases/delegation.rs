//! Section 4: plugins that ask an IPAM plugin, seen from the IPAM plugin's side.

use super::{addresses, list};
use crate::expect;
use crate::suite::{Ask, Bed, Case, On, Pod, Trouble, Verdict, convention, must, should};
use serde_json::{Value, json};
use std::path::PathBuf;

const PROTOCOL: &str = "Section 4: Delegated Plugin protocol";
const PROCEDURE: &str = "Section 4: Delegated plugin execution procedure";
const ABBREVIATED: &str = "Section 5: Delegated plugins (IPAM)";
const SUCCESS: &str = "Section 5: ADD Success";
const OBJECTS: &str = "Section 1: Plugin configuration objects";

pub const CASES: &[Case] = &[
    must("ipam-call.add", PROCEDURE, "ADD calls the IPAM plugin once, with ADD").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        let pod = bed.pod();
        bed.added(&pod, fake.ask("ADD", &pod))?;
        fake.was_called(&["ADD"])
    }),
    must("ipam-call.del", PROCEDURE, "DEL calls the IPAM plugin with DEL").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        let pod = bed.pod();
        bed.added(&pod, fake.ask("ADD", &pod))?;
        fake.ask("DEL", &pod).run().is_silent()?;
        fake.was_called(&["ADD", "DEL"])
    }),
    must("ipam-call.check", PROCEDURE, "CHECK calls the IPAM plugin with CHECK").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        let pod = bed.pod();
        bed.added(&pod, fake.ask("ADD", &pod))?;
        fake.ask("CHECK", &pod).run().is_silent()?;
        fake.was_called(&["ADD", "CHECK"])
    }),
    must("ipam-call.gc", PROCEDURE, "GC calls the IPAM plugin with GC").on(On::Delegating).since("1.1.0").anyway().check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        fake.ask("GC", &bed.pod()).set("/cni.dev~1valid-attachments", json!([])).run().is_silent()?;
        fake.was_called(&["GC"])
    }),
    must("ipam-call.status", PROCEDURE, "STATUS calls the IPAM plugin with STATUS").on(On::Delegating).since("1.1.0").anyway().check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        fake.ask("STATUS", &bed.pod()).run().is_silent()?;
        fake.was_called(&["STATUS"])
    }),
    must("ipam-call.environment", PROTOCOL, "the IPAM plugin gets all variables that its caller got").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        let pod = bed.pod();
        bed.added(&pod, fake.ask("ADD", &pod).env("CNI_ARGS", "IgnoreUnknown=1;A=b").env("ORG_EXAMPLE", "some thing"))?;
        let got = fake.told("ADD.env")?;
        let (id, path) = (format!("CNI_CONTAINERID={}", pod.id), format!("CNI_NETNS={}", pod.path.display()));
        for line in [&id, &path, "CNI_IFNAME=eth0", "CNI_ARGS=IgnoreUnknown=1;A=b", "ORG_EXAMPLE=some thing", "CNI_COMMAND=ADD"] {
            expect!(got.lines().any(|one| one == line), format!("{line} in its environment"), "{got}");
        }
        Ok(())
    }),
    must("ipam-call.config", PROTOCOL, "the IPAM plugin gets the whole config, unchanged").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        let pod = bed.pod();
        let ask = fake.ask("ADD", &pod).set("/org.example", json!({"number": 9_007_199_254_740_993_u64, "text": "<&>é"}));
        let sent = ask.conf.clone();
        bed.added(&pod, ask)?;
        let got: Value = serde_json::from_str(&fake.told("ADD.stdin")?).unwrap_or_default();
        expect!(got == sent, format!("{sent}"), "{got}");
        Ok(())
    }),
    must("ipam-call.prev-result", PROTOCOL, "on CHECK the IPAM plugin gets prevResult too").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        let pod = bed.pod();
        let result = bed.added(&pod, fake.ask("ADD", &pod))?;
        fake.ask("CHECK", &pod).run().is_silent()?;
        let got: Value = serde_json::from_str(&fake.told("CHECK.stdin")?).unwrap_or_default();
        expect!(got["prevResult"] == result, format!("{result}"), "{got}");
        Ok(())
    }),
    must("ipam-call.netns-gone", PROCEDURE, "DEL calls the IPAM plugin though the namespace is gone").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        let pod = bed.pod();
        bed.added(&pod, fake.ask("ADD", &pod))?;
        bed.kill(&pod);
        fake.ask("DEL", &pod).run().is_silent()?;
        fake.was_called(&["ADD", "DEL"])
    }),
    must("ipam-call.netns-empty", PROCEDURE, "DEL calls the IPAM plugin though CNI_NETNS is empty").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        let pod = bed.pod();
        bed.added(&pod, fake.ask("ADD", &pod))?;
        fake.ask("DEL", &pod).env("CNI_NETNS", "").run().is_silent()?;
        fake.was_called(&["ADD", "DEL"])
    }),
    must("ipam-call.path-order", PROTOCOL, "the first folder of CNI_PATH that has the plugin wins").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        bed.file("later/fake-ipam", "#!/bin/sh\nexit 1\n", 0o755);
        let path = format!("/nowhere:{}:{}", fake.dir.display(), bed.dir().join("later").display());
        let pod = bed.pod();
        bed.added(&pod, fake.ask("ADD", &pod).env("CNI_PATH", path)).map(drop)
    }),
    must("ipam-call.type-path", OBJECTS, "an IPAM type with a slash is an error, and nothing is run").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        fake.ask("ADD", &bed.pod()).set("/ipam/type", "../fake/fake-ipam").run().fails()?;
        fake.was_called(&[])
    }),
    must("ipam-call.error", PROCEDURE, "an error of the IPAM plugin is ADD's error").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &json!({"cniVersion": bed.version, "code": 142, "msg": "the pool is on fire", "details": "since noon"}));
        bed.file("fake/ADD.code", "1", 0o644);
        fake.ask("ADD", &bed.pod()).run().fails_naming(&["the pool is on fire"])
    }),
    should("ipam-call.error-code", PROCEDURE, "the code of the IPAM plugin's error is kept: 11 tells the runtime to try again").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &json!({"cniVersion": bed.version, "code": 11, "msg": "later"}));
        bed.file("fake/ADD.code", "1", 0o644);
        fake.ask("ADD", &bed.pod()).run().fails_with(&[11]).map(drop)
    }),
    must("ipam-call.error-clean", PROCEDURE, "ADD whose IPAM plugin fails leaves nothing").on(On::Delegating).since("1.0.0").check(|bed| {
        bed.warm()?;
        let fake = Fake::new(bed, &json!({"cniVersion": bed.version, "code": 11, "msg": "later"}));
        bed.file("fake/ADD.code", "1", 0o644);
        let pod = bed.pod();
        let (host, inside) = (bed.look(), bed.look_inside(&pod));
        fake.ask("ADD", &pod).run().fails()?;
        bed.is_back_to(&host)?;
        bed.is_back_inside(&pod, &inside)
    }),
    must("ipam-call.check-error", PROCEDURE, "an error of the IPAM plugin on CHECK is CHECK's error").on(On::Delegating).since("1.0.0").check(|bed| {
        later_error(bed, "CHECK")
    }),
    must("ipam-call.del-error", PROCEDURE, "an error of the IPAM plugin on DEL is DEL's error: the runtime tries again").on(On::Delegating).since("1.0.0").check(|bed| {
        later_error(bed, "DEL")
    }),
    must("ipam-call.undone", PROCEDURE, "an ADD that fails after its IPAM plugin gave an address gives it back with DEL").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &json!({"cniVersion": bed.version, "ips": [{"address": "10.83.0.7/24"}],
            "routes": [{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]}));
        fake.ask("ADD", &bed.pod()).run().fails()?;
        fake.was_called(&["ADD", "DEL"])
    }),
    must("ipam-call.no-addresses", ABBREVIATED, "a result of the IPAM plugin without an address is an error, and given back").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &json!({"cniVersion": bed.version}));
        fake.ask("ADD", &bed.pod()).run().fails()?;
        fake.was_called(&["ADD", "DEL"])
    }),
    must("ipam-call.garbage", ABBREVIATED, "an answer of the IPAM plugin that is no result is an error").on(On::Delegating).since("1.0.0").check(|bed| {
        bed.warm()?;
        let fake = Fake::new(bed, &json!("nonsense"));
        let pod = bed.pod();
        let before = bed.look_inside(&pod);
        fake.ask("ADD", &pod).run().fails()?;
        bed.is_back_inside(&pod, &before)
    }),
    must("ipam-call.silent-death", PROCEDURE, "an IPAM plugin that dies without a word is an error that names it").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        bed.file("fake/fake-ipam", "#!/bin/sh\nkill -9 $$\n", 0o755);
        fake.ask("ADD", &bed.pod()).run().fails().map(drop)
    }),
    should("ipam-call.stderr", PROCEDURE, "what the IPAM plugin writes to stderr comes out on stderr").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &answer("10.83.0.7/24"));
        bed.file("fake/stderr", "a word from the pool", 0o644);
        let reply = fake.ask("ADD", &bed.pod()).run();
        reply.succeeds()?;
        expect!(reply.0.stderr.contains("a word from the pool"), "its words on stderr", "{}", reply.seen());
        Ok(())
    }),
    should("ipam-call.stderr-failed", PROCEDURE, "what an IPAM plugin that fails writes to stderr comes out too").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &json!({"code": 142, "msg": "no"}));
        bed.file("fake/ADD.code", "1", 0o644);
        bed.file("fake/stderr", "a word from the pool", 0o644);
        let reply = fake.ask("ADD", &bed.pod()).run();
        reply.fails()?;
        let text = format!("{}{}", reply.0.stderr, reply.0.stdout);
        expect!(text.contains("a word from the pool"), "its words on stderr", "{}", reply.seen());
        Ok(())
    }),
    must("ipam-call.addresses", SUCCESS, "the addresses of the IPAM plugin are the result's, and the interface's").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &json!({"cniVersion": bed.version, "ips": [
            {"address": "10.83.0.7/24", "gateway": "10.83.0.1"}, {"address": "fd00:83::7/64", "gateway": "fd00:83::1"}]}));
        let pod = bed.pod();
        let result = bed.added(&pod, fake.ask("ADD", &pod))?;
        let got = addresses(&result);
        expect!(got == ["10.83.0.7/24", "fd00:83::7/64"], "both addresses", "{result}");
        let there = bed.inside(&pod, "ip", "-o addr show dev eth0");
        expect!(got.iter().all(|address| there.contains(address.as_str())), "both on eth0", "{there}");
        Ok(())
    }),
    must("ipam-call.routes", SUCCESS, "the routes of the IPAM plugin are the result's, and the container's").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &json!({"cniVersion": bed.version, "ips": [{"address": "10.83.0.7/24", "gateway": "10.83.0.1"}],
            "routes": [{"dst": "198.51.100.0/24"}, {"dst": "203.0.113.0/24", "gw": "10.83.0.9"}]}));
        let pod = bed.pod();
        let result = bed.added(&pod, fake.ask("ADD", &pod))?;
        for dst in ["198.51.100.0/24", "203.0.113.0/24"] {
            expect!(list(&result["routes"]).iter().any(|route| route["dst"] == dst), format!("{dst} in the result"), "{result}");
        }
        let there = bed.inside(&pod, "ip", "route show");
        for line in ["198.51.100.0/24 via 10.83.0.1", "203.0.113.0/24 via 10.83.0.9"] {
            expect!(there.contains(line), line, "{there}");
        }
        Ok(())
    }),
    must("ipam-call.dns", SUCCESS, "the dns of the IPAM plugin is the result's").on(On::Delegating).since("1.0.0").check(|bed| {
        let dns = json!({"nameservers": ["10.83.0.1"], "domain": "example.org", "search": ["example.org"], "options": ["ndots:2"]});
        let mut told = answer("10.83.0.7/24");
        told["dns"] = dns.clone();
        let fake = Fake::new(bed, &told);
        let pod = bed.pod();
        let result = bed.added(&pod, fake.ask("ADD", &pod))?;
        expect!(result["dns"] == dns, format!("{dns}"), "{result}");
        Ok(())
    }),
    convention("ipam-call.older-result", "cni/pkg/invoke", "an IPAM plugin may leave cniVersion out of its result").on(On::Delegating).since("1.0.0").check(|bed| {
        let fake = Fake::new(bed, &json!({"ips": [{"address": "10.83.0.7/24"}]}));
        let pod = bed.pod();
        bed.added(&pod, fake.ask("ADD", &pod)).map(drop)
    }),
    convention("ipam-call.terminated", "systemd and runtimes, which end plugins by SIGTERM", "ADD that is terminated while its IPAM plugin works leaves nothing")
        .on(On::Delegating)
        .since("1.0.0")
        .check(|bed| {
            bed.warm()?;
            let fake = Fake::new(bed, &answer("10.83.0.7/24"));
            bed.file("fake/fake-ipam", "#!/bin/sh\n[ \"$CNI_COMMAND\" != ADD ] || exec sleep 3\n", 0o755);
            let pod = bed.pod();
            let (host, inside) = (bed.look(), bed.look_inside(&pod));
            let reply = fake.ask("ADD", &pod).through("/bin/sh", &["-c", "\"$0\" & sleep 1; kill $!; wait $!"]).run();
            expect!(reply.0.code.is_some_and(|code| code != 0), "failure", "{}", reply.seen());
            bed.is_back_to(&host)?;
            bed.is_back_inside(&pod, &inside)
        }),
];

/// A result of an IPAM plugin.
fn answer(address: &str) -> Value {
    json!({"cniVersion": "1.0.0", "ips": [{"address": address, "gateway": "10.83.0.1"}]})
}

/// An IPAM plugin that writes down what it is told, and answers ADD as it was told before.
struct Fake<'a> {
    bed: &'a Bed<'a>,
    dir: PathBuf,
}

const SCRIPT: &str = "#!/bin/sh
dir=${0%/*}
echo \"$CNI_COMMAND\" >>\"$dir/calls\"
env >\"$dir/$CNI_COMMAND.env\"
cat >\"$dir/$CNI_COMMAND.stdin\"
[ ! -e \"$dir/stderr\" ] || cat \"$dir/stderr\" >&2
[ ! -e \"$dir/$CNI_COMMAND.out\" ] || cat \"$dir/$CNI_COMMAND.out\"
[ ! -e \"$dir/$CNI_COMMAND.code\" ] || exit \"$(cat \"$dir/$CNI_COMMAND.code\")\"
";

impl<'a> Fake<'a> {
    fn new(bed: &'a Bed<'a>, answer: &Value) -> Self {
        bed.file("fake/fake-ipam", SCRIPT, 0o755);
        bed.file("fake/ADD.out", &answer.to_string(), 0o644);
        Self { bed, dir: bed.dir().join("fake") }
    }

    /// A call of the subject that finds it.
    fn ask(&self, verb: &str, pod: &Pod) -> Ask<'a> {
        let path = format!("{}:{}", self.dir.display(), self.bed.subject.dir.display());
        self.bed.ask(verb, pod).env("CNI_PATH", path).set("/ipam", json!({"type": "fake-ipam"}))
    }

    fn told(&self, file: &str) -> Result<String, Trouble> {
        let text = std::fs::read_to_string(self.dir.join(file));
        text.map_err(|_| Trouble::deviation("the IPAM plugin is called", format!("it was not: no {file}")))
    }

    fn was_called(&self, want: &[&str]) -> Verdict {
        let calls = std::fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        let calls: Vec<&str> = calls.lines().collect();
        expect!(calls == want, format!("calls of the IPAM plugin: {want:?}"), "{calls:?}");
        Ok(())
    }
}

/// `verb` fails when the IPAM plugin's does, and says why.
fn later_error(bed: &Bed, verb: &str) -> Verdict {
    let fake = Fake::new(bed, &answer("10.83.0.7/24"));
    let pod = bed.pod();
    bed.added(&pod, fake.ask("ADD", &pod))?;
    bed.file(&format!("fake/{verb}.out"), r#"{"code": 142, "msg": "the pool is on fire"}"#, 0o644);
    bed.file(&format!("fake/{verb}.code"), "1", 0o644);
    fake.ask(verb, &pod).run().fails_naming(&["the pool is on fire"])
}
