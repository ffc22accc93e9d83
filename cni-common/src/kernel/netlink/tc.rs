//! Traffic control: queueing disciplines and filters of a link. The twin of `tc`.
//!
//! Its messages are a type of their own ([`TcNetlinkMessage`]), so that only a plugin that shapes carries the code that
//! reads them.

use super::socket::{Message, Socket};
use super::{CREATE, SET};
use crate::kernel::refusal::Refusal;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_ACK, NLM_F_ECHO, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkSerializable, Nla, NlasIterator, Parseable,
};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror, TcMirrorActionType,
    TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use nix::errno::Errno;

/// `TCA_TBF_PARMS`: a `tc_tbf_qopt`, of 36 bytes.
const TCA_TBF_PARMS: u16 = 1;
/// `TCA_TBF_RATE64`: the rate, where it does not fit into the other's 32 bits.
const TCA_TBF_RATE64: u16 = 4;
/// Where the fields of a `tc_tbf_qopt` are: two `tc_ratespec`, whose last field is the rate, then three numbers.
const QOPT: usize = 36;
const QOPT_RATE: usize = 8;
const QOPT_LIMIT: usize = 24;
const QOPT_BUFFER: usize = 28;
/// The first filter to look at a packet.
const PRIORITY: u32 = 1;
/// `ETH_P_ALL`: packets of any protocol.
const ALL_PROTOCOLS: u16 = 3;

/// The handle of the root qdiscs that we make: `1:`.
const ROOT_HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };
/// The handle that a link's ingress hook always has: `ffff:`.
const INGRESS_HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// The class of a `clsact` that has the filters of what comes in.
const CLSACT_INGRESS: TcHandle = TcHandle { major: 0xffff, minor: TcHandle::MIN_INGRESS };

/// A message about a qdisc or a filter.
#[derive(Debug, Clone)]
pub enum TcNetlinkMessage {
    /// `RTM_NEWQDISC`: make or change one; how the kernel tells of one.
    NewQdisc(TcMessage),
    /// `RTM_DELQDISC`
    DelQdisc(TcMessage),
    /// `RTM_GETQDISC`
    GetQdisc(TcMessage),
    /// `RTM_NEWTFILTER`: make one; how the kernel tells of one.
    NewFilter(TcMessage),
    /// `RTM_DELTFILTER`
    DelFilter(TcMessage),
    /// `RTM_GETTFILTER`
    GetFilter(TcMessage),
    /// Another, of which only the type is known.
    Other(u16),
}

impl TcNetlinkMessage {
    fn body(&self) -> Option<&TcMessage> {
        match self {
            Self::NewQdisc(body)
            | Self::DelQdisc(body)
            | Self::GetQdisc(body)
            | Self::NewFilter(body)
            | Self::DelFilter(body)
            | Self::GetFilter(body) => Some(body),
            Self::Other(_) => None,
        }
    }
}

impl NetlinkSerializable for TcNetlinkMessage {
    fn message_type(&self) -> u16 {
        match self {
            Self::NewQdisc(_) => 36,
            Self::DelQdisc(_) => 37,
            Self::GetQdisc(_) => 38,
            Self::NewFilter(_) => 44,
            Self::DelFilter(_) => 45,
            Self::GetFilter(_) => 46,
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

impl NetlinkDeserializable for TcNetlinkMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(match header.message_type {
            36 => Self::NewQdisc(TcMessage::parse(payload)?),
            44 => Self::NewFilter(TcMessage::parse(payload)?),
            other => Self::Other(other),
        })
    }
}

/// A token bucket (tc-tbf(8)) as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tbf {
    /// The rate, in bytes a second.
    pub rate: u64,
    /// How much waits for its turn before packets are dropped, in bytes.
    pub limit: u32,
    /// The burst as the time that it takes at this rate, in ticks of 64 ns.
    pub buffer: u32,
}

impl Tbf {
    fn options(&self) -> TcAttribute {
        let mut qopt = [0; QOPT];
        let mut put = |at: usize, number: u32| qopt[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        put(QOPT_RATE, u32::try_from(self.rate).unwrap_or(u32::MAX));
        put(QOPT_LIMIT, self.limit);
        put(QOPT_BUFFER, self.buffer);
        let mut options = vec![other(TCA_TBF_PARMS, qopt.to_vec())];
        if u32::try_from(self.rate).is_err() {
            options.push(other(TCA_TBF_RATE64, self.rate.to_ne_bytes().to_vec()));
        }
        TcAttribute::Options(options)
    }

    /// Reads the inside of a tbf's `TCA_OPTIONS`.
    fn parse(options: &[u8]) -> Option<Self> {
        let mut tbf = None;
        let mut rate64 = None;
        for option in NlasIterator::new(options).flatten() {
            let bytes = option.value();
            match option.kind() {
                TCA_TBF_PARMS => {
                    let number = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
                    let [rate, limit, buffer] = [QOPT_RATE, QOPT_LIMIT, QOPT_BUFFER].map(number);
                    tbf = Some(Self { rate: rate?.into(), limit: limit?, buffer: buffer? });
                }
                TCA_TBF_RATE64 => rate64 = bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)),
                _ => {}
            }
        }
        tbf.map(|tbf: Self| Self { rate: rate64.unwrap_or(tbf.rate), ..tbf })
    }
}

