//! Tables, chains, sets and rules as values, and as the messages that make them.

use super::comment::comment;
use crate::kernel::netlink::Message;
use crate::spec::MacAddr;
use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
    Hook as NftHook, HookNumber, Immediate, InetHookNumber, ListAttribute, Lookup, Meta, MetaKey,
    NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, SetAttribute, SetFlags,
    SetMessage, TableAttribute, TableMessage, Verdict as NftVerdict, VerdictAttribute,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use std::net::IpAddr;

/// An address family of tables. NAT in `inet` tables came with Linux 5.2, so we use one table a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `ip`
    V4,
    /// `ip6`
    V6,
    /// `inet`; only to look at others' tables
    Inet,
    /// `bridge`
    Bridge,
}

impl Family {
    /// Those of IP.
    pub const IP: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// What an Ethernet header says of it (`ETH_P_IP`, `ETH_P_IPV6`).
    const fn ethertype(self) -> u16 {
        if matches!(self, Self::V6) { 0x86dd } else { 0x0800 }
    }

    pub(super) fn header(self) -> NetfilterHeader {
        let family = match self {
            Self::V4 => NetfilterProtoFamily::IPv4,
            Self::V6 => NetfilterProtoFamily::IPv6,
            Self::Inet => NetfilterProtoFamily::Inet,
            Self::Bridge => NetfilterProtoFamily::Bridge,
        };
        NetfilterHeader::new(family, 0, 0)
    }
}

/// A part of a key: of what `nft` type it is, and how many bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `ipv4_addr`
    Ipv4(End),
    /// `ipv6_addr`
    Ipv6(End),
    /// `ether_addr`, the source's
    Mac,
    /// `ifname`, of where the packet came in
    IfName,
    /// `inet_proto`
    Protocol,
    /// `inet_service`, the destination's
    Port,
}

impl Field {
    /// An address of a family.
    #[must_use]
    pub const fn address(family: Family, end: End) -> Self {
        if matches!(family, Family::V6) { Self::Ipv6(end) } else { Self::Ipv4(end) }
    }

    const fn len(self) -> u32 {
        match self {
            Self::Ipv4(_) => 4,
            Self::Ipv6(_) | Self::IfName => 16,
            Self::Mac => 6,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }

    /// `nft`'s number for the type, which tells it how to print keys.
    const fn type_number(self) -> u32 {
        match self {
            Self::Ipv4(_) => 7,
            Self::Ipv6(_) => 8,
            Self::Mac => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::IfName => 41,
        }
    }

    /// Loads what a packet has there into `register`.
    fn load(self, register: Register) -> Expressions {
        let (base, offset) = match self {
            Self::IfName => return load_meta(MetaKey::Iifname, register),
            Self::Protocol => return load_meta(MetaKey::L4Proto, register),
            Self::Ipv4(End::Source) => (NETWORK_HEADER, 12),
            Self::Ipv4(End::Destination) => (NETWORK_HEADER, 16),
            Self::Ipv6(End::Source) => (NETWORK_HEADER, 8),
            Self::Ipv6(End::Destination) => (NETWORK_HEADER, 24),
            Self::Mac => (LINK_HEADER, 6),
            Self::Port => (TRANSPORT_HEADER, 2),
        };
        Expressions::Payload(vec![
            Payload::DestinationRegister(register),
            Payload::Base(base),
            Payload::Offset(offset),
            Payload::Len(self.len()),
        ])
    }
}

fn load_meta(key: MetaKey, register: Register) -> Expressions {
    Expressions::Meta(vec![Meta::DestinationRegister(register), Meta::Key(key)])
}

/// The `at`-th register of four bytes.
fn register(at: u32) -> Register {
    const NFT_REG32_00: u32 = 8;
    Register::from(NFT_REG32_00 + at)
}

/// Which end of a packet's way a field tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// NAT before a packet leaves, at `srcnat`'s priority.
    SourceNat,
    /// NAT of what comes in, right behind `dstnat`'s priority: of two at the same, the one made last would come first.
    DestinationNat,
    /// NAT of what the machine itself sends, right behind `dstnat`'s priority.
    OutputNat,
    /// A filter for what comes in, before connection tracking (`raw`).
    First,
    /// A filter for what comes in by a bridge port, before anything else.
    BridgePrerouting,
    /// A filter for what the machine itself sends by a bridge.
    BridgeOutput,
}

