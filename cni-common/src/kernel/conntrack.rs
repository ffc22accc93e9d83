//! Connection tracking: flows that the kernel remembers, and forgetting them. The twin of `conntrack -D`.
//!
//! The kernel keeps to what it decided for a flow's first packet. A UDP client that never stops sending would be led to where
//! a port once led for ever.

use super::netlink::{Message, Socket};
use super::refusal::{Refusal, absent_ok};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
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

/// All flows of UDP, of one family.
///
/// # Errors
/// The kernel's refusal.
pub fn udp_flows(socket: &mut Socket, v4: bool) -> Result<Vec<Flow>, Refusal> {
    let body = NetfilterMessage::new(header(v4), ConntrackMessage::Get(vec![]));
    let found = socket.dump("list tracked connections", &body)?;
    Ok(found.into_iter().filter_map(read).collect())
}

/// Forgets a flow; one that has ended is no error.
///
/// # Errors
/// Any other refusal.
pub fn forget(socket: &mut Socket, flow: &Flow) -> Result<(), Refusal> {
    let tuple = vec![ConntrackAttribute::CtaTupleOrig(flow.original.clone())];
    let body = NetfilterMessage::new(header(flow.to.0.is_ipv4()), ConntrackMessage::Delete(tuple));
    let doing = format!("forget the flow to {} port {}", flow.to.0, flow.to.1);
    absent_ok(socket.ack(Message { doing, flags: NLM_F_REQUEST | NLM_F_ACK, body }))
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
