//! A blocking netlink socket: send, and read until everything that was sent is answered.

use super::close;
use crate::kernel::refusal::Refusal;
use crate::stop::Wait;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlaBuffer, NlasIterator,
};
use netlink_sys::SocketAddr;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::sockopt;
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

/// Room for most datagrams: the kernel fits those of a dump into the buffer that it was last read with, unless a single
/// object is larger.
const BUFFER: usize = 16 * 1024;
/// How long a dump that the kernel says was torn is asked for again: on a node where pods come and go all the time, most are.
const DUMP_PATIENCE: Duration = Duration::from_secs(20);
/// How long an answer of the kernel's may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// `NLM_F_DUMP_INTR`: what a dump shows changed while it was made.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `NLM_F_CAPPED`: an error message repeats only the header of what it answers.
const NLM_F_CAPPED: u16 = 0x100;
/// `NLM_F_ACK_TLVS`: the kernel put its words for people behind the error number.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`: those words.
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The length of a message's header, which begins with the message's length.
const HEADER: usize = 16;
/// What the kernel takes of a socket's buffers for a small answer, in bytes: what it allocates, not what it says.
const ANSWER: usize = 1024;
/// What fits into the buffers that every socket has, of messages and of answers, in bytes: a good half of
/// `wmem_default` and `rmem_default` (212,992).
const FITS: usize = 128 * 1024;

/// A request, with what it is for in words.
#[derive(Debug, Clone)]
pub struct Message<M> {
    /// What it asks for: the front of an error message.
    pub doing: String,
    /// `NLM_F_*`
    pub flags: u16,
    /// The message itself.
    pub body: M,
}

/// A netlink socket, of the namespace that its thread was in when it was opened, wherever it is used.
pub struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Whether a dump could be read to its end.
enum Torn {
    Interrupted,
    Refused(Refusal),
}

impl From<Refusal> for Torn {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Socket {
    /// For links, addresses and routes.
    ///
    /// # Errors
    /// What socket(2) says.
    pub fn route() -> Result<Self, Refusal> {
        let socket = Self::open(NETLINK_ROUTE)?;
        // The kernel's words for people. nf_tables has none.
        socket.inner.set_ext_ack(true)?;
        Ok(socket)
    }

    /// For nf_tables and conntrack.
    ///
    /// # Errors
    /// What socket(2) says; `EPROTONOSUPPORT` when the kernel has no nfnetlink.
    pub fn netfilter() -> Result<Self, Refusal> {
        let socket = Self::open(NETLINK_NETFILTER).map_err(|refusal| refusal.of_module("nf_tables"))?;
        close::hold(&socket.inner);
        Ok(socket)
    }

