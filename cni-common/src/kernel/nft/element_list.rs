//! How the kernel tells of elements: read here and not by the crate, which writes the whole list down in words for each
//! of its elements, should that be wrong, so that a list of 5,000 took two seconds.

use super::elements::{Element, Key, read_comment};
use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_packet_netfilter::NetfilterMessage;
use nix::libc::{NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWSETELEM};

// linux/netfilter/nf_tables.h
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CHAIN: u16 = 2;
/// The length of `struct nfgenmsg`, which comes before the attributes.
const HEADER: usize = 4;

/// A question about elements, or an answer with some.
#[derive(Debug, Clone)]
pub(in crate::kernel) enum ElementList {
    /// The question.
    Ask(NetfilterMessage),
    /// The elements of one message.
    Found(Vec<Element>),
}

impl NetlinkSerializable for ElementList {
    fn message_type(&self) -> u16 {
        match self {
            Self::Ask(message) => message.message_type(),
            Self::Found(_) => 0,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Ask(message) => message.buffer_len(),
            Self::Found(_) => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Self::Ask(message) = self {
            message.serialize(buffer);
        }
    }
}

impl NetlinkDeserializable for ElementList {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut found = Vec::new();
        if i32::from(header.message_type) == NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM {
            each(payload.get(HEADER..).unwrap_or_default(), |attribute| {
                if attribute.kind() != NFTA_SET_ELEM_LIST_ELEMENTS {
                    return Ok(());
                }
                each(attribute.value(), |element| {
                    found.extend(read(element.value())?);
                    Ok(())
                })
            })?;
        }
        Ok(Self::Found(found))
    }
}

/// Calls `work` with each of the attributes in `bytes`.
fn each(
    bytes: &[u8],
    mut work: impl FnMut(&NlaBuffer<&[u8]>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    NlasIterator::new(bytes).try_for_each(|attribute| work(&attribute?))
}

/// An element; `None` without a key.
fn read(bytes: &[u8]) -> Result<Option<Element>, DecodeError> {
    let (mut key, mut data) = (None, None);
    let (mut chain, mut tag) = (None, None);
    each(bytes, |attribute| {
        match attribute.kind() {
            NFTA_SET_ELEM_KEY => (key, _) = read_data(attribute.value())?,
            NFTA_SET_ELEM_DATA => (data, chain) = read_data(attribute.value())?,
            NFTA_SET_ELEM_USERDATA => tag = read_comment(attribute.value()),
            _ => {}
        }
        Ok(())
    })?;
    let (tag, chain) = (tag.unwrap_or_default(), chain.unwrap_or_default());
    Ok(key.map(|key| Element { key, tag, chain, data }))
}

/// A value, or the chain of a verdict.
fn read_data(bytes: &[u8]) -> Result<(Option<Key>, Option<String>), DecodeError> {
    let (mut value, mut chain) = (None, None);
    each(bytes, |attribute| {
        match attribute.kind() {
            NFTA_DATA_VALUE => value = Some(Key(attribute.value().to_vec())),
            NFTA_DATA_VERDICT => each(attribute.value(), |part| {
                if part.kind() == NFTA_VERDICT_CHAIN {
                    let name = String::from_utf8_lossy(part.value());
                    chain = Some(name.trim_end_matches('\0').to_owned());
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((value, chain))
}
