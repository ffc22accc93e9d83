//! Connection tracking: flows that the kernel remembers, and forgetting them. The twin of `conntrack -D`.
//!
//! The kernel keeps to what it decided for a flow's first packet. A UDP client that never stops sending would be led to where
//! a port once led for ever.

use super::netlink::{Message, Socket};
use super::refusal::{Refusal, absent_ok};
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, Nla};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
};
use std::net::IpAddr;

/// A flow of UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where its first packet was sent to.
    pub to: (IpAddr, u16),
    /// Who answers it: somebody else than `to` when destination NAT was done.
    pub answered_by: IpAddr,
    original: Vec<Tuple>,
}

/// Which flows of UDP the kernel is to tell of. One before Linux 5.8 tells of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Whose first packet was sent to this port.
    To(u16),
    /// That this address answers.
    AnsweredBy(IpAddr),
    /// All.
    All,
}

impl Which {
    /// The question: what a flow has to be like, and which parts of that count (`CTA_FILTER`).
    fn question(self, v4: bool) -> NetfilterMessage {
        const IPCTNL_MSG_CT_GET: u8 = 1;
        const TUPLE_ORIG: u16 = 1;
        const TUPLE_REPLY: u16 = 2;
        const FILTER: u16 = 25;
        const FILTER_ORIG_FLAGS: u16 = 1;
        const FILTER_REPLY_FLAGS: u16 = 2;
        const SOURCE_ADDRESS: u32 = 1;
        const PROTOCOL: u32 = 1 << 3;
        const DESTINATION_PORT: u32 = 1 << 5;
        let udp = ProtoTuple::Protocol(Protocol::Udp);
        let attributes = match self {
            Self::To(port) => {
                let proto = Tuple::Proto(vec![udp, ProtoTuple::DestinationPort(port)]);
                let flags =
                    DefaultNla::new(FILTER_ORIG_FLAGS, (PROTOCOL | DESTINATION_PORT).to_ne_bytes().into());
                vec![nested(TUPLE_ORIG, &[proto]), nested(FILTER, &[flags])]
            }
            Self::AnsweredBy(ip) => {
                let ip = Tuple::Ip(vec![IPTuple::SourceAddress(ip)]);
                let flags =
                    DefaultNla::new(FILTER_REPLY_FLAGS, (SOURCE_ADDRESS | PROTOCOL).to_ne_bytes().into());
                vec![nested(TUPLE_REPLY, &[ip, Tuple::Proto(vec![udp])]), nested(FILTER, &[flags])]
            }
            Self::All => vec![],
        };
        // The crate's own message marks no filter as nested, without which the kernel takes none.
        let (subsys, message_type) = (NetfilterSubsystem::Conntrack, IPCTNL_MSG_CT_GET);
        NetfilterMessage::new(header(v4), NetfilterMessageInner::Other { subsys, message_type, attributes })
    }
}

/// An attribute that holds others.
fn nested<A: Nla>(kind: u16, parts: &[A]) -> DefaultNla {
    let mut bytes = vec![0; parts.buffer_len()];
    parts.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// Forgets the flows of UDP that `is_stale` says yes to. Those of one family are asked for, some hundred of
/// them are forgotten at once, and none is kept.
///
/// # Errors
/// The kernel's refusal, but for a flow that has ended by itself.
pub fn forget_udp(v4: bool, which: Which, is_stale: impl Fn(&Flow) -> bool) -> Result<(), Refusal> {
    const TOGETHER: usize = 256;
    let (mut asking, mut telling) = (Socket::netfilter()?, Socket::netfilter()?);
    let (mut stale, mut result) = (Vec::new(), Ok(()));
    let mut forget = |stale: &mut Vec<Flow>| {
        let deletions = stale.drain(..).map(|flow| deletion(&flow)).collect();
        let answers = telling.batch(deletions);
        let refused = answers.and_then(|answers| answers.into_iter().try_for_each(absent_ok));
        result = std::mem::replace(&mut result, Ok(())).and(refused);
    };
    asking.dump_each("list tracked connections", which.question(v4), &mut |message| {
        stale.extend(read(message).filter(&is_stale));
        if stale.len() == TOGETHER {
            forget(&mut stale);
        }
    })?;
    forget(&mut stale);
    result
}

fn deletion(flow: &Flow) -> Message<NetfilterMessage> {
    let tuple = vec![ConntrackAttribute::CtaTupleOrig(flow.original.clone())];
    let body = NetfilterMessage::new(header(flow.to.0.is_ipv4()), ConntrackMessage::Delete(tuple));
    let doing = format!("forget the flow to {} port {}", flow.to.0, flow.to.1);
    Message { doing, flags: NLM_F_REQUEST | NLM_F_ACK, body }
}

fn header(v4: bool) -> NetfilterHeader {
    let family = if v4 { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    NetfilterHeader::new(family, 0, 0)
}

pub(super) fn read(message: NetfilterMessage) -> Option<Flow> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner else {
        return None;
    };
    let (mut original, mut reply) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = Some(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = Some(tuple),
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    let is_udp = protos(&original).any(|part| *part == ProtoTuple::Protocol(Protocol::Udp));
    let to = ips(&original).find_map(|part| match part {
        IPTuple::DestinationAddress(ip) => Some(*ip),
        _ => None,
    })?;
    let port = protos(&original).find_map(|part| match part {
        ProtoTuple::DestinationPort(port) => Some(*port),
        _ => None,
    })?;
    let answered_by = ips(&reply).find_map(|part| match part {
        IPTuple::SourceAddress(ip) => Some(*ip),
        _ => None,
    })?;
    is_udp.then_some(Flow { to: (to, port), answered_by, original })
}

fn ips(tuple: &[Tuple]) -> impl Iterator<Item = &IPTuple> {
    tuple.iter().filter_map(|part| if let Tuple::Ip(parts) = part { Some(parts) } else { None }).flatten()
}

fn protos(tuple: &[Tuple]) -> impl Iterator<Item = &ProtoTuple> {
    tuple.iter().filter_map(|part| if let Tuple::Proto(parts) = part { Some(parts) } else { None }).flatten()
}