    fn open(protocol: isize) -> Result<Self, Refusal> {
        let inner = netlink_sys::Socket::new(protocol)
            .map_err(|error| Refusal { doing: "open a netlink socket".to_owned(), ..error.into() })?;
        Ok(Self { inner, sequence: 1, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Joins a group of events (`RTNLGRP_*`).
    pub(super) fn subscribe(&mut self, group: u32) -> Result<(), Refusal> {
        // Without an address of its own the socket would pass for the kernel's, and the kernel tells itself nothing.
        self.inner.bind_auto()?;
        Ok(self.inner.add_membership(group)?)
    }

    pub(in crate::kernel) fn raw(&self) -> &netlink_sys::Socket {
        &self.inner
    }

    /// Sends `messages` at once; the kernel does them in order, each by itself. One answer each, in order.
    ///
    /// # Errors
    /// When the kernel can't be talked to at all.
    pub fn batch<M>(&mut self, mut messages: Vec<Message<M>>) -> Result<Vec<Result<(), Refusal>>, Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let names: Vec<String> = messages.iter().map(|message| message.doing.clone()).collect();
        // The kernel answers in order and tells a refusal unasked: once the last is acknowledged, those before it
        // that were not refused are done.
        for message in messages.iter_mut().rev().skip(1) {
            message.flags &= !NLM_F_ACK;
        }
        if messages.is_empty() {
            return Ok(vec![]);
        }
        let sent = self.send(messages)?;
        let mut answers: Vec<Result<(), Refusal>> = names.iter().map(|_| Ok(())).collect();
        let mut open = true;
        while open {
            for answer in self.receive::<M>()? {
                let Some(at) = position(&sent, answer.header.sequence_number) else { continue };
                if let NetlinkPayload::Error(error) = answer.payload {
                    answers[at] = verdict(&names[at], answer.header.flags, &error);
                    open &= at + 1 < names.len();
                }
            }
        }
        Ok(answers)
    }

    /// Sends one message and waits until it is acknowledged.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn ack<M>(&mut self, message: Message<M>) -> Result<(), Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        all_ok(self.batch(vec![message])?)
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// The kernel's refusal: `ENODEV`, `ENOENT` when there is no such object.
    pub fn get<M>(&mut self, message: Message<M>) -> Result<M, Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let doing = message.doing.clone();
        let answer = self.get_all(vec![message])?.pop();
        answer.unwrap_or_else(|| Err(Refusal::new(doing, Errno::ENOENT)))
    }

    /// Asks for several objects with one send. One answer each, in order, as [`Socket::get`] gives it.
    ///
    /// # Errors
    /// When the kernel can't be talked to at all.
    pub fn get_all<M>(&mut self, messages: Vec<Message<M>>) -> Result<Vec<Result<M, Refusal>>, Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let names: Vec<String> = messages.iter().map(|message| message.doing.clone()).collect();
        let sent = self.send(messages)?;
        let mut answers: Vec<Option<Result<M, Refusal>>> = names.iter().map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            for answer in self.receive::<M>()? {
                let Some(at) = position(&sent, answer.header.sequence_number) else { continue };
                match answer.payload {
                    NetlinkPayload::InnerMessage(body) => answers[at] = Some(Ok(body)),
                    // An acknowledgement behind the object says nothing new.
                    NetlinkPayload::Error(error) if answers[at].is_none() => {
                        let refused = verdict(&names[at], answer.header.flags, &error);
                        let refused = refused.and(Err(Refusal::new(&names[at], Errno::ENOENT)));
                        answers[at] = Some(refused);
                    }
                    _ => {}
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Asks for all objects that `body` describes, again when the kernel says that the list was torn.
    ///
    /// # Errors
    /// The kernel's refusal; `EAGAIN` when the list was torn each time.
    pub fn dump<M>(&mut self, doing: &str, body: &M) -> Result<Vec<M>, Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug + Clone,
    {
        let mut list = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < DUMP_PATIENCE {
            list.clear();
            match self.dump_once(doing, body.clone(), &mut |object| list.push(object)) {
                Ok(()) => return Ok(list),
                Err(Torn::Refused(refusal)) => return Err(refusal),
                Err(Torn::Interrupted) => {}
            }
        }
        Err(Refusal {
            says: Some("the list changed while it was read, each time".to_owned()),
            ..Refusal::new(doing, Errno::EAGAIN)
        })
    }

    /// As [`Socket::dump`], but hands each object to `each` when it comes, and keeps none: for lists of any
    /// length, of which it does not matter that one is told twice, or missed because it came and went.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn dump_each<M>(&mut self, doing: &str, body: M, each: &mut dyn FnMut(M)) -> Result<(), Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        match self.dump_once(doing, body, each) {
            Err(Torn::Refused(refusal)) => Err(refusal),
            Ok(()) | Err(Torn::Interrupted) => Ok(()),
        }
    }

    fn dump_once<M>(&mut self, doing: &str, body: M, each: &mut dyn FnMut(M)) -> Result<(), Torn>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
    {
        let sent =
            self.send(vec![Message { doing: doing.to_owned(), flags: NLM_F_REQUEST | NLM_F_DUMP, body }])?;
        let mut torn = false;
        loop {
            for answer in self.receive::<M>()? {
                if position(&sent, answer.header.sequence_number).is_none() {
                    continue;
                }
                torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(body) => each(body),
                    NetlinkPayload::Error(error) => {
                        verdict(doing, answer.header.flags, &error)?;
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(Refusal::new(doing, Errno::from_raw(-done.code)).into());
                    }
                    NetlinkPayload::Done(_) => return if torn { Err(Torn::Interrupted) } else { Ok(()) },
                    _ => {}
                }
            }
        }
    }

