//! Tables, chains, sets and rules as values, and as the messages that make them.

use super::elements::comment;
use crate::kernel::netlink::Message;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
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
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `ether_addr`
    Mac,
    /// `ifname`
    IfName,
}

impl Field {
    /// That of the addresses of `net`.
    const fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::Ipv4,
            IpNet::V6(_) => Self::Ipv6,
        }
    }

    const fn len(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 | Self::IfName => 16,
            Self::Mac => 6,
        }
    }

    /// `nft`'s number for the type, which tells it how to print keys.
    const fn type_number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Mac => 9,
            Self::IfName => 41,
        }
    }

    /// Loads what a packet has there into `register`.
    fn load(self, from: End, register: Register) -> Expressions {
        let (base, offset) = match (self, from) {
            (Self::IfName, _) => {
                return Expressions::Meta(vec![
                    Meta::DestinationRegister(register),
                    Meta::Key(MetaKey::Iifname),
                ]);
            }
            (Self::Ipv4, End::Source) => (NETWORK_HEADER, 12),
            (Self::Ipv4, End::Destination) => (NETWORK_HEADER, 16),
            (Self::Ipv6, End::Source) => (NETWORK_HEADER, 8),
            (Self::Ipv6, End::Destination) => (NETWORK_HEADER, 24),
            (Self::Mac, End::Source) => (LINK_HEADER, 6),
            (Self::Mac, End::Destination) => (LINK_HEADER, 0),
        };
        Expressions::Payload(vec![
            Payload::DestinationRegister(register),
            Payload::Base(base),
            Payload::Offset(offset),
            Payload::Len(self.len()),
        ])
    }
}

/// Which end of a packet's way a field tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// Where packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// NAT before a packet leaves, at `srcnat`'s priority.
    SourceNat,
    /// A filter for what comes in by a bridge port, before anything else.
    BridgePrerouting,
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

/// A set, or a map to verdicts.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// Its table.
    pub table: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What its keys are made of: sources of packets.
    pub key: &'a [Field],
    /// Whether each key has a verdict.
    pub verdicts: bool,
}

impl Set<'_> {
    /// `nft`'s number for the type of the keys; a concatenation packs its fields' numbers, six bits each.
    fn key_type(&self) -> u32 {
        self.key.iter().fold(0, |packed, field| packed << 6 | field.type_number())
    }

    fn key_len(&self) -> u32 {
        self.key.iter().map(|field| field.len().next_multiple_of(4)).sum()
    }

    /// Loads the key of a packet into the first registers, one field behind the other.
    fn load_key(&self) -> impl Iterator<Item = Expressions> {
        // Registers are of 16 bytes, and but for the last field of a key ours fill theirs.
        self.key
            .iter()
            .zip([Register::Reg1, Register::Reg2])
            .map(|(field, register)| field.load(End::Source, register))
    }
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy)]
pub enum Match<'a> {
    /// The destination lies in this network.
    To(IpNet),
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
    /// Source NAT to the address of the interface that the packet leaves by.
    Masquerade,
    /// Whatever the map says for the packet's key.
    Look(Set<'a>),
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
/// `NFT_PAYLOAD_LL_HEADER`
const LINK_HEADER: u32 = 0;
/// `NFT_PAYLOAD_NETWORK_HEADER`
const NETWORK_HEADER: u32 = 1;

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
            Hook::BridgePrerouting => ("filter", InetHookNumber::PreRouting, BRIDGE_FIRST),
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
        SetAttribute::Flags(SetFlags::from_bits_retain(if set.verdicts { IS_MAP } else { 0 })),
        SetAttribute::KeyType(set.key_type()),
        SetAttribute::KeyLen(set.key_len()),
        SetAttribute::Id(id),
    ];
    attributes.extend(set.verdicts.then_some(SetAttribute::DataType(DATA_IS_VERDICT)));
    let doing = format!("make nf_tables set {} {}", set.table, set.name);
    message(family, doing, SET | NLM_F_CREATE, NfTablesMessage::NewSet(SetMessage { attributes }))
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
    let mut expressions = Vec::new();
    for each in rule.matches {
        match each {
            Match::To(net) => expressions.extend(destination_in(net)),
            Match::In(set) => expressions.extend(look_up(set, vec![])),
            Match::NotIn(set) => expressions.extend(look_up(set, vec![Lookup::Flags(INVERTED)])),
        }
    }
    match &rule.verdict {
        Verdict::Return => expressions.push(immediate(NftVerdict::Return)),
        Verdict::Drop => expressions.push(immediate(NftVerdict::Other(NF_DROP))),
        Verdict::Masquerade => {
            expressions.push(Expressions::Other { expression_type: "masq".to_owned(), attributes: vec![] });
        }
        Verdict::Look(map) => {
            expressions.extend(look_up(map, vec![Lookup::DestinationRegister(Register::Verdict)]));
        }
    }
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

fn immediate(verdict: NftVerdict) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(verdict)])),
    ])
}

fn look_up(set: &Set, how: Vec<Lookup>) -> Vec<Expressions> {
    let mut attributes = vec![Lookup::Set(set.name.to_owned()), Lookup::SourceRegister(Register::Reg1)];
    attributes.extend(how);
    set.load_key().chain([Expressions::Lookup(attributes)]).collect()
}

fn destination_in(net: &IpNet) -> [Expressions; 3] {
    let field = Field::of(net);
    [
        field.load(End::Destination, Register::Reg1),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(field.len()),
            Bitwise::Mask(DataAttribute::Value(octets(net.netmask()))),
            Bitwise::Xor(DataAttribute::Value(vec![0; field.len() as usize])),
        ]),
        Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(octets(net.network()))),
        ]),
    ]
}

pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
