//! What a kernel answers, changed at random: whatever it is, reading it ends, and in no panic.

use super::conntrack;
use super::netlink::socket::parse;
use super::netlink::tc::{Filter, Qdisc, TcNetlinkMessage};
use super::netlink::{Link, Message, RouteNetlinkMessage, Socket, addr, route};
use super::nft;
use cni_harness::Host;
use cni_harness::fuzz::{fuzz, mutate, number, seed};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleMessage, SetElementList, SetElementMessage, SetMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::tc::TcMessage;
use std::fmt::Debug;

/// `NLMSG_DONE`, in the two bytes of a message that tell its type.
const DONE: [u8; 2] = 3_u16.to_ne_bytes();

/// The datagrams of a dump.
fn dump<M: NetlinkSerializable + Debug>(socket: &mut Socket, body: M) -> Vec<Vec<u8>> {
    socket.send(vec![Message { doing: String::new(), flags: NLM_F_REQUEST | NLM_F_DUMP, body }]).unwrap();
    let mut found = Vec::new();
    loop {
        let (bytes, _) = socket.raw().recv_from_full().unwrap();
        // The last message of a dump, or a refusal of it.
        let last = bytes.get(4..6).is_none_or(|kind| kind == DONE || kind == [2, 0])
            || bytes.len() > 20 && bytes[bytes.len() - 16..].get(..2) == Some(&DONE);
        found.push(bytes);
        if last {
            return found;
        }
    }
}

fn read_route(bytes: &[u8]) {
    for message in payloads(parse::<RouteNetlinkMessage>(bytes)) {
        match message {
            RouteNetlinkMessage::NewLink(link) => drop(Link::from_message(link)),
            RouteNetlinkMessage::NewAddress(address) => drop(addr::Addr::from_message(&address)),
            RouteNetlinkMessage::NewRoute(found) => drop(route::read(&found)),
            _ => {}
        }
    }
}

fn read_shaping(bytes: &[u8]) {
    for message in payloads(parse::<TcNetlinkMessage>(bytes)) {
        match message {
            TcNetlinkMessage::NewQdisc(qdisc) => drop(Qdisc::from_message(qdisc)),
            TcNetlinkMessage::NewFilter(filter) => drop(Filter::from_message(filter)),
            _ => {}
        }
    }
}

fn read_netfilter(bytes: &[u8]) {
    for message in payloads(parse::<NetfilterMessage>(bytes)) {
        drop(conntrack::read(message));
    }
    drop(parse::<nft::element_list::ElementList>(bytes));
}

fn payloads<M, E>(messages: Result<Vec<NetlinkMessage<M>>, E>) -> impl Iterator<Item = M> {
    messages.into_iter().flatten().filter_map(|message| match message.payload {
        NetlinkPayload::InnerMessage(body) => Some(body),
        _ => None,
    })
}

/// Tries answers on `read`; those that are right, first.
fn tried(name: &str, known: &[Vec<u8>], read: fn(&[u8])) {
    assert!(known.len() > 1, "{known:?}");
    for bytes in known {
        read(bytes);
    }
    fuzz(
        name,
        (number("FUZZ_RUNS", 3000), seed("FUZZ_SEED")),
        |dice| mutate(dice, known),
        |bytes| read(bytes),
    );
}

#[test]
fn of_rtnetlink() {
    let host = Host::enter();
    host.ip("link add br0 type bridge");
    host.ip("link add vh0 type veth peer name vh1");
    host.ip("link set vh0 master br0 alias cni/net/c1/eth0 up");
    host.ip("addr add 10.1.0.1/24 dev br0");
    host.ip("addr add fd00:1::1/64 dev br0 nodad");
    host.ip("link set br0 up");
    let mut socket = Socket::route().unwrap();
    let mut known = dump(&mut socket, RouteNetlinkMessage::GetLink(LinkMessage::default()));
    known.extend(dump(&mut socket, RouteNetlinkMessage::GetAddress(AddressMessage::default())));
    known.extend(dump(&mut socket, RouteNetlinkMessage::GetRoute(RouteMessage::default())));
    tried("answers of rtnetlink", &known, read_route);
}

#[test]
fn of_traffic_control() {
    let host = Host::enter();
    host.run(
        "tc",
        &[
            "qdisc", "add", "dev", "lo", "root", "handle", "1:", "tbf", "rate", "1mbit", "burst", "10k",
            "latency", "25ms",
        ],
    );
    host.run("tc", &["qdisc", "add", "dev", "lo", "ingress"]);
    host.run(
        "tc",
        &[
            "filter", "add", "dev", "lo", "parent", "ffff:", "protocol", "all", "u32", "match", "u32", "0",
            "0", "action", "mirred", "egress", "redirect", "dev", "lo",
        ],
    );
    let mut socket = Socket::route().unwrap();
    let mut known = dump(&mut socket, TcNetlinkMessage::GetQdisc(TcMessage::default()));
    let mut filters = TcMessage::default();
    filters.header.index = 1;
    filters.header.parent = netlink_packet_route::tc::TcHandle { major: 0xffff, minor: 0 };
    known.extend(dump(&mut socket, TcNetlinkMessage::GetFilter(filters)));
    tried("answers of traffic control", &known, read_shaping);
}

#[test]
fn of_nf_tables() {
    let host = Host::enter();
    host.run("nft", &["add table ip t; add map ip t m { type inet_proto . inet_service : ipv4_addr . inet_service; }; add chain ip t c { type nat hook prerouting priority 0; }"]);
    host.run("nft", &["add element ip t m { tcp . 80 comment \"cni/net/c1/eth0\" : 10.1.0.2 . 80 }; add rule ip t c tcp dport 80 counter dnat to 10.1.0.2:80 comment \"x\""]);
    let mut socket = Socket::netfilter().unwrap();
    let ask = |body| NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0), body);
    let attributes = vec![SetElementList::Table("t".to_owned()), SetElementList::Set("m".to_owned())];
    let mut known = dump(&mut socket, ask(NfTablesMessage::GetSetElement(SetElementMessage { attributes })));
    known.extend(dump(&mut socket, ask(NfTablesMessage::GetSet(SetMessage { attributes: vec![] }))));
    known.extend(dump(&mut socket, ask(NfTablesMessage::GetChain(ChainMessage { attributes: vec![] }))));
    known.extend(dump(&mut socket, ask(NfTablesMessage::GetRule(RuleMessage { attributes: vec![] }))));
    let flows = NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0),
        ConntrackMessage::Get(vec![]),
    );
    known.extend(dump(&mut socket, flows));
    tried("answers of nf_tables", &known, read_netfilter);
}
