//! Keeping a node as it should be: rules that somebody flushed, an address that somebody took, pods whose end nobody told us.

use crate::host;
use crate::host::let_netfilter_see_bridges;
use crate::kubenet::{Node, pods, state};
use crate::settings::Settings;
use cni_common::disk;
use cni_common::runtime::{Cache, Endpoint, Entry};
use cni_common::spec::{Code, Coded, ContainerId, IfName, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;
use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often everything is looked at.
const EVERY: Duration = Duration::from_secs(30);
/// Where host-local keeps leases, where nobody says otherwise.
const DATA_DIR: &str = "/var/lib/cni/networks";
/// A container's ID and an interface's name, in bytes.
const MOST_OF_LEASE: u64 = 1 << 10;

/// Makes the node ready, and keeps it so until SIGTERM or SIGINT: looks every 30 s and at SIGHUP, and logs what it changed.
///
/// # Errors
/// What keeps the node from being made ready. Later failures are logged, and tried again.
pub fn run(settings: &Settings) -> Result<()> {
    let doing = "watch for signals";
    let (mut woken, bell) = UnixStream::pair().io(doing)?;
    woken.set_read_timeout(Some(EVERY)).io(doing)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register(signal, Arc::clone(&stop)).io(doing)?;
    }
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        pipe::register(signal, bell.try_clone().io(doing)?).io(doing)?;
    }
    let plugin = host::select(settings)?;
    plugin
        .init()
        .map_err(|error| error.context(format!("network plugin {:?} failed init", plugin.name())))?;
    cni_common::log!("network plugin {} is ready", plugin.name());
    let mut watch = Watch::default();
    loop {
        match plugin.name().as_str() {
            "kubenet" => watch.pass(settings),
            host::NOOP => let_netfilter_see_bridges(),
            // What others keep is their own.
            _ => {}
        }
        wait(&mut woken).io(doing)?;
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

/// Until a signal has come, or it is time.
fn wait(woken: &mut UnixStream) -> std::io::Result<()> {
    loop {
        match woken.read(&mut [0; 64]) {
            // The signal itself; its byte comes next, and must not count a second time.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            told => return told.map(drop),
        }
    }
}

/// What was seen in the pass before: only who is gone twice is gone.
#[derive(Default)]
struct Watch {
    gone: HashSet<(String, String)>,
    waiting_told: bool,
}

impl Watch {
    fn pass(&mut self, settings: &Settings) {
        let node = match settings.node_in_use() {
            Ok(node) => node,
            Err(error) => return cni_common::log!("the settings can't be read: {error}"),
        };
        if node.cidrs.is_empty() {
            if !self.waiting_told {
                let noted = state::wait_for_pod_cidrs(&node.state_dir);
                let why = node.ready().err().map(|error| error.to_string()).unwrap_or_default();
                cni_common::log!("{why}");
                self.waiting_told = noted.is_ok();
            }
            return;
        }
        self.waiting_told = false;
        log(host::ensure_shared(&node), "what pods share");
        let cache = Cache::new(&node.state_dir);
        log(cache.sweep(), "what was not written to its end");
        let entries = match cache.of_network(node.network.as_str()) {
            Ok(entries) => entries,
            Err(error) => return cni_common::log!("the state can't be read: {error}"),
        };
        let mut gone = HashSet::new();
        for entry in &entries {
            if entry.is_living() {
                log(repair(&node, entry), &format!("container {}", entry.container_id));
            } else {
                gone.insert((entry.container_id.clone(), entry.if_name.clone()));
            }
        }
        let known: HashSet<&str> = entries.iter().map(|entry| entry.container_id.as_str()).collect();
        gone.extend(ownerless(&node, &known));
        for (id, ifname) in gone.intersection(&self.gone) {
            match free(&node, id, ifname) {
                Ok(()) => cni_common::log!("container {id} is gone and its end was not told: {ifname} freed"),
                Err(error) => {
                    cni_common::log!("container {id} is gone, and {ifname} can't be freed: {error}");
                }
            }
        }
        self.gone = gone;
    }
}

fn log(done: Result<()>, what: &str) {
    if let Err(error) = done {
        cni_common::log!("{what}: {error}");
    }
}

/// Makes a living pod's host ports and limits again, if they are not as they were made.
fn repair(node: &Node, entry: &Entry) -> Result<()> {
    let mut endpoint = Endpoint::try_from(entry)?;
    let Some(list) = pods::chained_of(node, entry) else { return Ok(()) };
    endpoint.result = pods::result_of(node, entry);
    let mut runtime = pods::runtime(node);
    // What is kept is the whole chain's.
    runtime.cache = None;
    // Only ours say that something is not as it was made, and make it again where some of it is there. The reference's CHECK
    // fails for other reasons too, and its ADD would do everything twice.
    let broken = match runtime.check(&list, &endpoint) {
        Err(error) if error.code == Code::NOT_AS_ADDED => error,
        _ => return Ok(()),
    };
    runtime.add(&list, &endpoint)?;
    cni_common::log!("container {}: made again: {broken}", entry.container_id);
    Ok(())
}

/// The owners of leases of whom nothing is kept. Those of an ADD under way are younger than it may take.
fn ownerless(node: &Node, known: &HashSet<&str>) -> Vec<(String, String)> {
    let dir = node.data_dir.clone().unwrap_or_else(|| DATA_DIR.into()).join(node.network.as_str());
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let is_old = |path: &PathBuf| {
        let age = std::fs::metadata(path).ok().and_then(|meta| meta.modified().ok()?.elapsed().ok());
        age.is_some_and(|age| age > node.timeout)
    };
    let is_lease = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.parse::<std::net::IpAddr>().is_ok()
    };
    let owner = |path: PathBuf| {
        let text = disk::read_own_text(&path, MOST_OF_LEASE).ok()?;
        let mut lines = text.lines().map(str::trim);
        let id = lines.next().filter(|id| !id.is_empty() && !known.contains(id))?;
        // Before 0.8.2 host-local wrote no interface.
        Some((id.to_owned(), lines.next().unwrap_or("eth0").to_owned()))
    };
    files.map(|file| file.path()).filter(is_lease).filter(is_old).filter_map(owner).collect()
}

fn free(node: &Node, id: &str, ifname: &str) -> Result<()> {
    let endpoint = Endpoint {
        container_id: ContainerId::try_from(id).coded(Code::DECODE, "a lease's owner")?,
        netns: String::new(),
        ifname: IfName::try_from(ifname).coded(Code::DECODE, "a lease's owner")?,
        args: vec![],
        capabilities: serde_json::Map::new(),
        result: None,
    };
    pods::tear_down(node, &endpoint)
}
