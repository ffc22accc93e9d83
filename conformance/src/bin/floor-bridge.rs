//! The least that a bridge attachment can cost: the same kernel objects, with one started program where the IPAM plugin
//! is one, and nothing else. No config, no lease, no checks, no undo; what the `bridge` plugin takes beyond this is its own.
//!
//! `floor-bridge add|del alone|with-child BRIDGE HOST-VETH NETNS CHAIN-OR-"" ADDRESS/LEN…`, on a bridge and a table that are there.

use cni_common::kernel::netlink::addr::Dad;
use cni_common::kernel::netlink::link::{PortFlags, VethPair, random_mac};
use cni_common::kernel::netlink::{Socket, addr, all_ok, link};
use cni_common::kernel::netns::Netns;
use cni_common::kernel::nft::{Chain, Data, End, Family, Field, Key, Set, Transaction, Value};
use cni_common::spec::{Code, Coded, Error, IfName, Result};
use ipnet::IpNet;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, ExitCode};

/// Stands for the IPAM plugin: a program that starts and ends.
const CHILD: &str = "child";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [CHILD] => Ok(()),
        ["add", rest @ ..] => Floor::read(rest).and_then(|floor| floor.add()),
        ["del", rest @ ..] => Floor::read(rest).and_then(|floor| floor.del()),
        _ => Err(Error::config("want add or del, and more")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cni_common::log!("floor-bridge: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Floor<'a> {
    with_child: bool,
    bridge: IfName,
    host: IfName,
    netns: &'a Path,
    chain: &'a str,
    addresses: Vec<IpNet>,
}

impl<'a> Floor<'a> {
    fn read(words: &[&'a str]) -> Result<Self> {
        let [how @ ("alone" | "with-child"), bridge, host, netns, chain, addresses @ ..] = words else {
            return Err(Error::config("want alone|with-child BRIDGE HOST-VETH NETNS CHAIN ADDRESS…"));
        };
        let name = |text: &str| IfName::try_from(text).coded(Code::INVALID_CONFIG, "a link's name");
        let addresses: std::result::Result<_, _> = addresses.iter().map(|text| text.parse()).collect();
        let addresses = addresses.coded(Code::INVALID_CONFIG, "an address")?;
        Ok(Self {
            with_child: *how == "with-child",
            bridge: name(bridge)?,
            host: name(host)?,
            netns: Path::new(*netns),
            chain,
            addresses,
        })
    }

    /// A layer 2 network has no IPAM plugin.
    fn start_child(&self) -> Result<Option<Child>> {
        let start = || Command::new("/proc/self/exe").arg(CHILD).spawn().io("start a program");
        (self.with_child && !self.addresses.is_empty()).then(start).transpose()
    }

    fn add(&self) -> Result<()> {
        let netns = Netns::open(self.netns)?;
        let mut socket = Socket::route()?;
        let child = self.start_child()?;
        let eth0 = IfName::try_from("eth0").coded(Code::INTERNAL, "eth0")?;
        let pair = VethPair {
            host: &self.host,
            host_mac: random_mac(),
            bridge: link::find(&mut socket, &self.bridge)?.map_or(0, |link| link.index),
            container: &eth0,
            container_mac: random_mac(),
            netns: netns.as_raw_fd(),
            mtu: None,
        };
        let mark = link::mark_port(&self.host, "floor", PortFlags::default());
        all_ok(socket.batch(vec![link::create_veth(&pair), mark])?)?;
        let mut inside = netns.run(|| Ok(Socket::route()?))?;
        let index = link::find(&mut inside, &eth0)?.map_or(0, |link| link.index);
        wait(child)?;
        let mut batch: Vec<_> = self.addresses.iter().map(|net| addr::add(index, *net, Dad::Off)).collect();
        batch.push(link::set_up(index, true));
        all_ok(inside.batch(batch)?)?;
        self.change_elements(|transaction, family, set, key, chain| {
            transaction.insert_element(family, set, (key, Value::Goto(chain)), "floor");
        })?;
        link::find(&mut socket, &self.host)?;
        Ok(())
    }

    fn del(&self) -> Result<()> {
        let mut socket = Socket::route()?;
        let index = link::find(&mut socket, &self.host)?.map_or(0, |link| link.index);
        all_ok(socket.batch(vec![link::delete(index)])?)?;
        self.change_elements(|transaction, family, set, key, _| {
            transaction.delete_element(family, set, key);
        })?;
        wait(self.start_child()?)
    }

    fn change_elements(&self, change: impl Fn(&mut Transaction, Family, &Set, &Key, &Chain)) -> Result<()> {
        const TABLE: &str = "floor";
        if self.chain.is_empty() {
            return Ok(());
        }
        let mut transaction = Transaction::default();
        for net in &self.addresses {
            let family = Family::of(net.addr());
            let field = &[Field::address(family, End::Source)];
            let set = Set { table: TABLE, name: "sources", key: field, data: Data::Verdict };
            let chain = Chain { table: TABLE, name: self.chain, hook: None };
            change(&mut transaction, Family::of(net.addr()), &set, &net.addr().into(), &chain);
        }
        Ok(transaction.commit(&mut Socket::netfilter()?)?)
    }
}

fn wait(child: Option<Child>) -> Result<()> {
    child.map(|mut child| child.wait()).transpose().io("wait for the program").map(drop)
}
