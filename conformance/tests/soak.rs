//! A node's life, fast: containers come and go at once on bridge, host-local, portmap and bandwidth, some of
//! them on two networks, which both get their ports, some behind kubenet-shim, as a runtime drives them,
//! while plugins are killed, interfaces vanish, rules are flushed, the disk runs full, and others make links.
//! A model knows what must hold.
//!
//! `SOAK_SECONDS` (20) says how long, `SOAK_SEED` (the time) what happens; a failure tells the seed. With `SOAK_CLOCK=1` the clock jumps, too:
//! only in a machine whose clock nobody else needs.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use cni_common::invoke::PluginPath;
use cni_common::runtime::{Cache, ConfList, Endpoint, Runtime};
use cni_common::spec::{Attachment, ContainerId, Error, Success};
use cni_harness::fuzz::{Dice, number, seed};
use cni_harness::{Container, Host, Snapshot, bin_dir, leases, raise_file_limit, write_file};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

/// So many containers come and go at once.
const SLOTS: usize = 32;
/// From this one on they are kubenet's.
const SHIM: usize = 24;
/// Up to this one they are on a second network, too.
const DOUBLE: usize = 8;
/// How long what a killed plugin started may go on without it.
const ORPHANS: Duration = Duration::from_millis(400);

/// The node, and what the model knows of it.
struct Node {
    dir: TempDir,
    runtime: Runtime,
    lists: [ConfList; 2],
    second: ConfList,
    /// Who has an address, as ADD told.
    addresses: Mutex<BTreeMap<IpAddr, usize>>,
    /// How often rules were flushed: what was added before is damaged.
    flushes: AtomicU64,
    /// Held for reading by whoever works, for writing by whoever damages everything.
    quiet: RwLock<()>,
    over: AtomicBool,
    done: AtomicUsize,
    killed: AtomicUsize,
    /// How often the clock jumped.
    jumps: AtomicUsize,
}