fn other(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

/// Where a link has qdiscs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What the link sends.
    Root,
    /// What it receives.
    Ingress,
}

impl Hook {
    const fn parent(self) -> TcHandle {
        match self {
            Self::Root => TcHandle::ROOT,
            Self::Ingress => TcHandle::INGRESS,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Ingress => "ingress",
        }
    }
}

/// A qdisc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// `tbf`, `ingress`, `clsact`, …
    pub kind: String,
    /// What a token bucket is like, if it is one.
    pub tbf: Option<Tbf>,
    handle: TcHandle,
}

impl Qdisc {
    pub(in crate::kernel) fn from_message(message: TcMessage) -> Self {
        let mut qdisc = Self { kind: String::new(), tbf: None, handle: message.header.handle };
        for attribute in message.attributes {
            match attribute {
                TcAttribute::Kind(kind) => qdisc.kind = kind,
                TcAttribute::Options(options) if qdisc.kind == "tbf" => {
                    // What the crate does not know it hands over as one attribute, the whole of `TCA_OPTIONS`.
                    let mut bytes = vec![0; options.first().map_or(0, Nla::value_len)];
                    if let Some(option) = options.first() {
                        option.emit_value(&mut bytes);
                    }
                    qdisc.tbf = Tbf::parse(&bytes);
                }
                _ => {}
            }
        }
        qdisc
    }
}

/// What a link has at that hook, unless it is the kernel's default. A link that is gone has nothing.
///
/// # Errors
/// Any refusal but "no such qdisc" and "no such device".
pub fn qdisc(socket: &mut Socket, index: u32, hook: Hook) -> Result<Option<Qdisc>, Refusal> {
    let body = message(index, TcHandle::UNSPEC, hook.parent(), vec![]);
    // Kernels before 6.5 send the answer only to whom wants an echo, and none but the acknowledgement for a default.
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_ECHO;
    let doing = format!("look up the {} qdisc of link {index}", hook.word());
    match socket.get(Message { doing, flags, body: TcNetlinkMessage::GetQdisc(body) }) {
        Ok(TcNetlinkMessage::NewQdisc(found)) => {
            Ok(Some(Qdisc::from_message(found)).filter(|qdisc| qdisc.handle != TcHandle::UNSPEC))
        }
        Ok(_) => Ok(None),
        Err(refusal) if matches!(refusal.errno, Errno::ENOENT | Errno::ENODEV) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// Makes `tbf` the root qdisc of a link that has none: `EEXIST` when it has.
#[must_use]
pub fn create_tbf(index: u32, tbf: &Tbf) -> Message<TcNetlinkMessage> {
    put_tbf(index, ROOT_HANDLE, tbf, CREATE)
}

/// Changes the numbers of the token bucket `old`, the root qdisc of a link. What waits in it stays.
#[must_use]
pub fn change_tbf(index: u32, old: &Qdisc, tbf: &Tbf) -> Message<TcNetlinkMessage> {
    put_tbf(index, old.handle, tbf, SET)
}

fn put_tbf(index: u32, handle: TcHandle, tbf: &Tbf, flags: u16) -> Message<TcNetlinkMessage> {
    let attributes = vec![TcAttribute::Kind("tbf".to_owned()), tbf.options()];
    let body = TcNetlinkMessage::NewQdisc(message(index, handle, TcHandle::ROOT, attributes));
    Message { doing: format!("limit what link {index} sends to {} bytes a second", tbf.rate), flags, body }
}

/// Gives a link a place for filters of what it receives: `EEXIST` when it has one.
#[must_use]
pub fn create_ingress(index: u32) -> Message<TcNetlinkMessage> {
    let attributes = vec![TcAttribute::Kind("ingress".to_owned())];
    let body = TcNetlinkMessage::NewQdisc(message(index, INGRESS_HANDLE, TcHandle::INGRESS, attributes));
    Message { doing: format!("make the ingress qdisc of link {index}"), flags: CREATE, body }
}

/// Deletes what a link has at that hook.
#[must_use]
pub fn delete_qdisc(index: u32, hook: Hook) -> Message<TcNetlinkMessage> {
    let body = TcNetlinkMessage::DelQdisc(message(index, TcHandle::UNSPEC, hook.parent(), vec![]));
    Message { doing: format!("delete the {} qdisc of link {index}", hook.word()), flags: SET, body }
}

/// A filter of what a link receives, or a part of one, such as a table that it looks into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Where it sends all packets out, if that is what it does: another link's index; 0 when that is gone, and the
    /// packets with it.
    pub redirects_to: Option<u32>,
    header: TcHeader,
}

/// The place of the filters of what comes in, below an `ingress` or a `clsact`.
fn filters_of(ingress: &Qdisc) -> TcHandle {
    if ingress.kind == "clsact" { CLSACT_INGRESS } else { INGRESS_HANDLE }
}

/// Sends all that a link receives out by link `to`. `ingress` is what is at its ingress hook, `None` when that has just
/// been made.
#[must_use]
pub fn redirect(index: u32, ingress: Option<&Qdisc>, to: u32) -> Message<TcNetlinkMessage> {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    // A key whose mask is empty: every packet.
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut mirred = TcMirror::default();
    mirred.generic.action = TcActionType::Stolen;
    mirred.eaction = TcMirrorActionType::EgressRedir;
    mirred.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirred))]),
    ];
    let options = [
        TcFilterU32Option::ClassId(TcHandle { major: 1, minor: 1 }),
        TcFilterU32Option::Selector(selector),
        TcFilterU32Option::Action(vec![action]),
    ];
    let attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(options.map(TcOption::U32).into()),
    ];
    let parent = ingress.map_or(INGRESS_HANDLE, filters_of);
    let mut body = message(index, TcHandle::UNSPEC, parent, attributes);
    body.header.info = PRIORITY << 16 | u32::from(ALL_PROTOCOLS.to_be());
    let doing = format!("redirect what link {index} receives to link {to}");
    Message { doing, flags: CREATE, body: TcNetlinkMessage::NewFilter(body) }
}

