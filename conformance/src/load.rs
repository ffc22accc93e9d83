//! Many attachments of one chain on one node: what an ADD and a DEL take as their number grows, DELs after a reboot, and GC.

use crate::bench::stats::Times;
use crate::chains::{Chain, endpoint, tell};
use crate::{Container, Host, Snapshot, leases};
use cni_common::invoke::PluginPath;
use cni_common::runtime::{Cache, ConfList, Endpoint, Runtime};
use cni_common::spec::{Attachment, Error};
use nix::sys::resource::{UsageWho, getrusage};
use std::collections::HashSet;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where it is measured, as far as there are so many.
const STEPS: [usize; 7] = [1, 10, 30, 100, 300, 1000, 3000];
/// So many attachments go and come again at each step, one after the other.
const SAMPLE: usize = 20;
/// So many at once, for the rates.
const PARALLEL: usize = 16;

/// What a step shows.
#[derive(Debug)]
pub struct Step {
    /// So many attachments were held.
    pub held: usize,
    /// One ADD at a time.
    pub add: Times,
    /// One DEL at a time.
    pub del: Times,
    /// ADDs in a second, 16 at once.
    pub adds: f64,
    /// DELs in a second, 16 at once.
    pub dels: f64,
    /// The largest process so far, in KiB.
    pub memory: i64,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Loaded {
    /// As the number grew.
    pub steps: Vec<Step>,
    /// So many DELs at once, after their namespaces had gone with all that was in them, and how long all of them took.
    pub reboot: (usize, Duration),
    /// GC of so many, and how long it took; nothing where the plugins speak no version that has it.
    pub gc: Option<(usize, Duration)>,
}

struct Node {
    dir: TempDir,
    runtime: Runtime,
    list: ConfList,
    families: usize,
    held: Vec<(Endpoint, Container)>,
    addresses: Mutex<HashSet<IpAddr>>,
    _host: Host,
}

/// Holds up to `most` attachments of `chain`. `step` is told the number, as it grows.
///
/// # Errors
/// When an operation fails, an address is given twice, or something is left.
pub fn load(chain: &Chain, most: usize, step: &(dyn Fn(usize) + Sync)) -> Result<Loaded, String> {
    let mut node = Node::new(chain)?;
    let mut loaded = Loaded::default();
    for held in STEPS.into_iter().filter(|held| *held < most).chain([most]) {
        while node.held.len() < held {
            node.grow()?;
            step(node.held.len());
        }
        loaded.steps.push(node.measure()?);
    }
    loaded.reboot = node.reboot(most * 3 / 10)?;
    while node.held.len() < most {
        node.grow()?;
    }
    if chain.version.as_str() >= "1.1.0" {
        loaded.gc = Some(node.collect_garbage(most / 10)?);
    }
    node.end()?;
    Ok(loaded)
}

impl Node {
    fn new(chain: &Chain) -> Result<Self, String> {
        let host = Host::enter();
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok(Self {
            list: chain.list(dir.path()).map_err(|error| tell("its config", &error))?,
            runtime: Runtime {
                path: PluginPath::of_dirs(std::slice::from_ref(&chain.bin)),
                cache: Some(Cache::new(&dir.path().join("cache"))),
                timeout: None,
            },
            families: chain.first_addresses().len(),
            held: vec![],
            addresses: Mutex::default(),
            dir,
            _host: host,
        })
    }

    fn leases(&self) -> PathBuf {
        self.dir.path().join("leases")
    }

    fn add(&self, endpoint: &Endpoint) -> Result<(), String> {
        let result = self.runtime.add(&self.list, endpoint);
        let result = result.map_err(|error| tell(&format!("ADD of {}", endpoint.container_id), &error))?;
        let mut addresses = self.addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for ip in &result.ips {
            let ip = ip.address.addr();
            if !addresses.insert(ip) {
                return Err(format!("{ip} of {} is another's", endpoint.container_id));
            }
        }
        Ok(())
    }

