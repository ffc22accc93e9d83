//! `host-local` when it is killed, when the system refuses, when its index is broken, and when both implementations work
//! on one folder at once: no address lost, none given twice.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

use cni_harness::faults::{Point, inject, points};
use cni_harness::{Answer, Call, bin_dir, leases, reference_dir, write_file};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, RwLock};
use tempfile::TempDir;

struct Bed {
    data: TempDir,
    subnet: &'static str,
}

impl Bed {
    fn new(subnet: &'static str) -> Self {
        Self { data: tempfile::tempdir().unwrap(), subnet }
    }

    fn conf(&self, version: &str) -> Value {
        json!({"cniVersion": version, "name": "net", "ipam": {"type": "host-local", "dataDir": self.data.path(),
               "ranges": [[{"subnet": self.subnet}]]}})
    }

    fn call(&self, plugins: &Path, command: &str, id: &str) -> Call {
        let version = if plugins == bin_dir() { "1.1.0" } else { "1.0.0" };
        let call = Call::of(plugins, "host-local").command(command, &self.conf(version));
        call.attachment(id, "eth0").env("CNI_NETNS", "/run/netns/none")
    }

    fn run(&self, command: &str, id: &str) -> Answer {
        self.call(&bin_dir(), command, id).run()
    }

    fn gc(&self, valid: &[&str]) -> Answer {
        let list: Vec<Value> = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
        let mut conf = self.conf("1.1.0");
        conf["cni.dev/valid-attachments"] = json!(list);
        Call::new("host-local").command("GC", &conf).run()
    }

    fn leases(&self) -> BTreeMap<String, String> {
        leases(self.data.path())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data.path().join("net").join(name)
    }

    /// A DEL that says to have freed everything has.
    fn del_frees(&self, id: &str) {
        self.run("DEL", id).ok();
        let held = self.leases();
        assert!(!held.values().any(|text| text.starts_with(id)), "{id} in {held:?}");
    }

    /// Every address that there is can be leased, and then freed.
    fn all_usable(&self, label: &str, addresses: usize) {
        let held = self.leases();
        let free = addresses - held.len();
        for n in 0..free {
            let answer = self.run("ADD", &format!("all{n}"));
            assert!(answer.is_ok(), "{label}: address {n} of {free} is lost\n{}", answer.dump());
        }
        assert_eq!(self.leases().len(), addresses, "{label}");
        self.run("ADD", "one-more").fails(11);
        for n in 0..free {
            self.run("DEL", &format!("all{n}")).ok();
        }
        assert_eq!(self.leases(), held, "{label}");
    }
}

fn address(answer: &Answer) -> String {
    answer.ok()["ips"][0]["address"].as_str().unwrap().to_owned()
}

/// The call that meets with the faults.
fn call(bed: &Bed, command: &str) -> Call {
    let mut conf = bed.conf("1.1.0");
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "bystander", "ifname": "eth0"}]);
    let call = Call::new("host-local").command(command, &conf).attachment("c1", "eth0");
    call.env("CNI_NETNS", "/run/netns/none").env("CNI_PATH", "/nowhere")
}

/// A folder with a bystander's lease, and with one of "c1" where the command needs it.
fn prepared(command: &str) -> Bed {
    let bed = Bed::new("10.1.0.0/28");
    address(&bed.run("ADD", "bystander"));
    if command != "ADD" {
        address(&bed.run("ADD", "c1"));
    }
    bed
}