/// The filters of what a link receives, in the order in which packets meet them.
///
/// # Errors
/// The kernel's refusal.
pub fn filters(socket: &mut Socket, index: u32, ingress: &Qdisc) -> Result<Vec<Filter>, Refusal> {
    let body = message(index, TcHandle::UNSPEC, filters_of(ingress), vec![]);
    let doing = format!("list the ingress filters of link {index}");
    let found = socket.dump(&doing, &TcNetlinkMessage::GetFilter(body))?;
    let filter = |found: TcNetlinkMessage| match found {
        TcNetlinkMessage::NewFilter(filter) => Some(Filter::from_message(filter)),
        _ => None,
    };
    Ok(found.into_iter().filter_map(filter).collect())
}

impl Filter {
    pub(in crate::kernel) fn from_message(filter: TcMessage) -> Self {
        let (header, attributes) = filter.into_parts();
        let mut takes_all = false;
        let mut to = None;
        for attribute in attributes {
            let TcAttribute::Options(options) = attribute else { continue };
            for option in options {
                match option {
                    TcOption::U32(TcFilterU32Option::Selector(selector)) => {
                        takes_all = selector.keys.iter().all(|key| key.mask == 0);
                    }
                    // Of several actions only the first sees the packets, if it is a redirect: it keeps them.
                    TcOption::U32(TcFilterU32Option::Action(actions)) => {
                        to = actions.first().and_then(redirected_to);
                    }
                    _ => {}
                }
            }
        }
        Self { redirects_to: to.filter(|_| takes_all), header }
    }
}

/// Where an action sends packets out, if it does that.
fn redirected_to(action: &TcAction) -> Option<u32> {
    let options = action.attributes.iter().filter_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcActionOption::Mirror(TcActionMirrorOption::Parms(mirred))
            if mirred.eaction == TcMirrorActionType::EgressRedir =>
        {
            Some(mirred.ifindex)
        }
        _ => None,
    })
}

/// Deletes a redirect.
#[must_use]
pub fn delete_filter(filter: &Filter) -> Message<TcNetlinkMessage> {
    let attributes = vec![TcAttribute::Kind(TcFilterU32::KIND.to_owned())];
    let body = TcMessage::from_parts(filter.header.clone(), attributes);
    let doing = format!("delete the filter that redirects what link {} receives", filter.header.index);
    Message { doing, flags: SET, body: TcNetlinkMessage::DelFilter(body) }
}

fn message(index: u32, handle: TcHandle, parent: TcHandle, attributes: Vec<TcAttribute>) -> TcMessage {
    // The kernel's indices are positive numbers of this type.
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.handle = handle;
    message.header.parent = parent;
    message.attributes = attributes;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_bucket_comes_back_as_it_was_sent() {
        for rate in [1, 131_072, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX / 8] {
            let tbf = Tbf { rate, limit: 5, buffer: u32::MAX };
            let TcAttribute::Options(options) = tbf.options() else { panic!("no options") };
            let mut bytes = vec![0; options.as_slice().buffer_len()];
            options.as_slice().emit(&mut bytes);
            assert_eq!(Tbf::parse(&bytes), Some(tbf));
            assert_eq!(Tbf::parse(&bytes[..20]), None, "cut off");
        }
    }
}