    fn del(&self, endpoint: &Endpoint) -> Result<(), String> {
        // Its result is in the cache, and gone after it.
        let kept = self.runtime.cache.as_ref().and_then(|cache| cache.load(&endpoint.on(&self.list.name)));
        let addresses = kept.map(|entry| entry.result["ips"].clone()).unwrap_or_default();
        let texts = addresses
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| ip["address"].as_str()?.split('/').next());
        let gone: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        self.addresses
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|ip| !gone.contains(ip));
        let done = self.runtime.del(&self.list, endpoint);
        done.map_err(|error: Error| tell(&format!("DEL of {}", endpoint.container_id), &error))
    }

    /// One more.
    fn grow(&mut self) -> Result<(), String> {
        let n = self.held.len();
        let port = u16::try_from(10_000 + n).map_err(|error| error.to_string())?;
        let container = Container::new();
        let endpoint = endpoint(&format!("c{n}"), &container, port)?;
        self.add(&endpoint)?;
        self.held.push((endpoint, container));
        Ok(())
    }

    /// Some go and come again.
    fn measure(&self) -> Result<Step, String> {
        let sample = |most: usize| self.held.iter().rev().take(most).map(|(endpoint, _)| endpoint);
        let (mut adds, mut dels) = (Vec::new(), Vec::new());
        for endpoint in sample(SAMPLE) {
            dels.push(timed(|| self.del(endpoint))?);
            adds.push(timed(|| self.add(endpoint))?);
        }
        let many: Vec<&Endpoint> = sample(4 * PARALLEL).collect();
        let del_all = at_once(&many, PARALLEL, |endpoint| self.del(endpoint))?;
        let add_all = at_once(&many, PARALLEL, |endpoint| self.add(endpoint))?;
        let rate =
            |all: Duration| f64::from(u32::try_from(many.len()).unwrap_or_default()) / all.as_secs_f64();
        Ok(Step {
            held: self.held.len(),
            add: Times::of(&adds),
            del: Times::of(&dels),
            adds: rate(add_all),
            dels: rate(del_all),
            memory: getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| usage.max_rss()),
        })
    }

    /// Namespaces go, with their links, and nobody says so; then all those DELs at once.
    fn reboot(&mut self, many: usize) -> Result<(usize, Duration), String> {
        let kept = self.held.len() - many;
        let gone: Vec<Endpoint> = self
            .held
            .drain(kept..)
            .map(|(endpoint, _)| Endpoint { netns: "/run/netns/gone".to_owned(), ..endpoint })
            .collect();
        await_links(kept)?;
        let took = at_once(&gone.iter().collect::<Vec<_>>(), many, |endpoint| self.del(endpoint))?;
        self.holds(kept).map(|()| (many, took))
    }

    /// Containers die unseen, all but the first few; GC is told of those.
    fn collect_garbage(&mut self, kept: usize) -> Result<(usize, Duration), String> {
        let many = self.held.len() - kept;
        self.held.truncate(kept);
        await_links(kept)?;
        let valid: Vec<Attachment> =
            self.held.iter().map(|(endpoint, _)| endpoint.on(&self.list.name)).collect();
        // Without what the runtime remembers, so that it is the plugins' work.
        let runtime = Runtime { cache: None, ..self.runtime.clone() };
        let took = timed(|| runtime.gc(&self.list, &valid).map_err(|error| tell("GC", &error)))?;
        self.holds(kept).map(|()| (many, took))
    }

    /// Fails unless there are leases for so many.
    fn holds(&self, many: usize) -> Result<(), String> {
        let found = leases(&self.leases())
            .into_keys()
            .filter(|name| name.rsplit('/').next().is_some_and(|name| name.parse::<IpAddr>().is_ok()))
            .count();
        if found == many * self.families {
            Ok(())
        } else {
            Err(format!("{found} leases for {many} attachments"))
        }
    }

    fn end(mut self) -> Result<(), String> {
        while let Some((endpoint, _container)) = self.held.pop() {
            self.del(&endpoint)?;
        }
        self.holds(0)?;
        await_links(0)
    }
}

/// Waits until there are only as many veths as attachments.
fn await_links(attachments: usize) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let veths = Snapshot::take().links.values().filter(|text| text.contains("kind \"veth\"")).count();
        if veths == attachments {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(120) {
            return Err(format!("{veths} veths for {attachments} attachments"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn timed(work: impl FnOnce() -> Result<(), String>) -> Result<Duration, String> {
    let begun = Instant::now();
    work().map(|()| begun.elapsed())
}

/// Does `work` on all, `parallel` at once. How long all of it took.
fn at_once(
    all: &[&Endpoint],
    parallel: usize,
    work: impl Fn(&Endpoint) -> Result<(), String> + Sync,
) -> Result<Duration, String> {
    let share = all.len().div_ceil(parallel).max(1);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            all.chunks(share).map(|some| scope.spawn(|| some.iter().try_for_each(|one| work(one)))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| Err("a worker died".to_owned())))
    })?;
    Ok(begun.elapsed())
}

/// For people.
#[must_use]
pub fn table(loaded: &Loaded) -> String {
    let mut text = String::from(
        "| held | ADD ms (p50 / p95 / p99 / max) | DEL ms | ADDs/s, 16 at once | DELs/s, 16 at once | largest process, KiB |\n|---|---|---|---|---|---|\n",
    );
    for Step { held, add, del, adds, dels, memory } in &loaded.steps {
        let _ = writeln!(text, "| {held} | {add} | {del} | {adds:.0} | {dels:.0} | {memory} |");
    }
    let (many, took) = loaded.reboot;
    let _ = writeln!(text, "\n{many} DELs at once after a reboot: {:.2} s", took.as_secs_f64());
    if let Some((many, took)) = loaded.gc {
        let _ = writeln!(text, "GC of {many}: {:.2} s", took.as_secs_f64());
    }
    text
}
