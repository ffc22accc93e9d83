//! rtnetlink without an async runtime: messages are values, a [`Socket`] sends them and reads the answers.
//! One file an object, as `ip` has one word an object.

pub mod addr;
pub mod close;
pub mod event;
pub mod link;
pub mod message;
pub mod route;
pub mod socket;
pub mod tc;
pub mod vlan;

pub use link::Link;
pub use message::RouteNetlinkMessage;
pub use socket::{Message, Socket, all_ok};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};

/// Flags of a request that changes something that exists.
const SET: u16 = NLM_F_REQUEST | NLM_F_ACK;
/// Flags of a request that makes something which must not exist yet.
const CREATE: u16 = SET | NLM_F_CREATE | NLM_F_EXCL;
