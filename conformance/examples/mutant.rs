//! A plugin with a fault, to see that the suite finds it. Under a plugin's name, it runs the plugin of that name in the folder
//! that its file `mutation` names, and does to the call what the second line of that file says.

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

/// A call on its way in, and on its way out.
struct Call {
    verb: String,
    stdin: Vec<u8>,
    real: PathBuf,
}

impl Call {
    fn conf(&self) -> Value {
        serde_json::from_slice(&self.stdin).unwrap_or_default()
    }

    /// Changes the config, where there is one.
    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        let mut conf = self.conf();
        if conf.is_object() {
            change(&mut conf);
            self.stdin = conf.to_string().into_bytes();
        }
    }

    fn run(&self, envs: &[(&str, &str)], without: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new(&self.real);
        command.envs(envs.iter().copied());
        for name in without {
            command.env_remove(name);
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin may not want to read it all.
            let _ = stdin.write_all(&self.stdin);
        }
        child.wait_with_output()
    }
}

/// What goes back to the caller.
struct Answer {
    code: u8,
    stdout: Vec<u8>,
}

impl Answer {
    fn change(&mut self, change: impl FnOnce(&mut Value)) {
        if let Ok(mut json) = serde_json::from_slice::<Value>(&self.stdout) {
            change(&mut json);
            self.stdout = json.to_string().into_bytes();
        }
    }

    fn drop_key(&mut self, key: &str) {
        self.change(|json| {
            json.as_object_mut().map(|all| all.remove(key));
        });
    }

    fn silent() -> Self {
        Self { code: 0, stdout: vec![] }
    }
}

fn main() -> std::io::Result<ExitCode> {
    let me = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let dir = me.parent().unwrap_or(Path::new("."));
    let told = fs::read_to_string(dir.join("mutation"))?;
    let (real, mutation) = told.trim().split_once('\n').unwrap_or((told.trim(), "none"));
    let verb = std::env::var("CNI_COMMAND").unwrap_or_default();
    let mut call =
        Call { verb, stdin: vec![], real: Path::new(real).join(me.file_name().unwrap_or_default()) };
    if !["", "VERSION"].contains(&call.verb.as_str()) {
        std::io::stdin().read_to_end(&mut call.stdin)?;
    }
    let answer = mutate(&mut call, mutation)?;
    std::io::stdout().write_all(&answer.stdout)?;
    Ok(ExitCode::from(answer.code))
}

/// Whether the range has room for one container beside the gateway.
fn is_of_one_address(conf: &Value) -> bool {
    conf["ipam"]["ranges"][0][0]["subnet"].as_str().is_some_and(|subnet| subnet.ends_with("/30"))
}

