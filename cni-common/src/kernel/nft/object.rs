//! Tables, chains, maps and rules as values, and as the messages that make them.

use super::elements::comment;
use crate::kernel::netlink::Message;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook,
    HookNumber, Immediate, InetHookNumber, ListAttribute, Lookup, NfTablesMessage, Operator, Payload,
    Register, RuleAttribute, RuleMessage, SetAttribute, SetFlags, SetMessage, TableAttribute, TableMessage,
    Verdict as NftVerdict, VerdictAttribute,
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
}

impl Family {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

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
        };
        NetfilterHeader::new(family, 0, 0)
    }

    /// Where the source and the destination address lie in the network header, in bytes.
    const fn offsets(self) -> (u32, u32) {
        match self {
            Self::V4 => (12, 16),
            Self::V6 => (8, 24),
        }
    }

    const fn address_len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// `nft`'s number for the type of an address, which tells it how to print a map's keys.
    const fn type_number(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
        }
    }
}

/// Where a NAT chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatHook {
    /// Before a packet leaves, at `srcnat`'s priority.
    Postrouting,
}

/// A chain of one of our tables.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    /// Its table.
    pub table: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Where packets enter it; `None` when only verdicts lead there.
    pub hook: Option<NatHook>,
}

/// A map from addresses to verdicts.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    /// Its table.
    pub table: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Every packet.
    Any,
    /// The destination lies in this network.
    To(IpNet),
}

/// What a rule does with what it matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Back to where the chain was entered from.
    Return,
    /// Source NAT to the address of the interface that the packet leaves by.
    Masquerade,
    /// Whatever the map says for the source address.
    MapSource(&'a str),
}

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule<'a> {
    /// Its chain.
    pub chain: Chain<'a>,
    /// What it looks at.
    pub matches: Match,
    /// What it does.
    pub verdict: Verdict<'a>,
    /// For people; empty for none.
    pub comment: &'a str,
}

const NF_ACCEPT: u32 = 1;
/// `NF_IP_PRI_NAT_SRC`
const SRCNAT: u32 = 100;
/// `NFT_SET_MAP`
const IS_MAP: u32 = 0x8;
/// `NFT_DATA_VERDICT`
const DATA_IS_VERDICT: u32 = 0xffff_ff00;
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
    if let Some(NatHook::Postrouting) = chain.hook {
        let hook = vec![Hook::Number(HookNumber::Inet(InetHookNumber::PostRouting)), Hook::Priority(SRCNAT)];
        attributes.extend([
            ChainAttribute::Hook(hook),
            ChainAttribute::Policy(NF_ACCEPT),
            ChainAttribute::Type("nat".to_owned()),
        ]);
    }
    let doing = format!("make nf_tables chain {} {}", chain.table, chain.name);
    message(family, doing, SET | NLM_F_CREATE, NfTablesMessage::NewChain(ChainMessage { attributes }))
}

pub(super) fn new_map(family: Family, map: &Map, id: u32) -> Message<NetfilterMessage> {
    let attributes = vec![
        SetAttribute::Table(map.table.to_owned()),
        SetAttribute::Name(map.name.to_owned()),
        SetAttribute::Flags(SetFlags::from_bits_retain(IS_MAP)),
        SetAttribute::KeyType(family.type_number()),
        SetAttribute::KeyLen(family.address_len()),
        SetAttribute::DataType(DATA_IS_VERDICT),
        SetAttribute::Id(id),
    ];
    let doing = format!("make nf_tables map {} {}", map.table, map.name);
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
    if let Match::To(net) = rule.matches {
        expressions.extend(destination_in(family, &net));
    }
    expressions.extend(match &rule.verdict {
        Verdict::Return => vec![immediate(NftVerdict::Return)],
        Verdict::Masquerade => {
            vec![Expressions::Other { expression_type: "masq".to_owned(), attributes: vec![] }]
        }
        Verdict::MapSource(map) => vec![
            load_address(family, family.offsets().0),
            Expressions::Lookup(vec![
                Lookup::Set((*map).to_owned()),
                Lookup::SourceRegister(Register::Reg1),
                Lookup::DestinationRegister(Register::Verdict),
            ]),
        ],
    });
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

fn load_address(family: Family, offset: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(NETWORK_HEADER),
        Payload::Offset(offset),
        Payload::Len(family.address_len()),
    ])
}

fn destination_in(family: Family, net: &IpNet) -> [Expressions; 3] {
    let len = family.address_len();
    [
        load_address(family, family.offsets().1),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(len),
            Bitwise::Mask(DataAttribute::Value(octets(net.netmask()))),
            Bitwise::Xor(DataAttribute::Value(vec![0; len as usize])),
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
