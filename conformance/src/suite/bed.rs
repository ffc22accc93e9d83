//! The machine of one run of a case: a network namespace that plays the host, a folder for state, containers. What is done to it
//! is written down.

use super::ask::Ask;
use super::steps::{Step, Steps, quote};
use super::subject::{Role, Subject};
use super::verdict::{Trouble, Verdict};
use crate::expect;
use cni_harness::call::Call;
use cni_harness::netns::{Container, Host, ip_batch, within};
use cni_harness::snapshot::Snapshot;
use cni_harness::write_file;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the kernel may take to clear away what belonged to a dead namespace.
pub(super) const SETTLE: Duration = Duration::from_secs(5);

/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the network in every config.
pub const NETWORK: &str = "net1";

/// The machine of one run.
pub struct Bed<'a> {
    /// The plugin under test.
    pub subject: &'a Subject,
    /// The version of the specification to speak.
    pub version: &'static str,
    host: Host,
    dir: TempDir,
    steps: Steps,
    pods: AtomicUsize,
}

/// A container, and its attachment as its runtime knows it.
pub struct Pod {
    /// `CNI_CONTAINERID`
    pub id: String,
    /// `CNI_IFNAME`
    pub ifname: String,
    /// `CNI_NETNS`
    pub path: PathBuf,
    number: usize,
    container: Mutex<Option<Container>>,
    earlier: Option<Value>,
    result: Mutex<Option<Value>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Bed<'a> {
    /// Moves the calling thread to a new machine, with what plugins of the subject's role find there.
    ///
    /// # Panics
    /// When there is no namespace or folder to be had.
    #[must_use]
    pub fn new(subject: &'a Subject, version: &'static str) -> Self {
        let host = Host::enter();
        let dir = tempfile::Builder::new().prefix("cni-").tempdir();
        let dir = dir.unwrap_or_else(|error| panic!("a folder for the run: {error}"));
        let bed = Self { subject, version, host, dir, steps: Steps::default(), pods: AtomicUsize::new(0) };
        if subject.role == Role::Chained {
            bed.ip_all(&[
                "link add br0 address 02:00:00:00:00:01 type bridge",
                "addr add 10.83.0.1/24 dev br0",
                "link set br0 up",
            ]);
        }
        if subject.conf.get("master").is_some_and(|master| master == "up0") {
            bed.ip_all(&["link add up0 type veth peer name up1", "link set up0 up", "link set up1 up"]);
        }
        bed
    }

    /// What this machine's kernel lacks without which the subject can do nothing.
    #[must_use]
    pub fn lacks(&self) -> Option<String> {
        let kind = self.subject.needed_link()?;
        let probe = [format!("link add probe0 type {kind}"), "link del probe0".to_owned()];
        let lines: Vec<&str> = probe.iter().map(String::as_str).collect();
        ip_batch(&[], &lines).err().map(|_| format!("this kernel has no {kind} links"))
    }