    /// Sends `messages` in one datagram and gives the sequence numbers that they got.
    pub(in crate::kernel) fn send<M: NetlinkSerializable + Debug>(
        &mut self,
        messages: Vec<Message<M>>,
    ) -> Result<Range<u32>, Refusal> {
        let first = self.sequence;
        let answers = messages.len() * ANSWER;
        let mut bytes = Vec::new();
        for message in messages {
            let mut header = NetlinkHeader::default();
            header.flags = message.flags;
            header.sequence_number = self.sequence;
            self.sequence += 1;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message.body));
            message.finalize();
            let start = bytes.len();
            // Each message starts at a multiple of four (netlink(7), NLMSG_ALIGN).
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        // A refusal repeats what was sent.
        self.make_room(2 * bytes.len());
        self.widen(bytes.len(), answers)?;
        retry(|| self.inner.send_to(&bytes, &SocketAddr::new(0, 0), 0))?;
        Ok(first..self.sequence)
    }

    /// Sees to it that so many bytes can be sent at once, and answered before anything is read.
    fn widen(&self, sent: usize, answered: usize) -> Result<(), Refusal> {
        // The kernel doubles what it is told, for what it needs itself. Only the machine's root may go beyond the
        // machine's limits; who is root in a namespace of his own gets what these are.
        let socket = &self.inner;
        if sent > FITS && sockopt::set_socket_send_buffer_size_force(socket, sent).is_err() {
            sockopt::set_socket_send_buffer_size(socket, sent).map_err(io::Error::from)?;
        }
        if answered > FITS {
            // Of thousands of changes each may be refused: without the repetition of what was asked.
            socket.set_cap_ack(true)?;
            if sockopt::set_socket_recv_buffer_size_force(socket, answered).is_err() {
                sockopt::set_socket_recv_buffer_size(socket, answered).map_err(io::Error::from)?;
            }
        }
        Ok(())
    }

    /// Sees to it that a datagram of so many bytes can be read.
    pub(super) fn make_room(&mut self, bytes: usize) {
        self.buffer.clear();
        self.buffer.reserve(bytes);
    }

    /// The kernel answers while it is asked, so an answer mostly is there. One that is not may have got lost:
    /// nobody waits for it for ever.
    fn receive_within(&mut self, wait: &Wait) -> Result<usize, Refusal> {
        loop {
            let received = retry(|| self.inner.recv(&mut self.buffer, libc::MSG_TRUNC | libc::MSG_DONTWAIT));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Ok(other?),
            }
            let Some(left) = wait.left() else {
                return Err(Refusal::new("wait for the kernel's answer", wait.errno()));
            };
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.inner.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Refusal::new("wait for the kernel's answer", errno)),
            }
        }
    }

    /// Reads one datagram.
    pub(in crate::kernel) fn receive<M>(&mut self) -> Result<Vec<NetlinkMessage<M>>, Refusal>
    where
        M: NetlinkDeserializable + Debug,
    {
        self.buffer.clear();
        let len = self.receive_within(&Wait::of(PATIENCE))?;
        if len > self.buffer.len() {
            return Err(Refusal::new("read the kernel's answer", Errno::EMSGSIZE));
        }
        parse(&self.buffer)
    }
}

/// Fails with the first refusal among the answers of a batch.
///
/// # Errors
/// That refusal.
pub fn all_ok(answers: Vec<Result<(), Refusal>>) -> Result<(), Refusal> {
    answers.into_iter().collect()
}

