//! The rtnetlink messages that we speak. The crate's own list of them has all that there are, and code to read each; a
//! plugin that speaks eight would carry the rest around.

use netlink_packet_core::{
    DecodeError, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, Parseable,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;

/// A message about a link, an address or a route.
#[derive(Debug, Clone)]
pub enum RouteNetlinkMessage {
    /// `RTM_NEWLINK`: make or change a link; how the kernel tells of one.
    NewLink(LinkMessage),
    /// `RTM_DELLINK`
    DelLink(LinkMessage),
    /// `RTM_GETLINK`
    GetLink(LinkMessage),
    /// `RTM_SETLINK`: change a bridge port's VLANs.
    SetLink(LinkMessage),
    /// `RTM_NEWADDR`: add an address; how the kernel tells of one.
    NewAddress(AddressMessage),
    /// `RTM_DELADDR`
    DelAddress(AddressMessage),
    /// `RTM_GETADDR`
    GetAddress(AddressMessage),
    /// `RTM_NEWROUTE`: add a route; how the kernel tells of one.
    NewRoute(RouteMessage),
    /// `RTM_GETROUTE`
    GetRoute(RouteMessage),
    /// Another, of which only the type is known.
    Other(u16),
}

impl RouteNetlinkMessage {
    fn body(&self) -> Option<&dyn Emitable> {
        Some(match self {
            Self::NewLink(link) | Self::DelLink(link) | Self::GetLink(link) | Self::SetLink(link) => link,
            Self::NewAddress(address) | Self::DelAddress(address) | Self::GetAddress(address) => address,
            Self::NewRoute(route) | Self::GetRoute(route) => route,
            Self::Other(_) => return None,
        })
    }
}

impl NetlinkSerializable for RouteNetlinkMessage {
    fn message_type(&self) -> u16 {
        match self {
            Self::NewLink(_) => 16,
            Self::DelLink(_) => 17,
            Self::GetLink(_) => 18,
            Self::SetLink(_) => 19,
            Self::NewAddress(_) => 20,
            Self::DelAddress(_) => 21,
            Self::GetAddress(_) => 22,
            Self::NewRoute(_) => 24,
            Self::GetRoute(_) => 26,
            Self::Other(kind) => *kind,
        }
    }

    fn buffer_len(&self) -> usize {
        self.body().map_or(0, Emitable::buffer_len)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Some(body) = self.body() {
            body.emit(buffer);
        }
    }
}

impl NetlinkDeserializable for RouteNetlinkMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(match header.message_type {
            16 => Self::NewLink(LinkMessage::parse(payload)?),
            17 => Self::DelLink(LinkMessage::parse(payload)?),
            20 => Self::NewAddress(AddressMessage::parse(payload)?),
            21 => Self::DelAddress(AddressMessage::parse(payload)?),
            24 => Self::NewRoute(RouteMessage::parse(payload)?),
            other => Self::Other(other),
        })
    }
}