/// A container's attachment as its slot knows it.
enum State {
    Gone,
    There {
        result: Success,
        flushes: u64,
        damaged: bool,
    },
    /// An operation failed because something was killed, or the disk was full.
    Unsure,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("leases");
        std::fs::create_dir(&data).unwrap();
        mount(Some("tmpfs"), &data, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=755")).unwrap();
        let list = json!({"cniVersion": "1.1.0", "name": "soak", "plugins": [
            {"type": "bridge", "bridge": "soak0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd00:77::/64"}]]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}}]});
        let second = json!({"cniVersion": "1.1.0", "name": "second", "plugins": [
            {"type": "bridge", "bridge": "soak2", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": "10.79.0.0/24"}], [{"subnet": "fd00:79::/64"}]]}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        let shim = json!({"cniVersion": "1.1.0", "name": "shim", "plugins": [
            {"type": "kubenet-shim", "bridge": "soak1", "podCIDR": "10.78.0.0/24,fd00:78::/64", "stateDir": dir.path().join("state"), "dataDir": data,
             "capabilities": {"portMappings": true, "bandwidth": true}}]});
        let runtime = Runtime {
            path: PluginPath::of_dirs(&[bin_dir()]),
            cache: Some(Cache::new(&dir.path().join("cache"))),
            timeout: Some(Duration::from_secs(60)),
        };
        Self {
            lists: [list, shim].map(|list| ConfList::parse(list.to_string().as_bytes()).unwrap()),
            second: ConfList::parse(second.to_string().as_bytes()).unwrap(),
            runtime,
            dir,
            addresses: Mutex::default(),
            flushes: AtomicU64::new(0),
            quiet: RwLock::default(),
            over: AtomicBool::new(false),
            done: AtomicUsize::new(0),
            killed: AtomicUsize::new(0),
            jumps: AtomicUsize::new(0),
        }
    }

    /// The network of a slot.
    fn list(&self, slot: usize) -> &ConfList {
        &self.lists[usize::from(slot >= SHIM)]
    }

    /// All networks that a slot's container is on, the first one's attachment being `endpoint`.
    fn attachments(&self, slot: usize, endpoint: &Endpoint) -> Vec<(&ConfList, Endpoint)> {
        let mut all = vec![(self.list(slot), endpoint.clone())];
        if slot < DOUBLE {
            let ifname = "eth1".try_into().unwrap();
            all.push((&self.second, Endpoint { ifname, result: None, ..endpoint.clone() }));
        }
        all
    }

    fn endpoint(slot: usize, netns: String) -> Endpoint {
        let limits = json!({"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 80_000_000, "egressBurst": 8_000_000});
        let ports = json!([{"hostPort": 20_000 + slot, "containerPort": 80, "protocol": "tcp"}]);
        Endpoint {
            container_id: ContainerId::try_from(format!("c{slot}").as_str()).unwrap(),
            netns,
            ifname: "eth0".try_into().unwrap(),
            args: vec![],
            capabilities: json!({"bandwidth": limits, "portMappings": ports}).as_object().unwrap().clone(),
            result: None,
        }
    }

    /// What there is of a container, but for its own namespace.
    fn remains(&self, slot: usize) -> Vec<String> {
        let id = format!("c{slot}");
        let networks = [self.list(slot), &self.second];
        let owners = networks.map(|list| format!("cni/{}/{id}/", list.name));
        let is_its = |text: &str| owners.iter().any(|owner| text.contains(owner));
        let now = Snapshot::take();
        let links = now.links.into_iter().filter(|(_, text)| is_its(text)).map(|(name, _)| name);
        let rules = now.rules.lines().filter(|line| is_its(line)).map(str::to_owned).collect::<Vec<_>>();
        let files = leases(&self.dir.path().join("leases"));
        let leases = files
            .into_iter()
            .filter(|(_, text)| text.lines().next() == Some(id.as_str()))
            .map(|(name, _)| name);
        links.chain(rules).chain(leases).collect()
    }
}

/// Whether something outside explains that an operation failed.
fn is_excused(error: &Error) -> bool {
    let text = format!("{} {}", error.msg(), error.cause());
    ["signal 9", "No space left", "was killed"].iter().any(|word| text.contains(word))
}

/// One slot: a container after the other, until it is over.
fn live(node: &Node, slot: usize, seed: u64) {
    let mut dice = Dice::new(seed ^ (slot as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut container = Container::new();
    let mut state = State::Gone;
    while !node.over.load(Ordering::Relaxed) {
        let _working = node.quiet.read().unwrap();
        let endpoint = Node::endpoint(slot, container.path());
        node.done.fetch_add(1, Ordering::Relaxed);
        state = match state {
            State::Gone if dice.roll(10) > 0 => added(node, slot, &endpoint),
            State::There { result, flushes, damaged } => match dice.roll(10) {
                0..4 => {
                    check(
                        node,
                        slot,
                        &endpoint,
                        &result,
                        damaged || flushes != node.flushes.load(Ordering::Relaxed),
                    );
                    State::There { result, flushes, damaged }
                }
                4 => {
                    drop(container.try_run("ip", &["link", "del", "eth0"]));
                    State::There { result, flushes, damaged: true }
                }
                5 => {
                    // It dies. DEL comes later, with a path that leads nowhere.
                    container = Container::new();
                    deleted(node, slot, &Node::endpoint(slot, "/run/netns/gone".into()), &mut dice)
                }
                _ => deleted(node, slot, &endpoint, &mut dice),
            },
            State::Gone | State::Unsure => deleted(node, slot, &endpoint, &mut dice),
        };
    }
    let _working = node.quiet.read().unwrap();
    deleted(node, slot, &Node::endpoint(slot, container.path()), &mut dice);
}

fn added(node: &Node, slot: usize, endpoint: &Endpoint) -> State {
    let flushes = node.flushes.load(Ordering::Relaxed);
    let mut first = None;
    for (list, endpoint) in node.attachments(slot, endpoint) {
        match node.runtime.add(list, &endpoint) {
            Ok(result) => {
                let mut addresses = node.addresses.lock().unwrap();
                for ip in &result.ips {
                    let other = addresses.insert(ip.address.addr(), slot);
                    assert!(
                        other.is_none(),
                        "{} for c{slot} is c{}'s",
                        ip.address,
                        other.unwrap_or_default()
                    );
                }
                first.get_or_insert(result);
            }
            Err(error) => {
                assert!(is_excused(&error), "ADD of c{slot}: {} {}", error.msg(), error.cause());
                std::thread::sleep(ORPHANS);
                return State::Unsure;
            }
        }
    }
    first.map_or(State::Unsure, |result| State::There { result, flushes, damaged: false })
}

fn check(node: &Node, slot: usize, endpoint: &Endpoint, result: &Success, damaged: bool) {
    let endpoint = Endpoint { result: Some(result.clone()), ..endpoint.clone() };
    for (list, endpoint) in node.attachments(slot, &endpoint) {
        if let Err(error) = node.runtime.check(list, &endpoint) {
            let who = format!("{} of {}", endpoint.ifname, endpoint.container_id);
            let text = format!("CHECK of {who}: {} {}", error.msg(), error.cause());
            assert!(damaged || is_excused(&error), "{text}");
        }
    }
}

/// DEL, as often as it takes: only what is killed in the middle may fail. Then nothing is there.
fn deleted(node: &Node, slot: usize, endpoint: &Endpoint, dice: &mut Dice) -> State {
    node.addresses.lock().unwrap().retain(|_, holder| *holder != slot);
    let mut attachments = node.attachments(slot, endpoint);
    if dice.roll(2) == 0 {
        attachments.reverse();
    }
    for (list, endpoint) in attachments {
        let mut tries = 0..50;
        while let Err(error) = node.runtime.del(list, &endpoint) {
            assert!(is_excused(&error), "DEL of c{slot}: {} {}", error.msg(), error.cause());
            assert!(tries.next().is_some(), "DEL of c{slot} fails for ever");
            std::thread::sleep(ORPHANS);
        }
    }
    if dice.roll(8) == 0 {
        let left = node.remains(slot);
        assert!(left.is_empty(), "DEL of c{slot} left {left:?}");
    }
    State::Gone
}

/// Ends one of the plugins that this process runs now, or of their delegates.
fn kill_one(node: &Node, dice: &mut Dice) {
    let (me, bin) = (std::process::id().to_string(), bin_dir().canonicalize().unwrap());
    let mut plugins = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let program = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, tail)| tail.split(' ').nth(1));
        // Between fork and exec a child is still this test.
        if program.parent() == Some(&bin) {
            plugins.insert(pid, parent.unwrap_or_default().to_owned());
        }
    }
    let is_ours = |parent: &String| *parent == me || plugins.get(parent) == Some(&me);
    let found =
        plugins.iter().filter(|(_, parent)| is_ours(parent)).filter_map(|(pid, _)| pid.parse::<i32>().ok());
    let found: Vec<i32> = found.collect();
    if !found.is_empty() {
        let pid = *dice.pick(&found);
        // It may have ended just now.
        if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            node.killed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// GC in which all live, and STATUS.
fn collect_garbage(node: &Node, list: &ConfList) {
    let all = (0..SLOTS).flat_map(|slot| node.attachments(slot, &Node::endpoint(slot, String::new())));
    let all: Vec<Attachment> = all.map(|(_, endpoint)| endpoint.on(&list.name)).collect();
    for (verb, ended) in [("GC", node.runtime.gc(list, &all)), ("STATUS", node.runtime.status(list))] {
        if let Err(error) = ended {
            assert!(is_excused(&error), "{verb}: {} {}", error.msg(), error.cause());
        }
    }
}

/// The clock goes an hour on or back.
fn jump(dice: &mut Dice) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let then = if dice.roll(2) == 0 { now + 3600 } else { now - 3600 };
    let set = Command::new("date").args(["-s", &format!("@{then}")]).output().unwrap();
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
}

/// What happens to the node meanwhile.
fn trouble(node: &Node, seed: u64) {
    let mut dice = Dice::new(seed);
    let run = |program: &str, args: &[&str]| drop(Command::new(program).args(args).output());
    let mut turn = 0_u64;
    while !node.over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20 + dice.roll(60) as u64));
        turn += 1;
        match turn % 100 {
            // Rules of ours are not in these tables.
            10 => run("iptables", &["-t", "nat", "-F"]),
            5 if number("SOAK_CLOCK", 0) == 1 => {
                jump(&mut dice);
                node.jumps.fetch_add(1, Ordering::Relaxed);
            }
            25 => {
                // Somebody cleans up too much. What is being added meanwhile would be damaged unnoticed, so nobody works then.
                let _quiet = node.quiet.write().unwrap();
                run("nft", &["flush", "ruleset"]);
                node.flushes.fetch_add(1, Ordering::Relaxed);
            }
            50 => {
                let filler = node.dir.path().join("leases/filler");
                write_file(&filler, [], 0o600);
                run("sh", &["-c", "cat /dev/zero >\"$0\"", &filler.to_string_lossy()]);
                std::thread::sleep(Duration::from_millis(300));
                std::fs::remove_file(filler).unwrap();
            }
            75 => {
                for list in node.lists.iter().chain([&node.second]) {
                    collect_garbage(node, list);
                }
            }
            n if n % 3 == 0 => kill_one(node, &mut dice),
            n if n % 7 == 0 => {
                run("ip", &["link", "add", "foreign0", "type", "veth", "peer", "name", "foreign1"]);
                run("ip", &["link", "del", "foreign0"]);
            }
            _ => {}
        }
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    let (seconds, seed) = (number("SOAK_SECONDS", 20), seed("SOAK_SEED"));
    raise_file_limit();
    // For the small disk.
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let _host = Host::enter();
    mount(None::<&str>, Path::new("/"), None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .unwrap();
    let node = Node::new();
    let begun = Instant::now();
    let node_ref = &node;
    // A panic in any thread is a broken rule of the model; the others go on to their ends.
    std::thread::scope(|scope| {
        let slots: Vec<_> = (0..SLOTS).map(|slot| scope.spawn(move || live(node_ref, slot, seed))).collect();
        let troubles = scope.spawn(move || trouble(node_ref, seed));
        while begun.elapsed() < Duration::from_secs(seconds)
            && !slots.iter().any(std::thread::ScopedJoinHandle::is_finished)
        {
            std::thread::sleep(Duration::from_millis(100));
        }
        node.over.store(true, Ordering::Relaxed);
        let broken = slots.into_iter().chain([troubles]).filter_map(|thread| thread.join().err()).count();
        assert_eq!(broken, 0, "SOAK_SEED={seed} after {:?}", begun.elapsed());
    });
    let done = (node.done.load(Ordering::Relaxed), node.killed.load(Ordering::Relaxed));
    // Past what catches a test's output: it is to be seen how much was done.
    let _ = writeln!(
        std::io::stderr(),
        "soak: {} operations, {} plugins killed, {} flushes, {} jumps of the clock, seed {seed}",
        done.0,
        done.1,
        node.flushes.load(Ordering::Relaxed),
        node.jumps.load(Ordering::Relaxed)
    );
    // An emulated machine is slow.
    assert!(done.0 > 2 * SLOTS && done.1 > 0, "{done:?}");
    assert!(number("SOAK_CLOCK", 0) == 0 || node.jumps.load(Ordering::Relaxed) > 0, "the clock never jumped");
    for slot in 0..SLOTS {
        let left = node.remains(slot);
        assert!(left.is_empty(), "SOAK_SEED={seed}: c{slot} left {left:?}");
    }
    // Whatever was killed half-way and belongs to nobody: GC finishes.
    for list in node.lists.iter().chain([&node.second]) {
        node.runtime.gc(list, &[]).unwrap();
    }
    let end = Snapshot::take();
    let strange: Vec<&String> =
        end.links.keys().filter(|name| !["lo", "soak0", "soak1", "soak2"].contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "SOAK_SEED={seed}: {strange:?}");
    let ours = node
        .lists
        .iter()
        .chain([&node.second])
        .find(|list| end.rules.contains(&format!("cni/{}/", list.name)));
    assert!(ours.is_none(), "SOAK_SEED={seed}: {}", end.rules);
    assert!(leases(&node.dir.path().join("leases")).is_empty());
    nix::mount::umount2(&node.dir.path().join("leases"), nix::mount::MntFlags::MNT_DETACH).unwrap();
}