/// Everything in one datagram.
pub(in crate::kernel) fn parse<M: NetlinkDeserializable + Debug>(
    mut bytes: &[u8],
) -> Result<Vec<NetlinkMessage<M>>, Refusal> {
    let mut messages = Vec::new();
    while bytes.len() >= HEADER {
        let message = parse_one(bytes).map_err(|why| Refusal {
            says: Some(why),
            ..Refusal::new("read the kernel's answer", Errno::EBADMSG)
        })?;
        let len = (message.header.length as usize).next_multiple_of(4).max(HEADER);
        messages.push(message);
        bytes = bytes.get(len..).unwrap_or_default();
    }
    Ok(messages)
}

/// The first message. The crate that reads nf_tables' attributes panics at lengths that contradict each other.
fn parse_one<M: NetlinkDeserializable + Debug>(bytes: &[u8]) -> Result<NetlinkMessage<M>, String> {
    match catch_unwind(|| NetlinkMessage::<M>::deserialize(bytes)) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("the lengths of its attributes contradict each other".to_owned()),
    }
}

pub(in crate::kernel) fn position(sent: &Range<u32>, sequence: u32) -> Option<usize> {
    sent.contains(&sequence).then(|| (sequence - sent.start) as usize)
}

/// An acknowledgement, or a refusal with the kernel's words.
pub(in crate::kernel) fn verdict(doing: &str, flags: u16, error: &ErrorMessage) -> Result<(), Refusal> {
    let Some(code) = error.code else { return Ok(()) };
    // The answer repeats our message, whole unless capped; behind it come the words.
    let repeated = match error.header.first_chunk() {
        Some(len) if flags & NLM_F_CAPPED == 0 => (u32::from_ne_bytes(*len) as usize).next_multiple_of(4),
        _ => HEADER,
    };
    let attributes = error.header.get(repeated..).filter(|_| flags & NLM_F_ACK_TLVS != 0).unwrap_or_default();
    let says = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned());
    Err(Refusal { says, ..Refusal::new(doing, Errno::from_raw(code.get().abs())) })
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::{RouteNetlinkMessage, link};
    use crate::spec::IfName;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn bytes_that_are_no_messages_are_an_error_not_a_panic() {
        let mut seed = 7u32;
        for len in 0..400 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8
                })
                .collect();
            let _ = parse::<RouteNetlinkMessage>(&bytes);
        }
        assert!(parse::<RouteNetlinkMessage>(&[0; 15]).unwrap().is_empty());
        assert!(parse::<RouteNetlinkMessage>(&[0; 16]).is_err());
    }

    /// As on a node where hundreds of pods come and go at once.
    #[test]
    fn a_list_that_changes_all_the_time_is_read_in_the_end() {
        let host = cni_harness::Host::enter();
        for n in 0..150 {
            host.ip(&format!("link add up{n} type bridge"));
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let changing = scope.spawn(|| {
                let mut socket = Socket::route().unwrap();
                let names = (0..1000).map(|n| IfName::try_from(format!("new{n}").as_str()).unwrap());
                for name in names.take_while(|_| !over.load(Ordering::Relaxed)) {
                    socket.ack(link::create_ifb(&name, 1500)).unwrap();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let mut socket = Socket::route().unwrap();
            let lists: Vec<_> = (0..40).map(|_| link::list(&mut socket, None)).collect();
            over.store(true, Ordering::Relaxed);
            changing.join().unwrap();
            for list in lists {
                // lo is there as well.
                assert!(list.unwrap().len() > 150);
            }
        });
    }

    #[test]
    fn attributes_longer_than_what_they_are_in_are_an_error_not_a_panic() {
        // An element of a set whose key says to have 140 bytes, of 12.
        let mut bytes = vec![56, 0, 0, 0, 12, 10, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 3];
        bytes.extend([6, 0, 1, 0, b't', 0, 0, 0, 24, 0, 3, 0, 20, 0, 1, 0, 16, 0, 1, 0, 140, 0, 1, 0]);
        bytes.extend([6, 0, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0]);
        let refusal = parse::<netlink_packet_netfilter::NetfilterMessage>(&bytes).unwrap_err();
        assert_eq!(refusal.errno, Errno::EBADMSG);
    }
}