#[test]
fn killed_at_every_system_call() {
    for command in ["ADD", "DEL", "GC"] {
        for (n, point) in points(&call(&prepared(command), command)).into_iter().enumerate() {
            let bed = prepared(command);
            let bystander = bed.leases()["net/10.1.0.2"].clone();
            let answer = inject(&call(&bed, command), &point, "signal=SIGKILL");
            let label = format!("{command} killed at {} ({})", point.name, point.nth);
            assert!(answer.code != Some(0) || point.name == "execve", "{label}: it was not");
            assert_eq!(bed.leases().get("net/10.1.0.2"), Some(&bystander), "{label}: the bystander's lease");
            for text in bed.leases().values() {
                assert!(text.ends_with("\r\neth0"), "{label}: a torn lease {text:?}");
            }
            // Either of the two cleans up.
            if n % 2 == 0 {
                bed.run("DEL", "c1").ok();
            } else {
                bed.gc(&["bystander"]).ok();
            }
            assert_eq!(bed.leases().len(), 1, "{label}");
            // All addresses are there, once.
            bed.all_usable(&label, 13);
            address(&bed.run("ADD", "c1"));
            bed.run("CHECK", "c1").ok();
            bed.run("CHECK", "bystander").ok();
        }
    }
}

#[test]
fn refused_at_every_system_call() {
    for command in ["ADD", "DEL", "GC"] {
        for point in points(&call(&prepared(command), command)).into_iter().filter(Point::can_fail) {
            for error in ["EIO", "ENOSPC", "EACCES", "EINTR"] {
                let bed = prepared(command);
                let held = bed.leases();
                let answer = inject(&call(&bed, command), &point, &format!("error={error}"));
                let label = format!("{command}, {error} at {} ({})", point.name, point.nth);
                let Answer { stdout, stderr, code, .. } = answer;
                assert!(!stderr.contains("panicked"), "{label}: {stderr}");
                assert!(matches!(code, Some(0 | 1)), "{label}: {code:?} {stderr}");
                let after = bed.leases();
                assert_eq!(
                    after.get("net/10.1.0.2"),
                    held.get("net/10.1.0.2"),
                    "{label}: the bystander's lease"
                );
                if code == Some(0) {
                    let want = if command == "ADD" { 2 } else { 1 };
                    assert_eq!(after.len(), want, "{label}: success, and so it is done");
                } else {
                    let lost = stderr.contains("the result could not be written");
                    let json: Value = serde_json::from_str(&stdout).unwrap_or_default();
                    assert!(lost || json["code"].is_u64(), "{label}: no error JSON in {stdout:?}, {stderr}");
                    assert!(
                        command != "ADD" || after.len() == 1,
                        "{label}: a failed ADD leaves no lease: {stdout} {stderr}"
                    );
                }
                bed.run("DEL", "c1").ok();
                assert_eq!(bed.leases().len(), 1, "{label}");
                bed.all_usable(&label, 13);
            }
        }
    }
}

type Breakage<'a> = (&'a str, Box<dyn Fn(&Bed) + 'a>);