#[allow(clippy::too_many_lines, reason = "a table of faults")]
fn mutate(call: &mut Call, mutation: &str) -> std::io::Result<Answer> {
    let verb = call.verb.clone();
    let is = |name: &str| verb == name;
    let mut envs: Vec<(&str, &str)> = vec![];
    let mut without = vec![];
    match mutation {
        "ignores-gc" if is("GC") => return Ok(Answer::silent()),
        "ignores-del" if is("DEL") => return Ok(Answer::silent()),
        "ignores-check" if is("CHECK") => return Ok(Answer::silent()),
        "ignores-status" if is("STATUS") => return Ok(Answer::silent()),
        "full-is-broken" if is("STATUS") && is_of_one_address(&call.conf()) => {
            return Ok(error(&call.conf(), 50, "no address is left"));
        }
        "collects-all" if is("GC") => call.change(|conf| conf["cni.dev/valid-attachments"] = json!([])),
        "old-gc-key-only" if is("GC") => call.change(|conf| {
            conf["cni.dev/valid-attachments"] = conf["cni.dev/attachments"].clone();
        }),
        "one-network" if is("ADD") && call.conf()["name"] == "net2" => {
            return Ok(error(&call.conf(), 5, "file exists"));
        }
        "first-network-alone" if is("ADD") && call.conf()["name"] == "net2" => {
            return Ok(Answer { code: 0, stdout: call.conf()["prevResult"].to_string().into_bytes() });
        }
        "needs-netns-to-delete" if is("DEL") && !Path::new(&netns()).exists() => {
            return Ok(error(&call.conf(), 4, "no such namespace"));
        }
        "deletes-by-name" if is("DEL") => inside("ip link del eth0")?,
        "deletes-once" if is("DEL") => {
            let mark = PathBuf::from(format!("{}.deleted", netns()));
            if mark.exists() {
                return Ok(error(&call.conf(), 3, "unknown container"));
            }
            fs::File::create(mark)?;
        }
        "forgets-routes-asked" if is("ADD") => call.change(|conf| conf["ipam"]["routes"] = json!([])),
        "small-letters" => envs.push(("CNI_COMMAND", "ADD")),
        "any-container-id" if is("ADD") => envs.push(("CNI_CONTAINERID", "fixed")),
        "no-args" => without.push("CNI_ARGS"),
        "always-1-0" if !call.stdin.is_empty() => call.change(|conf| conf["cniVersion"] = json!("1.0.0")),
        "reads-any-name" => call.change(|conf| conf["name"] = json!("net1")),
        "hides-config-from-ipam" => {
            call.change(|conf| drop(conf.as_object_mut().map(|all| all.remove("org.example"))));
        }
        "hangs-without-stdin" if is("VERSION") => {
            std::io::stdin().read_to_end(&mut vec![])?;
        }
        "reuses-address" if is("ADD") => {
            call.change(|conf| conf["ipam"]["dataDir"] = json!(format!("{}-x", netns())));
        }
        "never-hairpin" => call.change(|conf| conf["hairpinMode"] = json!(false)),
        "never-masquerades" => call.change(|conf| conf["ipMasq"] = json!(false)),
        "half-the-rate" => call.change(|conf| {
            conf["ingressRate"] = json!(conf["ingressRate"].as_u64().unwrap_or_default() / 2);
        }),
        "tcp-only" => call.change(|conf| mappings(conf).for_each(|one| one["protocol"] = json!("tcp"))),
        "any-host-ip" => call.change(|conf| mappings(conf).for_each(|one| one["hostIP"] = json!(""))),
        _ => {}
    }
    let output = call.run(&envs, &without)?;
    let code = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let mut answer = Answer { code, stdout: output.stdout };
    change_answer(call, mutation, &mut answer);
    change_machine(call, mutation, answer.code != 0)?;
    Ok(answer)
}

/// What is done to the answer.
fn change_answer(call: &Call, mutation: &str, answer: &mut Answer) {
    let is = |verb: &str| call.verb == verb;
    let failed = answer.code != 0;
    match mutation {
        "drops-ips" if is("ADD") => answer.drop_key("ips"),
        "drops-interfaces" if is("ADD") => answer.drop_key("interfaces"),
        "drops-routes" if is("ADD") => answer.drop_key("routes"),
        "drops-dns" if is("ADD") => answer.drop_key("dns"),
        "drops-index" if is("ADD") => answer.change(|json| {
            for ip in json["ips"].as_array_mut().into_iter().flatten() {
                ip.as_object_mut().map(|ip| ip.remove("interface"));
            }
        }),
        "adds-index" if is("ADD") => answer.change(|json| json["ips"][0]["interface"] = json!(0)),
        "wrong-version" if is("ADD") && !failed => answer.change(|json| json["cniVersion"] = json!("0.3.1")),
        "wrong-mac" if is("ADD") => answer.change(|json| {
            for one in json["interfaces"].as_array_mut().into_iter().flatten() {
                one["mac"] = json!("02:00:00:00:00:99");
            }
        }),
        "unknown-key" if is("ADD") && !failed => answer.change(|json| json["extra"] = json!(1)),
        "null-key" if is("ADD") && !failed => answer.change(|json| json["dns"]["domain"] = Value::Null),
        "exits-0" => answer.code = 0,
        "exits-1-without-error" if failed => answer.stdout.clear(),
        "error-code-0" if failed => answer.change(|json| json["code"] = json!(0)),
        "error-code-999" if failed => answer.change(|json| json["code"] = json!(999)),
        "error-without-msg" if failed => answer.drop_key("msg"),
        "error-without-version" if failed => answer.drop_key("cniVersion"),
        "logs-to-stdout" if is("ADD") && !failed => answer.stdout.splice(0..0, *b"adding\n").for_each(drop),
        "talks-on-del" if is("DEL") => answer.stdout = b"{}".to_vec(),
        "talks-on-check" if is("CHECK") && !failed => answer.stdout = b"{}".to_vec(),
        "one-version" if is("VERSION") => answer.change(|json| json["supportedVersions"] = json!(["1.1.0"])),
        "no-versions" if is("VERSION") => answer.change(|json| json["supportedVersions"] = json!([])),
        "crashes-on-empty" if call.stdin.is_empty() && !is("VERSION") => {
            *answer = Answer { code: 2, stdout: vec![] };
        }
        _ => {}
    }
}

