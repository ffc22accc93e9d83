//! Many attachments of one chain on one node: what an ADD and a DEL take as their number grows, DELs after a reboot, and GC.

use crate::bench::stats::Times;
use crate::chains::{Chain, endpoint, tell};
use cni_common::invoke::PluginPath;
use cni_common::runtime::{Cache, ConfList, Endpoint, Runtime};
use cni_common::spec::{Attachment, Error};
use cni_harness::{Container, Host, Snapshot, leases, write_file};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often an operation is tried before it is given up.
const TRIES: usize = 5;
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
    /// The largest process of an ADD, in KiB, where `time` is there to tell.
    pub memory: Option<u64>,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Loaded {
    /// So many DELs at once, after their namespaces had gone with all that was in them, and how long all of them took.
    pub reboot: (usize, Duration),
    /// How many operations failed, and were done again.
    pub failures: usize,
    /// GC of so many, and how long it took; nothing where the plugins speak no version that has it.
    pub gc: Option<(usize, Duration)>,
}

struct Node {
    dir: TempDir,
    runtime: Runtime,
    list: ConfList,
    families: usize,
    held: Vec<(Endpoint, Container)>,
    failures: AtomicUsize,
    _host: Host,
}

/// Holds up to `most` attachments of `chain`. `step` is told what each step shows.
///
/// # Errors
/// When an operation fails each time, or there are more or fewer leases and links than attachments: no two share an address then, as a lease is one
/// address's.
pub fn load(chain: &Chain, most: usize, step: &dyn Fn(&Step)) -> Result<Loaded, String> {
    let mut node = Node::new(chain)?;
    let mut loaded = Loaded::default();
    for held in STEPS.into_iter().filter(|held| *held < most).chain([most]) {
        while node.held.len() < held {
            node.grow()?;
        }
        node.holds(held)?;
        step(&node.measure()?);
    }
    loaded.reboot = node.reboot(most * 3 / 10)?;
    while node.held.len() < most {
        node.grow()?;
    }
    if chain.version.as_str() >= "1.1.0" {
        loaded.gc = Some(node.collect_garbage(most / 10)?);
    }
    loaded.failures = node.end()?;
    Ok(loaded)
}

impl Node {
    fn new(chain: &Chain) -> Result<Self, String> {
        let host = Host::enter();
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let timed = dir.path().join("timed");
        std::fs::create_dir(&timed).map_err(|error| error.to_string())?;
        for name in &chain.executables {
            let (real, told) = (chain.bin.join(name), dir.path().join("memory"));
            let script = format!(
                "#!/bin/sh\nexec /usr/bin/time -a -o '{}' -f %M '{}'\n",
                told.display(),
                real.display()
            );
            write_file(&timed.join(name), script, 0o700);
        }
        Ok(Self {
            list: chain.list(dir.path()).map_err(|error| tell("its config", &error))?,
            runtime: Runtime {
                path: PluginPath::of_dirs(std::slice::from_ref(&chain.bin)),
                cache: Some(Cache::new(&dir.path().join("cache"))),
                timeout: None,
            },
            families: chain.first_addresses().len(),
            held: vec![],
            failures: AtomicUsize::new(0),
            dir,
            _host: host,
        })
    }

    fn leases(&self) -> PathBuf {
        self.dir.path().join("leases")
    }

    /// Tries it again when it fails, and counts that.
    fn insist(
        &self,
        what: &str,
        endpoint: &Endpoint,
        work: impl Fn() -> Result<(), Error>,
    ) -> Result<(), String> {
        let mut tries = 0;
        while let Err(error) = work() {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tries += 1;
            if tries == TRIES {
                return Err(tell(&format!("{what} of {}", endpoint.container_id), &error));
            }
        }
        Ok(())
    }

    fn add(&self, endpoint: &Endpoint) -> Result<(), String> {
        self.insist("ADD", endpoint, || match self.runtime.add(&self.list, endpoint) {
            Ok(_) => Ok(()),
            // As every runtime does.
            Err(error) => self.runtime.del(&self.list, endpoint).and(Err(error)),
        })
    }

    fn del(&self, endpoint: &Endpoint) -> Result<(), String> {
        self.insist("DEL", endpoint, || self.runtime.del(&self.list, endpoint))
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
            memory: self.memory(),
        })
    }

    /// What the largest process of an ADD of the newest attachment holds. Its kernel counts what it was forked from, too: we are larger than a
    /// plugin, `time` is not.
    fn memory(&self) -> Option<u64> {
        let (endpoint, _) = self.held.last()?;
        let runtime =
            Runtime { path: PluginPath::of_dirs(&[self.dir.path().join("timed")]), ..self.runtime.clone() };
        self.del(endpoint).ok()?;
        runtime.add(&self.list, endpoint).ok()?;
        let told = std::fs::read_to_string(self.dir.path().join("memory")).ok()?;
        told.lines().filter_map(|line| line.parse().ok()).max()
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

    fn end(mut self) -> Result<usize, String> {
        while let Some((endpoint, _container)) = self.held.pop() {
            self.del(&endpoint)?;
        }
        self.holds(0)?;
        await_links(0)?;
        Ok(self.failures.load(Ordering::Relaxed))
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

/// The head of a table of steps.
pub const HEAD: &str = "| held | ADD ms (p50 / p95 / p99 / max) | DEL ms | ADDs/s, 16 at once | DELs/s, 16 at once | largest process of an ADD, KiB |\n|---|---|---|---|---|---|";

impl fmt::Display for Step {
    /// A row of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, add, del, adds, dels, memory } = self;
        let memory = memory.map_or_else(|| "–".to_owned(), |memory| memory.to_string());
        write!(f, "| {held} | {add} | {del} | {adds:.0} | {dels:.0} | {memory} |")
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (many, took) = self.reboot;
        writeln!(f, "{many} DELs at once after a reboot: {:.2} s", took.as_secs_f64())?;
        if let Some((many, took)) = self.gc {
            writeln!(f, "GC of {many}: {:.2} s", took.as_secs_f64())?;
        }
        write!(f, "operations that failed, and were done again: {}", self.failures)
    }
}