#[test]
fn an_index_in_any_state_changes_no_answer() {
    let good = |bed: &Bed| std::fs::read(bed.file(".index")).unwrap();
    let overwrite = |bed: &Bed, bytes: &[u8]| {
        // In place, as a torn write would be: the folder's time does not change.
        let file = std::fs::File::options().write(true).truncate(true).open(bed.file(".index")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
    };
    let mut breakages: Vec<Breakage> = vec![
        ("deleted", Box::new(|bed| std::fs::remove_file(bed.file(".index")).unwrap())),
        ("empty", Box::new(|bed| overwrite(bed, b""))),
        ("zeros", Box::new(|bed| overwrite(bed, &[0; 4096]))),
        (
            "noise",
            Box::new(|bed| {
                overwrite(bed, &(0..4096u32).map(|n| ((n * 7919) >> 3).to_le_bytes()[0]).collect::<Vec<_>>());
            }),
        ),
        (
            "another version",
            Box::new(|bed| {
                let mut bytes = good(bed);
                bytes[7] ^= 1;
                overwrite(bed, &bytes);
            }),
        ),
        (
            "another boot",
            Box::new(|bed| {
                let mut bytes = good(bed);
                bytes[8] ^= 1;
                overwrite(bed, &bytes);
            }),
        ),
        (
            "another token",
            Box::new(|bed| {
                let mut bytes = good(bed);
                bytes[32] ^= 1;
                overwrite(bed, &bytes);
            }),
        ),
        (
            "a huge count",
            Box::new(|bed| {
                let mut bytes = good(bed);
                bytes[47] = 0x7f;
                overwrite(bed, &bytes);
            }),
        ),
        (
            "huge changes",
            Box::new(|bed| {
                let mut bytes = good(bed);
                bytes[55] = 0x7f;
                overwrite(bed, &bytes);
            }),
        ),
        (
            "a folder",
            Box::new(|bed| {
                std::fs::remove_file(bed.file(".index")).unwrap();
                std::fs::create_dir(bed.file(".index")).unwrap();
            }),
        ),
        (
            "a link",
            Box::new(|bed| {
                std::fs::remove_file(bed.file(".index")).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", bed.file(".index")).unwrap();
            }),
        ),
        (
            "sparse, and of all leases that there may be",
            Box::new(|bed| {
                let mut bytes = good(bed);
                bytes.splice(40..48, (1u64 << 20).to_ne_bytes());
                overwrite(bed, &bytes[..64]);
                let file = std::fs::File::options().write(true).open(bed.file(".index")).unwrap();
                file.set_len(64 + 48 * (1 << 20)).unwrap();
            }),
        ),
        ("a lease made by hand", Box::new(|bed| write_file(&bed.file("10.1.0.5"), "hand\r\neth0", 0o600))),
        ("a lease deleted by hand", Box::new(|bed| std::fs::remove_file(bed.file("10.1.0.2")).unwrap())),
    ];
    for cut in [1, 8, 63, 64, 65, 88, 100, 136, 160] {
        breakages.push((
            "cut",
            Box::new(move |bed| {
                let bytes = good(bed);
                overwrite(bed, &bytes[..cut.min(bytes.len() - 1)]);
            }),
        ));
    }
    for (label, breakage) in breakages {
        let bed = Bed::new("10.1.0.0/28");
        for id in ["c1", "c2"] {
            address(&bed.run("ADD", id));
        }
        breakage(&bed);
        let c1 = bed.leases().values().any(|text| text.starts_with("c1"));
        assert_eq!(bed.run("CHECK", "c1").is_ok(), c1, "{label}");
        bed.run("STATUS", "x").ok();
        assert_eq!(bed.run("ADD", "c1").is_ok(), !c1, "{label}: one lease an attachment");
        let third = bed.run("ADD", "c3");
        assert!(third.is_ok(), "{label}\n{}", third.dump());
        let holders: Vec<String> = bed.leases().into_values().collect();
        assert_eq!(holders.len(), holders.iter().collect::<HashSet<_>>().len(), "{label}: {holders:?}");
        for id in ["c1", "c2", "c3", "hand"] {
            bed.run("DEL", id).ok();
        }
        assert!(bed.leases().is_empty(), "{label}");
        bed.all_usable(label, 13);
        assert!(std::fs::metadata("/etc/passwd").unwrap().len() > 100, "the link's target is untouched");
    }
}

/// What somebody may do to the folder of leases behind our back.
#[derive(Debug, Clone)]
enum Foreign {
    /// `cp -a folder/. backup/`
    BackUp,
    /// `cp -a backup/. folder/`
    LayOver,
    /// `mv folder aside; cp -a backup folder`
    Replace,
    /// The folder's time is set to what it was at the backup, or to now.
    Touch {
        back: bool,
    },
    Delete(u8),
    Rename(u8, u8),
    /// Ours are called.
    Add(u8),
    Del(u8),
}

fn foreign() -> impl Strategy<Value = Foreign> {
    let n = || 0..6u8;
    prop_oneof![
        2 => Just(Foreign::BackUp),
        2 => Just(Foreign::LayOver),
        1 => Just(Foreign::Replace),
        1 => any::<bool>().prop_map(|back| Foreign::Touch { back }),
        1 => n().prop_map(Foreign::Delete),
        1 => (n(), n()).prop_map(|(from, to)| Foreign::Rename(from, to)),
        6 => n().prop_map(Foreign::Add),
        3 => n().prop_map(Foreign::Del),
    ]
}

impl Foreign {
    /// `elsewhere` is a folder beside, for backups.
    fn happen(&self, bed: &Bed, elsewhere: &Path) {
        let (backup, aside) = (&elsewhere.join("backup"), elsewhere.join("aside"));
        let lease = |n: u8| bed.file(&format!("10.1.0.{}", n + 2));
        let folder = bed.file("");
        let copy = |from: &Path, to: &Path| {
            std::fs::create_dir_all(to).unwrap();
            let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
            assert!(copied.success());
        };
        match self {
            Self::BackUp => copy(&folder, backup),
            Self::LayOver => copy(backup, &folder),
            Self::Replace => {
                let _ = std::fs::remove_dir_all(&aside);
                std::fs::rename(&folder, aside).unwrap();
                copy(backup, &folder);
            }
            Self::Touch { back } => {
                let then = std::fs::metadata(backup).unwrap().modified().unwrap();
                let time = if *back { then } else { std::time::SystemTime::now() };
                std::fs::File::open(&folder).unwrap().set_modified(time).unwrap();
            }
            // What is not there can't be deleted or renamed.
            Self::Delete(n) => drop(std::fs::remove_file(lease(*n))),
            Self::Rename(from, to) => drop(std::fs::rename(lease(*from), lease(*to))),
            Self::Add(n) => drop(bed.run("ADD", &format!("c{n}"))),
            Self::Del(n) => bed.del_frees(&format!("c{n}")),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_others_do_to_the_folder_hides_a_lease(happens in prop::collection::vec(foreign(), 1..25)) {
        let bed = Bed::new("10.1.0.0/29");
        let elsewhere = tempfile::tempdir().unwrap();
        bed.run("ADD", "c0").ok();
        Foreign::BackUp.happen(&bed, elsewhere.path());
        for one in &happens {
            one.happen(&bed, elsewhere.path());
        }
        for n in 0..6 {
            bed.del_frees(&format!("c{n}"));
        }
        prop_assert!(bed.leases().is_empty(), "{:?}", bed.leases());
    }
}

/// The index can't see that somebody writes into a lease where it lies.
#[test]
fn a_lease_that_was_written_over_is_freed_by_whom_it_names() {
    let bed = Bed::new("10.1.0.0/29");
    bed.run("ADD", "c0").ok();
    write_file(&bed.file("10.1.0.2"), "c9\r\neth0", 0o600);
    bed.run("CHECK", "c9").ok();
    bed.del_frees("c9");
    assert!(bed.leases().is_empty());
}

#[test]
fn the_tables_are_made_anew_when_changes_grow_many() {
    let bed = Bed::new("10.1.0.0/24");
    for n in 0..700 {
        address(&bed.run("ADD", &format!("c{n}")));
        bed.run("DEL", &format!("c{n}")).ok();
    }
    let index = std::fs::metadata(bed.file(".index")).unwrap().len();
    assert!(index < 1100 * 24, "{index} bytes for no lease at all");
    bed.all_usable("after 1400 changes", 253);
}

/// A generator of numbers, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn both_implementations_at_once_against_a_model() {
    const PROCESSES: u64 = 16;
    const STEPS: u64 = 200;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    eprintln!("SEED={seed}");
    // Small enough that addresses come round many times.
    let bed = Bed::new("10.1.0.0/25");
    let reference = reference_dir();
    // Address → who was told that it is theirs.
    let given: Mutex<HashMap<String, String>> = Mutex::default();
    // GC must know all that live, so nobody else works meanwhile.
    let quiet = RwLock::new(());
    std::thread::scope(|scope| {
        for process in 0..PROCESSES {
            let (bed, given, quiet, reference) = (&bed, &given, &quiet, &reference);
            scope.spawn(move || {
                let mut random = Random(seed + process);
                let mut mine: BTreeMap<String, String> = BTreeMap::new();
                for _ in 0..STEPS {
                    let id = format!("p{process}-{}", random.below(5));
                    let plugins = if random.below(2) == 0 { bin_dir() } else { reference.clone() };
                    let held = mine.get(&id).cloned();
                    match random.below(40) {
                        0 => {
                            let _alone = quiet.write().unwrap();
                            let living: Vec<String> = given.lock().unwrap().values().cloned().collect();
                            let before = bed.leases();
                            bed.gc(&living.iter().map(String::as_str).collect::<Vec<_>>()).ok();
                            assert_eq!(bed.leases(), before, "GC frees nothing that lives");
                        }
                        1..=16 => {
                            let _shared = quiet.read().unwrap();
                            let answer = bed.call(&plugins, "ADD", &id).run();
                            assert_eq!(answer.is_ok(), held.is_none(), "{id}\n{}", answer.dump());
                            if answer.is_ok() {
                                let ip = address(&answer);
                                let other = given.lock().unwrap().insert(ip.clone(), id.clone());
                                assert_eq!(other, None, "{ip} was given to {id} and to another");
                                mine.insert(id, ip);
                            }
                        }
                        17..=32 => {
                            let _shared = quiet.read().unwrap();
                            if let Some(ip) = mine.remove(&id) {
                                given.lock().unwrap().remove(&ip);
                            }
                            bed.call(&plugins, "DEL", &id).run().ok();
                        }
                        _ => {
                            let _shared = quiet.read().unwrap();
                            let answer = bed.call(&plugins, "CHECK", &id).run();
                            assert_eq!(answer.is_ok(), held.is_some(), "{id}\n{}", answer.dump());
                        }
                    }
                }
                for (id, ip) in mine {
                    let _shared = quiet.read().unwrap();
                    given.lock().unwrap().remove(&ip);
                    bed.run("DEL", &id).ok();
                }
            });
        }
    });
    assert!(bed.leases().is_empty(), "{:?}", bed.leases());
    bed.all_usable("after all", 125);
}

#[test]
fn a_waiter_names_who_holds_the_lock() {
    let bed = Bed::new("10.1.0.0/28");
    address(&bed.run("ADD", "c1"));
    let lock = bed.file("lock");
    let mut holder = Command::new("flock").arg(&lock).args(["sleep", "12"]).spawn().unwrap();
    let taken = || {
        std::fs::read_to_string("/proc/locks")
            .unwrap()
            .contains(&format!("FLOCK  ADVISORY  WRITE {}", holder.id()))
    };
    while !taken() {
        std::thread::yield_now();
    }
    let answer = bed.run("ADD", "c2");
    address(&answer);
    assert!(answer.stderr.contains(&format!("process {} (flock", holder.id())), "{}", answer.stderr);
    holder.wait().unwrap();
}

#[test]
fn a_thousand_who_wait_are_all_served() {
    const WAITING: usize = 1000;
    let bed = Bed::new("10.1.0.0/20");
    address(&bed.run("ADD", "first"));
    let lock = std::fs::File::open(bed.file("lock")).unwrap();
    lock.lock().unwrap();
    let conf = tempfile::NamedTempFile::new().unwrap();
    write_file(conf.path(), bed.conf("1.1.0").to_string(), 0o600);
    let spawn = |n: usize| {
        let mut command = Command::new(bin_dir().join("host-local"));
        command.env_clear().env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", format!("c{n}"));
        command
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", "/x")
            .stdin(std::fs::File::open(conf.path()).unwrap());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let waiting: Vec<_> = (0..WAITING).map(spawn).collect();
    lock.unlock().unwrap();
    let failed =
        waiting.into_iter().filter_map(|mut child| child.wait().ok()).filter(|status| !status.success());
    assert_eq!(failed.count(), 0);
    assert_eq!(bed.leases().len(), WAITING + 1);
}
