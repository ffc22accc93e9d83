//! What is done, in which networks, by whom.

use cni_harness::call::Call;
use cni_harness::netns::{Container, Host};
use cni_harness::write_file;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Who takes part.
#[derive(Debug, Clone)]
pub struct Entrant {
    /// As tables call it.
    pub name: String,
    /// Its plugins, or the program that does the least that there is to do.
    pub by: By,
}

/// How an entrant does it.
#[derive(Debug, Clone)]
pub enum By {
    /// By the plugins of a folder.
    Plugins(PathBuf),
    /// By `floor-bridge`.
    Floor {
        /// The program.
        program: PathBuf,
        /// Whether it starts one, as a plugin does whose IPAM plugin is another file.
        with_child: bool,
    },
}

/// A config that is measured.
#[derive(Debug, Clone)]
pub struct Contest {
    /// `PLUGIN/CONFIG`
    pub name: String,
    /// The plugin.
    pub plugin: String,
    /// Its config; `$SIDE` becomes the number of who does it, `$DIR` a folder of the run's, `$PORT` the container's port.
    pub conf: Map<String, Value>,
    /// Leases that the network holds already.
    pub leases: usize,
    /// What the floor does, if it has an equivalent: whether there are a masquerading, IPv4 and IPv6 addresses.
    pub floor: Option<[bool; 3]>,
}

fn contest(name: &str, conf: &Value, floor: Option<[bool; 3]>) -> Contest {
    let plugin = name.split('/').next().unwrap_or_default().to_owned();
    Contest {
        name: name.to_owned(),
        plugin,
        conf: conf.as_object().cloned().unwrap_or_default(),
        leases: 0,
        floor,
    }
}

/// The built-in ones.
#[must_use]
pub fn all() -> Vec<Contest> {
    let v4 = json!([{"subnet": "10.$SIDE.0.0/16"}]);
    let ipam = |ranges: Value| json!({"type": "host-local", "dataDir": "$DIR/leases", "ranges": ranges});
    let both = json!([v4, [{"subnet": "fd00:$SIDE::/64"}]]);
    let bridge = |masq: bool, ranges: &Value| json!({"bridge": "b$SIDE", "isGateway": true, "ipMasq": masq, "ipam": ipam(ranges.clone())});
    let ports = |many: u16| -> Value {
        let one = |n| json!({"hostPort": format!("$PORT+{n}"), "containerPort": 80, "protocol": "tcp"});
        json!({"runtimeConfig": {"portMappings": (0..many).map(one).collect::<Vec<_>>()}})
    };
    // Without the keys, the reference takes iptables where the machine has them, and ours nf_tables.
    let masq_by = |backend: &str| {
        let mut conf = bridge(true, &json!([v4]));
        conf["ipMasqBackend"] = json!(backend);
        conf
    };
    let ports_by = |backend: &str| {
        let mut conf = ports(5);
        conf["backend"] = json!(backend);
        conf
    };
    let limits = json!({"ingressRate": 100_000_000, "ingressBurst": 2_000_000, "egressRate": 100_000_000, "egressBurst": 2_000_000});
    // Its own bridge, one port and both limits.
    let mut kubenet = ports(1);
    kubenet["runtimeConfig"]["bandwidth"] = limits.clone();
    for (key, text) in [
        ("bridge", "b$SIDE"),
        ("podCIDR", "10.$SIDE.0.0/16"),
        ("stateDir", "$DIR/state"),
        ("dataDir", "$DIR/leases"),
    ] {
        kubenet[key] = json!(text);
    }
    let mut all = vec![
        contest("bridge/plain", &bridge(false, &json!([v4])), Some([false, true, false])),
        contest("bridge/ipMasq", &bridge(true, &json!([v4])), Some([true, true, false])),
        contest("bridge/dual-stack", &bridge(false, &both), Some([false, true, true])),
        contest("bridge/layer-2", &json!({"bridge": "b$SIDE"}), Some([false, false, false])),
        contest("bridge/ipMasq-iptables", &masq_by("iptables"), Some([true, true, false])),
        contest("bridge/ipMasq-nftables", &masq_by("nftables"), Some([true, true, false])),
        contest("loopback/plain", &json!({}), None),
        contest("portmap/1-port", &ports(1), None),
        contest("portmap/5-ports", &ports(5), None),
        contest("portmap/20-ports", &ports(20), None),
        contest("portmap/5-ports-iptables", &ports_by("iptables"), None),
        contest("portmap/5-ports-nftables", &ports_by("nftables"), None),
        contest("bandwidth/none", &json!({}), None),
        contest("bandwidth/both", &limits, None),
        contest("bandwidth/ingress", &json!({"ingressRate": 100_000_000, "ingressBurst": 2_000_000}), None),
        contest("kubenet-shim/whole-chain", &kubenet, None),
    ];
    for leases in [0, 1_000, 10_000, 60_000] {
        let one = contest(&format!("host-local/{leases}-leases"), &json!({"ipam": ipam(json!([v4]))}), None);
        all.push(Contest { leases, ..one });
    }
    all
}

/// The machine that everybody does it on.
pub struct Ground {
    host: Host,
    dir: TempDir,
    pods: Vec<Container>,
}

/// Plugins that change what is there already.
const CHAINED: [&str; 4] = ["portmap", "bandwidth", "firewall", "tuning"];

