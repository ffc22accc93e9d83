//! How the kernel tells of elements: read here and not by the crate, which writes the whole list down in words for each
//! of its elements, should that be wrong, so that a list of 5,000 took two seconds.

use super::comment::read_comment;
use super::elements::{Element, Key};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::socket::parse;
    use netlink_packet_core::NetlinkPayload;

    /// An attribute, filled up to a multiple of four bytes.
    fn attribute(kind: u8, value: &[u8]) -> Vec<u8> {
        let len = u8::try_from(4 + value.len()).unwrap();
        let mut bytes = [&[len, 0, kind, 0], value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `NFT_MSG_NEWSETELEM` with these elements.
    fn list(elements: &[u8]) -> Vec<u8> {
        let attributes = [attribute(1, b"t\0"), attribute(3, elements)].concat();
        let len = u8::try_from(20 + attributes.len()).unwrap();
        let head = [len, 0, 0, 0, 12, 10, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
        [&head[..], &attributes].concat()
    }

    fn found(bytes: &[u8]) -> Vec<Element> {
        match parse::<ElementList>(bytes).unwrap().remove(0).payload {
            NetlinkPayload::InnerMessage(ElementList::Found(elements)) => elements,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_chains_values_and_comments_are_read() {
        let key = |n: u8| attribute(1, &attribute(1, &[10, 0, 0, n]));
        let verdict =
            attribute(2, &attribute(2, &[attribute(1, &[0; 4]), attribute(2, b"pod-1\0")].concat()));
        let comment = attribute(6, &[0, 2, b'x', 0]);
        let first = attribute(1, &[key(1), verdict, comment].concat());
        let second = attribute(1, &[key(2), attribute(2, &attribute(1, &[9; 8]))].concat());
        // One without a key is none.
        let third = attribute(1, &attribute(6, &[0, 1, 0]));
        let elements = found(&list(&[first, second, third].concat()));
        let element = |n, tag: &str, chain: &str, data| Element {
            key: Key(vec![10, 0, 0, n]),
            tag: tag.to_owned(),
            chain: chain.to_owned(),
            data,
        };
        assert_eq!(elements, [element(1, "x", "pod-1", None), element(2, "", "", Some(Key(vec![9; 8])))]);
    }

    #[test]
    fn lengths_that_contradict_each_other_are_an_error() {
        let mut element = attribute(1, &attribute(1, &attribute(1, &[0; 8])));
        // The key says to have 140 bytes, of 12.
        element[8] = 140;
        assert!(parse::<ElementList>(&list(&element)).is_err());
    }
}