    /// The folder for state.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What was done so far.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        self.steps.all()
    }

    pub(super) fn note(&self, step: Step) {
        self.steps.note(step);
    }

    /// Runs `ip` on the host.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, args: &str) -> String {
        self.note(Step::shell(format!("ip {args}")));
        self.host.ip(args)
    }

    /// As [`Self::ip`] for each line, by one process.
    ///
    /// # Panics
    /// When one fails.
    pub fn ip_all(&self, lines: &[&str]) {
        for args in lines {
            self.note(Step::shell(format!("ip {args}")));
        }
        self.host.ip_all(lines);
    }

    /// Runs a program on the host, which has to succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let words: Vec<String> = args.iter().map(|word| quote(word)).collect();
        self.note(Step::shell(format!("{program} {}", words.join(" "))));
        self.host.run(program, args)
    }

    /// Writes a file below the run's folder, and the folders that it is in.
    ///
    /// # Panics
    /// When it can't.
    pub fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.dir().join(name);
        let shown = path.display();
        let parent = path.parent().unwrap_or(self.dir());
        let line = format!(
            "mkdir -p '{}'; printf %s {} >'{shown}'; chmod {mode:o} '{shown}'",
            parent.display(),
            quote(text)
        );
        self.note(Step::shell(line));
        let there = std::fs::create_dir_all(parent);
        assert!(there.is_ok(), "{}: {there:?}", parent.display());
        write_file(&path, text, mode);
        path
    }

    /// A new container; for a chained plugin with the interface that an earlier one made.
    ///
    /// # Panics
    /// When there is no namespace to be had.
    pub fn pod(&self) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed) + 1;
        let container = Container::new();
        let path = self.dir().join(format!("pod{number}"));
        let linked = std::os::unix::fs::symlink(container.path(), &path);
        assert!(linked.is_ok(), "{}: {linked:?}", path.display());
        let own = "while [ /proc/$!/ns/net -ef /proc/$$/ns/net ]; do sleep 0.1; done";
        let line = format!("unshare -n sleep 600 & {own}; ln -s /proc/$!/ns/net '{}'", path.display());
        self.note(Step::shell(line));
        let mut pod = Pod {
            id: format!("container{number}"),
            ifname: self.subject.ifname().to_owned(),
            path,
            number,
            container: Mutex::new(Some(container)),
            earlier: None,
            result: Mutex::default(),
        };
        if self.subject.role == Role::Chained {
            pod.earlier = Some(self.attach_earlier(&pod));
        }
        pod
    }

    /// The same container, to be attached by another interface.
    pub fn second_interface(&self, pod: &Pod, ifname: &str) -> Pod {
        Pod {
            id: pod.id.clone(),
            ifname: ifname.to_owned(),
            path: pod.path.clone(),
            number: pod.number,
            container: Mutex::default(),
            earlier: None,
            result: Mutex::default(),
        }
    }

    /// What an interface plugin before it in the chain would have made, and its result.
    fn attach_earlier(&self, pod: &Pod) -> Value {
        let (n, path) = (pod.number, pod.path.display());
        let (vh, macs) = (format!("vh{n}"), [1, 2].map(|end| format!("02:00:00:00:0{end}:{n:02x}")));
        let address = format!("10.83.0.{}/24", pod.number + 9);
        let [host, inside] = &macs;
        self.ip_all(&[
            &format!("link add {vh} address {host} type veth peer name eth0 address {inside} netns {path}"),
            &format!("link set {vh} up master br0"),
        ]);
        self.inside_all(
            pod,
            &[&format!("addr add {address} dev eth0"), "link set eth0 up", "route add default via 10.83.0.1"],
        );
        let route = json!({"dst": "0.0.0.0/0", "gw": "10.83.0.1"});
        let dns = json!({"nameservers": ["10.83.0.1"], "search": ["example.org"]});
        if self.version < "0.3.0" {
            let ip4 = json!({"ip": address, "gateway": "10.83.0.1", "routes": [route]});
            return json!({"cniVersion": self.version, "ip4": ip4, "dns": dns});
        }
        let mut ip = json!({"address": address, "gateway": "10.83.0.1", "interface": 2});
        if self.version < "1.0.0" {
            ip["version"] = json!("4");
        }
        json!({"cniVersion": self.version, "interfaces": [
            {"name": "br0", "mac": "02:00:00:00:00:01"}, {"name": vh, "mac": host},
            {"name": "eth0", "mac": inside, "sandbox": pod.path}], "ips": [ip], "routes": [route], "dns": dns})
    }

    /// Runs a program in the container, which has to succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn inside(&self, pod: &Pod, program: &str, args: &str) -> String {
        self.try_inside(pod, program, args).unwrap_or_else(|why| panic!("{program} {args}: {why}"))
    }

    /// Runs `ip` in the container for each line, by one process.
    ///
    /// # Panics
    /// When one fails.
    fn inside_all(&self, pod: &Pod, lines: &[&str]) {
        for args in lines {
            self.note(Step::inside(&pod.path, &format!("ip {args}")));
        }
        let done = within(&pod.path, || ip_batch(&[], lines).map_err(std::io::Error::other));
        assert!(done.is_ok(), "{lines:?}: {done:?}");
    }

    /// Runs a program in the container: what it printed, or why it failed.
    pub fn try_inside(&self, pod: &Pod, program: &str, args: &str) -> Result<String, String> {
        self.note(Step::inside(&pod.path, &format!("{program} {args}")));
        let words: Vec<&str> = args.split_whitespace().collect();
        let output = within(&pod.path, || Command::new(program).args(words).output());
        let output = output.map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Ends the container: its namespace is gone, and so is the path to it.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn kill(&self, pod: &Pod) {
        let path = pod.path.display();
        self.note(Step::shell(format!("kill $(readlink '{path}' | cut -d/ -f3); rm '{path}'; sleep 0.5")));
        let removed = std::fs::remove_file(&pod.path);
        assert!(removed.is_ok(), "{path}: {removed:?}");
        locked(&pod.container).take();
        let host_end = format!("vh{}", pod.number);
        let gone = || !Snapshot::take().links.contains_key(&host_end);
        let begun = Instant::now();
        while !gone() && begun.elapsed() < SETTLE {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The subject's config for this container.
    #[must_use]
    pub fn conf(&self, pod: &Pod) -> Value {
        let mut conf = Map::new();
        conf.insert("cniVersion".into(), json!(self.version));
        conf.insert("name".into(), json!(NETWORK));
        conf.insert("type".into(), json!(self.subject.name));
        for (key, value) in &self.subject.conf {
            conf.insert(key.clone(), self.filled(value, pod));
        }
        Value::Object(conf)
    }

    /// A part of the config with its placeholders filled in.
    fn filled(&self, value: &Value, pod: &Pod) -> Value {
        match value {
            Value::String(text) if text == "$PORT" => json!(20_000 + pod.number),
            Value::String(text) => json!(text.replace("$DIR", &self.dir().to_string_lossy())),
            Value::Array(list) => list.iter().map(|one| self.filled(one, pod)).collect(),
            Value::Object(map) => {
                let filled = map.iter().map(|(key, one)| (key.clone(), self.filled(one, pod)));
                Value::Object(filled.collect())
            }
            other => other.clone(),
        }
    }

    /// A call of the subject for this container, with everything that its runtime knows.
    pub fn ask(&self, verb: &str, pod: &Pod) -> Ask<'_> {
        self.ask_plugin(&self.subject.name, verb, self.conf(pod), pod)
    }

    /// A call of any plugin of the subject's folder.
    pub fn ask_plugin(&self, plugin: &str, verb: &str, mut conf: Value, pod: &Pod) -> Ask<'_> {
        let result = locked(&pod.result).clone();
        let known = match verb {
            "ADD" => pod.earlier.clone(),
            "CHECK" => result.or_else(|| pod.earlier.clone()),
            // Before 0.4.0 runtimes do not tell DEL.
            "DEL" if self.version >= "0.4.0" => result.or_else(|| pod.earlier.clone()),
            _ => None,
        };
        if let Some(known) = known {
            conf["prevResult"] = known;
        }
        let mut call = Call::of(&self.subject.dir, plugin).env("CNI_COMMAND", verb).limit(PATIENCE);
        if !["GC", "STATUS", "VERSION"].contains(&verb) {
            call = call.attachment(&pod.id, &pod.ifname).env("CNI_NETNS", pod.path.as_os_str());
        }
        Ask::new(&self.steps, call, conf)
    }

    /// Adds the container, which has to succeed, and keeps the result as a runtime does.
    pub fn add(&self, pod: &Pod) -> Result<Value, Trouble> {
        self.added(pod, self.ask("ADD", pod))
    }

    /// As [`Self::add`], with a call of one's own.
    #[allow(clippy::unused_self, reason = "it reads as what happens on the bed")]
    pub fn added(&self, pod: &Pod, ask: Ask) -> Result<Value, Trouble> {
        let result = ask.run().succeeds()?;
        expect!(result.is_object(), "a result on stdout", "{result}");
        *locked(&pod.result) = Some(result.clone());
        Ok(result)
    }

    /// Deletes the container, which has to succeed.
    pub fn del(&self, pod: &Pod) -> Verdict {
        self.ask("DEL", pod).run().is_silent()
    }

    /// Checks the container, which has to succeed.
    pub fn check(&self, pod: &Pod) -> Verdict {
        self.ask("CHECK", pod).run().is_silent()
    }

    /// A GC with these valid attachments.
    pub fn gc(&self, valid: &[&Pod]) -> Ask<'_> {
        let nobody = Pod {
            id: String::new(),
            ifname: String::new(),
            path: PathBuf::new(),
            number: 0,
            container: Mutex::default(),
            earlier: None,
            result: Mutex::default(),
        };
        let list: Value =
            valid.iter().map(|pod| json!({"containerID": pod.id, "ifname": pod.ifname})).collect();
        self.ask("GC", &nobody)
            .set("/cni.dev~1valid-attachments", list.clone())
            .set("/cni.dev~1attachments", list)
    }

    /// Makes what a plugin's first ADD makes and its DEL leaves for the next: bridges, tables, folders.
    pub fn warm(&self) -> Verdict {
        let pod = self.pod();
        self.add(&pod)?;
        self.del(&pod)?;
        self.finish(&pod);
        Ok(())
    }

    /// What comes after the DEL of a chained plugin: the plugin before it in the chain deletes the interface.
    pub fn finish(&self, pod: &Pod) {
        if self.subject.role == Role::Chained {
            self.kill(pod);
        }
    }
}

impl Drop for Bed<'_> {
    fn drop(&mut self) {
        // What a case mounted below the folder keeps it from being removed.
        let _ = nix::mount::umount2(&self.dir().join("full"), nix::mount::MntFlags::MNT_DETACH);
    }
}