impl Ground {
    /// A machine with so many containers; for a chained plugin with their interfaces. The containers stay, so that no namespace dies
    /// while something is timed.
    ///
    /// # Panics
    /// When it can't be had.
    #[must_use]
    pub fn new(contest: &Contest, entrants: &[Entrant], pods: usize) -> Self {
        let host = Host::enter();
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("a folder: {error}"));
        let ground = Self { host, dir, pods: (0..pods).map(|_| Container::new()).collect() };
        if CHAINED.contains(&contest.plugin.as_str()) {
            for (n, pod) in ground.pods.iter().enumerate() {
                ground.host.ip(&format!("link add vh{n} type veth peer name eth0 netns {}", pod.path()));
                ground.host.ip(&format!("link set vh{n} up"));
            }
        }
        for (side, entrant) in entrants.iter().enumerate() {
            ground.fill(side, contest.leases);
            if let (By::Floor { .. }, Some([masquerades, ..])) = (&entrant.by, contest.floor) {
                ground.prepare_floor(side, masquerades);
            }
        }
        ground
    }

    /// What the floor finds in place, as the plugins' first ADD makes it.
    fn prepare_floor(&self, side: usize, masquerades: bool) {
        self.host.ip(&format!("link add b{} type bridge", octet(side)));
        self.host.ip(&format!("link set b{} up", octet(side)));
        if masquerades {
            let rules = "add table ip floor; add chain ip floor net; add map ip floor sources { type ipv4_addr : verdict; }";
            self.host.run("nft", &[rules]);
        }
    }

    fn leases(&self, side: usize) -> PathBuf {
        self.dir.path().join(side.to_string()).join("leases")
    }

    /// Leases from the range's first address on.
    fn fill(&self, side: usize, leases: usize) {
        if leases == 0 {
            return;
        }
        let dir = self.leases(side).join(network(side));
        let made = std::fs::create_dir_all(&dir);
        assert!(made.is_ok(), "{made:?}");
        let address = |n: usize| format!("10.{}.{}.{}", octet(side), n / 256, n % 256);
        for n in 2..leases + 2 {
            write_file(&dir.join(address(n)), format!("filler{n}\r\neth0"), 0o600);
        }
        // Some go on from here; without it, they would try every lease first.
        write_file(&dir.join("last_reserved_ip.0"), address(leases + 1), 0o600);
    }

    /// One call of `verb` by `entrant`, who has number `side`, for container `n`.
    #[must_use]
    pub fn call(&self, contest: &Contest, (side, entrant): (usize, &Entrant), verb: &str, n: usize) -> Call {
        let dir = match &entrant.by {
            By::Plugins(dir) => dir,
            By::Floor { program, with_child } => {
                let call = self.floor_call(contest.floor.unwrap_or_default(), (side, n), verb, *with_child);
                return call.program(Path::new("/"), &program.to_string_lossy());
            }
        };
        let ifname = if contest.plugin == "loopback" { "lo" } else { "eth0" };
        Call::of(dir, &contest.plugin)
            .command(verb, &self.conf(contest, side, n))
            .attachment(&format!("timed{side}x{n}"), ifname)
            .netns(&self.pods[n])
    }

    fn floor_call(
        &self,
        [masquerades, v4, v6]: [bool; 3],
        (side, n): (usize, usize),
        verb: &str,
        with_child: bool,
    ) -> Call {
        let (octet, low) = (octet(side), n + 2);
        let chain = if masquerades { "net" } else { "" };
        let (bridge, veth) = (format!("b{octet}"), format!("fl{octet}-{n}"));
        let how = if with_child { "with-child" } else { "alone" };
        let mut words =
            vec![verb.to_lowercase(), how.to_owned(), bridge, veth, self.pods[n].path(), chain.to_owned()];
        if v4 {
            words.push(format!("10.{octet}.0.{low}/16"));
        }
        if v6 {
            words.push(format!("fd00:{octet}::{low:x}/64"));
        }
        Call::of(Path::new("/"), "").args(&words)
    }

    fn conf(&self, contest: &Contest, side: usize, n: usize) -> Value {
        let dir = self.dir.path().join(side.to_string());
        let text = Value::Object(contest.conf.clone()).to_string();
        let text = text.replace("$SIDE", &octet(side).to_string()).replace("$DIR", &dir.to_string_lossy());
        let mut conf: Value = serde_json::from_str(&text).unwrap_or_default();
        for mapping in conf["runtimeConfig"]["portMappings"].as_array_mut().into_iter().flatten() {
            let offset: usize = mapping["hostPort"]
                .as_str()
                .and_then(|text| text.strip_prefix("$PORT+")?.parse().ok())
                .unwrap_or_default();
            mapping["hostPort"] = json!(10_000 + n * 50 + offset);
        }
        for (key, value) in [("cniVersion", "1.0.0"), ("name", &network(side)), ("type", &contest.plugin)] {
            conf[key] = json!(value);
        }
        if CHAINED.contains(&contest.plugin.as_str()) {
            let address = format!("10.9.{}.{}/16", n / 200, n % 200 + 2);
            conf["prevResult"] = json!({"cniVersion": "1.0.0",
                "interfaces": [{"name": format!("vh{n}")}, {"name": "eth0", "sandbox": self.pods[n].path()}],
                "ips": [{"address": address, "gateway": "10.9.0.1", "interface": 1}]});
        }
        conf
    }

    /// What a DEL leaves on an interface that stays here, and would go with it elsewhere.
    pub fn clean(&self, contest: &Contest, n: usize) {
        if contest.plugin == "bandwidth" {
            for hook in ["root", "ingress"] {
                let words = ["qdisc", "del", "dev", &format!("vh{n}"), hook];
                // It may be gone.
                let _ = std::process::Command::new("tc").args(words).output();
            }
        }
    }
}

/// The number that tells bridges and subnets of the entrants apart.
const fn octet(side: usize) -> usize {
    20 + side
}

fn network(side: usize) -> String {
    format!("bench{side}")
}