/// A chain of one of our tables.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// Its table.
    pub table: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Where packets enter it; `None` when only verdicts lead there.
    pub hook: Option<Hook>,
}

/// What the keys of a set lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data<'a> {
    /// Nothing: it is a set, not a map.
    None,
    /// A verdict.
    Verdict,
    /// Values of these types, one behind the other.
    Fields(&'a [Field]),
}

/// A set or a map.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// Its table.
    pub table: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What its keys are made of.
    pub key: &'a [Field],
    /// What they lead to.
    pub data: Data<'a>,
}

impl Set<'_> {
    /// Loads the key of a packet into the first registers, one field behind the other.
    fn load_key(&self) -> impl Iterator<Item = Expressions> {
        self.key.iter().enumerate().map(|(i, field)| field.load(register(words(&self.key[..i]))))
    }
}

/// `nft`'s number for the type of these fields; a concatenation packs their numbers, six bits each.
fn packed_type(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |packed, field| packed << 6 | field.type_number())
}

/// How many four-byte words they take, each field filling its last.
fn words(fields: &[Field]) -> u32 {
    fields.iter().map(|field| field.len().div_ceil(4)).sum()
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy)]
pub enum Match<'a> {
    /// The destination lies in this network.
    To(IpNet),
    /// The source lies in this network.
    From(IpNet),
    /// One end does not lie in this network.
    Outside(End, IpNet),
    /// The destination is an address of this machine, or is none.
    Local(bool),
    /// The frame has this source address and holds a packet of this family of IP.
    Frame(MacAddr, Family),
    /// These bits of the packet's mark are set.
    Mark(u32),
    /// The packet came in by this interface, or by any other.
    Interface(&'a str, bool),
    /// The packet's key is in this set.
    In(Set<'a>),
    /// The packet's key is not in this set.
    NotIn(Set<'a>),
}

/// What a rule does with what it matched.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    /// Back to where the chain was entered from.
    Return,
    /// The packet is lost.
    Drop,
    /// The packet passes this hook.
    Accept,
    /// Source NAT to the address of the interface that the packet leaves by.
    Masquerade,
    /// Whatever the map says for the packet's key.
    Look(Set<'a>),
    /// These bits of the packet's mark are set, and the next rule is looked at.
    SetMark(u32),
    /// Destination NAT to the address and port that the map says for the packet's key.
    Dnat(Set<'a>),
    /// On to that chain, for good.
    Goto(Chain<'a>),
}

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule<'a> {
    /// Its chain.
    pub chain: Chain<'a>,
    /// What it looks at; all have to match.
    pub matches: &'a [Match<'a>],
    /// What it does.
    pub verdict: Verdict<'a>,
    /// For people; empty for none.
    pub comment: &'a str,
}

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// `NF_IP_PRI_NAT_SRC`
const SRCNAT: u32 = 100;
/// `NFT_SET_MAP`
const IS_MAP: u32 = 0x8;
/// `NFT_DATA_VERDICT`
const DATA_IS_VERDICT: u32 = 0xffff_ff00;
/// `NFT_LOOKUP_F_INV`
const INVERTED: u32 = 1;
/// `NF_BR_PRI_NAT_DST_BRIDGED`, as a number of netlink
const BRIDGE_FIRST: u32 = (-300i32).cast_unsigned();
/// `NF_BR_PRI_FILTER_OTHER`
const BRIDGE_FILTER_OUT: u32 = 200;
/// `NFT_PAYLOAD_LL_HEADER`
const LINK_HEADER: u32 = 0;
/// `NFT_PAYLOAD_NETWORK_HEADER`
const NETWORK_HEADER: u32 = 1;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`
const TRANSPORT_HEADER: u32 = 2;
/// One behind `NF_IP_PRI_NAT_DST`, as a number of netlink
const BEHIND_DSTNAT: u32 = (-99i32).cast_unsigned();
/// `NF_IP_PRI_RAW`, as a number of netlink
const RAW: u32 = (-300i32).cast_unsigned();
/// `RTN_LOCAL`
const RTN_LOCAL: u32 = 2;

pub(super) const SET: u16 = NLM_F_REQUEST | NLM_F_ACK;

pub(super) fn message(
    family: Family,
    doing: String,
    flags: u16,
    body: NfTablesMessage,
) -> Message<NetfilterMessage> {
    Message { doing, flags, body: NetfilterMessage::new(family.header(), body) }
}

pub(super) fn new_table(family: Family, name: &str) -> Message<NetfilterMessage> {
    let body = TableMessage { attributes: vec![TableAttribute::Name(name.to_owned())] };
    message(
        family,
        format!("make nf_tables table {name}"),
        SET | NLM_F_CREATE,
        NfTablesMessage::NewTable(body),
    )
}

pub(super) fn new_chain(family: Family, chain: &Chain) -> Message<NetfilterMessage> {
    let mut attributes =
        vec![ChainAttribute::Table(chain.table.to_owned()), ChainAttribute::Name(chain.name.to_owned())];
    if let Some(hook) = chain.hook {
        let (kind, number, priority) = match hook {
            Hook::SourceNat => ("nat", InetHookNumber::PostRouting, SRCNAT),
            Hook::DestinationNat => ("nat", InetHookNumber::PreRouting, BEHIND_DSTNAT),
            Hook::OutputNat => ("nat", InetHookNumber::LocalOut, BEHIND_DSTNAT),
            Hook::First => ("filter", InetHookNumber::PreRouting, RAW),
            Hook::BridgePrerouting => ("filter", InetHookNumber::PreRouting, BRIDGE_FIRST),
            Hook::BridgeOutput => ("filter", InetHookNumber::LocalOut, BRIDGE_FILTER_OUT),
        };
        let hook = vec![NftHook::Number(HookNumber::Inet(number)), NftHook::Priority(priority)];
        attributes.extend([
            ChainAttribute::Hook(hook),
            ChainAttribute::Policy(NF_ACCEPT),
            ChainAttribute::Type(kind.to_owned()),
        ]);
    }
    let doing = format!("make nf_tables chain {} {}", chain.table, chain.name);
    message(family, doing, SET | NLM_F_CREATE, NfTablesMessage::NewChain(ChainMessage { attributes }))
}

pub(super) fn new_set(family: Family, set: &Set, id: u32) -> Message<NetfilterMessage> {
    let mut attributes = vec![
        SetAttribute::Table(set.table.to_owned()),
        SetAttribute::Name(set.name.to_owned()),
        SetAttribute::Flags(SetFlags::from_bits_retain(if set.data == Data::None { 0 } else { IS_MAP })),
        SetAttribute::KeyType(packed_type(set.key)),
        SetAttribute::KeyLen(4 * words(set.key)),
        SetAttribute::Id(id),
    ];
    match set.data {
        Data::None => {}
        Data::Verdict => attributes.push(SetAttribute::DataType(DATA_IS_VERDICT)),
        Data::Fields(fields) => attributes
            .extend([SetAttribute::DataType(packed_type(fields)), SetAttribute::DataLen(4 * words(fields))]),
    }
    let doing = format!("make nf_tables set {} {}", set.table, set.name);
    message(family, doing, SET | NLM_F_CREATE, NfTablesMessage::NewSet(SetMessage { attributes }))
}

pub(super) fn delete_set(family: Family, set: &Set) -> Message<NetfilterMessage> {
    let attributes = vec![SetAttribute::Table(set.table.to_owned()), SetAttribute::Name(set.name.to_owned())];
    let doing = format!("delete nf_tables set {} {}", set.table, set.name);
    message(family, doing, SET, NfTablesMessage::DeleteSet(SetMessage { attributes }))
}

/// Deletes every rule of a chain.
pub(super) fn flush(family: Family, chain: &Chain) -> Message<NetfilterMessage> {
    let attributes =
        vec![RuleAttribute::Table(chain.table.to_owned()), RuleAttribute::Chain(chain.name.to_owned())];
    let doing = format!("flush nf_tables chain {} {}", chain.table, chain.name);
    message(family, doing, SET, NfTablesMessage::DeleteRule(RuleMessage { attributes }))
}

pub(super) fn new_rule(family: Family, rule: &Rule) -> Message<NetfilterMessage> {
    let chain = &rule.chain;
    let mut expressions: Vec<Expressions> = rule.matches.iter().flat_map(Match::expressions).collect();
    expressions.extend(rule.verdict.expressions(family));
    let expressions: Vec<ListAttribute<ExpressionAttribute>> =
        expressions.into_iter().map(Into::into).collect();
    let mut attributes = vec![
        RuleAttribute::Table(chain.table.to_owned()),
        RuleAttribute::Chain(chain.name.to_owned()),
        RuleAttribute::Expressions(expressions),
    ];
    attributes.extend((!rule.comment.is_empty()).then(|| RuleAttribute::UserData(comment(rule.comment))));
    let doing = format!("add a rule to nf_tables chain {} {}", chain.table, chain.name);
    let flags = SET | NLM_F_CREATE | NLM_F_APPEND;
    message(family, doing, flags, NfTablesMessage::NewRule(RuleMessage { attributes }))
}

impl Match<'_> {
    fn expressions(&self) -> Vec<Expressions> {
        match self {
            Self::To(net) => in_network(End::Destination, net, Operator::Equal).to_vec(),
            Self::From(net) => in_network(End::Source, net, Operator::Equal).to_vec(),
            Self::Outside(end, net) => in_network(*end, net, Operator::NotEqual).to_vec(),
            Self::Local(wanted) => vec![
                other(
                    "fib",
                    &[(FIB_DREG, u32::from(register(0))), (FIB_RESULT, FIB_ADDRTYPE), (FIB_FLAGS, FIB_DADDR)],
                ),
                compare(equal(*wanted), RTN_LOCAL.to_ne_bytes().to_vec()),
            ],
            Self::Frame(mac, family) => vec![
                Field::Mac.load(register(0)),
                compare(Operator::Equal, mac.0.to_vec()),
                load_meta(MetaKey::EtherTypeProtocol, register(0)),
                compare(Operator::Equal, family.ethertype().to_be_bytes().to_vec()),
            ],
            Self::Mark(bits) => vec![
                load_meta(MetaKey::Mark, register(0)),
                mask(bits.to_ne_bytes().to_vec(), vec![0; 4]),
                compare(Operator::Equal, bits.to_ne_bytes().to_vec()),
            ],
            Self::Interface(name, wanted) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(Field::IfName.len() as usize, 0);
                vec![Field::IfName.load(register(0)), compare(equal(*wanted), bytes)]
            }
            Self::In(set) => look_up(set, vec![]),
            Self::NotIn(set) => look_up(set, vec![Lookup::Flags(INVERTED)]),
        }
    }
}

impl Verdict<'_> {
    fn expressions(&self, family: Family) -> Vec<Expressions> {
        match self {
            Self::Return => vec![immediate(NftVerdict::Return, None)],
            Self::Drop => vec![immediate(NftVerdict::Other(NF_DROP), None)],
            Self::Accept => vec![immediate(NftVerdict::Other(NF_ACCEPT), None)],
            Self::Goto(chain) => vec![immediate(NftVerdict::Goto, Some(chain))],
            Self::Masquerade => vec![other("masq", &[])],
            Self::Look(map) => look_up(map, vec![Lookup::DestinationRegister(Register::Verdict)]),
            Self::SetMark(bits) => vec![
                load_meta(MetaKey::Mark, register(0)),
                mask((!bits).to_ne_bytes().to_vec(), bits.to_ne_bytes().to_vec()),
                Expressions::Meta(vec![Meta::SourceRegister(register(0)), Meta::Key(MetaKey::Mark)]),
            ],
            Self::Dnat(map) => {
                let mut expressions = look_up(map, vec![Lookup::DestinationRegister(register(0))]);
                let address = Field::address(family, End::Destination);
                let number = if family == Family::V6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
                let port = register(words(&[address]));
                expressions.push(other(
                    "nat",
                    &[
                        (NAT_TYPE, NAT_DNAT),
                        (NAT_FAMILY, number),
                        (NAT_REG_ADDR_MIN, u32::from(register(0))),
                        (NAT_REG_PROTO_MIN, u32::from(port)),
                    ],
                ));
                expressions
            }
        }
    }
}

/// `NFTA_FIB_*`, `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`
const FIB_DREG: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
const FIB_ADDRTYPE: u32 = 3;
const FIB_DADDR: u32 = 2;
/// `NFTA_NAT_*`, `NFT_NAT_DNAT`, `NFPROTO_*`
const NAT_TYPE: u16 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_REG_ADDR_MIN: u16 = 3;
const NAT_REG_PROTO_MIN: u16 = 5;
const NAT_DNAT: u32 = 1;
const NFPROTO_IPV4: u32 = 2;
const NFPROTO_IPV6: u32 = 10;

/// An expression that the crate has no type for; all its attributes are numbers.
fn other(name: &str, numbers: &[(u16, u32)]) -> Expressions {
    let attributes =
        numbers.iter().map(|(kind, number)| DefaultNla::new(*kind, number.to_be_bytes().to_vec()));
    Expressions::Other { expression_type: name.to_owned(), attributes: attributes.collect() }
}

const fn equal(wanted: bool) -> Operator {
    if wanted { Operator::Equal } else { Operator::NotEqual }
}

/// What is in the first registers against `value`.
fn compare(how: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(register(0)),
        Cmp::Op(how),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

/// What is in the first registers, with `and` and then `xor`.
fn mask(and: Vec<u8>, xor: Vec<u8>) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(register(0)),
        Bitwise::DestinationRegister(register(0)),
        Bitwise::Length(u32::try_from(and.len()).unwrap_or_default()),
        Bitwise::Mask(DataAttribute::Value(and)),
        Bitwise::Xor(DataAttribute::Value(xor)),
    ])
}

fn immediate(verdict: NftVerdict, chain: Option<&Chain>) -> Expressions {
    let chain = chain.map(|chain| VerdictAttribute::Chain(chain.name.to_owned()));
    let verdict = [VerdictAttribute::Code(verdict)].into_iter().chain(chain).collect();
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(verdict)),
    ])
}

fn look_up(set: &Set, how: Vec<Lookup>) -> Vec<Expressions> {
    let mut attributes = vec![Lookup::Set(set.name.to_owned()), Lookup::SourceRegister(register(0))];
    attributes.extend(how);
    set.load_key().chain([Expressions::Lookup(attributes)]).collect()
}

fn in_network(end: End, net: &IpNet, how: Operator) -> [Expressions; 3] {
    let field = Field::address(Family::of(net.addr()), end);
    let netmask = octets(net.netmask());
    let nothing = vec![0; netmask.len()];
    [field.load(register(0)), mask(netmask, nothing), compare(how, octets(net.network()))]
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