/// What is done to the machine behind the plugin's back.
fn change_machine(call: &Call, mutation: &str, failed: bool) -> std::io::Result<()> {
    let is = |verb: &str| call.verb == verb;
    // Each call leaves something of its own: 62,500 calls come and go before a number is used again.
    let number = std::process::id();
    let octets = format!("{}.{}", number / 250 % 250, number % 250);
    match mutation {
        "leaves-veth" if is("ADD") && failed => ip(&format!("link add left{number} type bridge"))?,
        "leaves-veth-on-del" if is("DEL") => ip(&format!("link add left{number} type bridge"))?,
        "leaves-address" if is("DEL") => ip(&format!("addr add 10.99.{octets}/32 dev lo"))?,
        "leaves-rule" if is("DEL") => {
            Command::new("nft").args(["add", "table", "ip", &format!("left{number}")]).status()?;
        }
        "leaves-lease" if is("DEL") => {
            let data = call.conf()["ipam"]["dataDir"].as_str().unwrap_or_default().to_owned();
            cni_harness::write_file(
                &Path::new(&data).join(format!("net1/10.99.{octets}")),
                "left\r\neth0",
                0o600,
            );
        }
        "leaves-it-down" if is("ADD") && !failed => inside("ip link set eth0 down")?,
        "too-early" if is("ADD") && !failed => {
            inside("ip -6 route del local fd00:83::2 dev eth0 table local")?;
        }
        "leaves-route-out" if is("ADD") && !failed => inside("ip route del 192.0.2.0/24")?,
        "takes-others-routes" if is("DEL") => inside("ip route del default")?,
        "later-route-last" if is("ADD") && !failed && call.conf()["name"] == "net2" => {
            inside("ip route del default dev eth1")?;
            inside("ip route append default via 10.84.0.1 dev eth1")?;
        }
        "makes-interface-twice" if is("ADD") && !failed => inside("ip link add extra0 type bridge")?,
        "touches-others" if is("DEL") => ip("link set vh2 down")?,
        _ => {}
    }
    Ok(())
}

fn mappings(conf: &mut Value) -> impl Iterator<Item = &mut Value> {
    conf["runtimeConfig"]["portMappings"].as_array_mut().into_iter().flatten()
}

fn netns() -> String {
    std::env::var("CNI_NETNS").unwrap_or_default()
}

fn error(conf: &Value, code: u32, msg: &str) -> Answer {
    let json = json!({"cniVersion": conf["cniVersion"], "code": code, "msg": msg});
    Answer { code: 1, stdout: json.to_string().into_bytes() }
}

fn ip(args: &str) -> std::io::Result<()> {
    Command::new("ip").args(args.split(' ')).stderr(Stdio::null()).status()?;
    Ok(())
}

fn inside(command: &str) -> std::io::Result<()> {
    Command::new("nsenter").arg(format!("--net={}", netns())).args(command.split(' ')).status()?;
    Ok(())
}
