//! Mapping ports by nf_tables, at the same cost for one mapping and for thousands.
//!
//! ```text
//! table ip cni_portmap {                            # and the same as "ip6"
//!     map ports     { tcp . 8080 comment "cni/NETWORK/CONTAINER/IFNAME" : goto pod-HASH }
//!     map addresses { 192.0.2.1 . tcp . 8080 comment … : goto pod-HASH }             # with hostIP
//!     chain prerouting, output {                    # nat hooks, priority dstnat + 1
//!         ip daddr . meta l4proto . th dport vmap @addresses
//!         meta l4proto . th dport vmap @ports
//!     }
//!     chain pod-HASH {                              # one an attachment
//!         fib daddr type != local return            # packets to other machines are none of ours
//!         ip saddr 10.1.0.0/24 meta mark set meta mark | 0x2000
//!         ip saddr 127.0.0.0/8 meta mark set meta mark | 0x2000
//!         dnat to ip daddr . meta l4proto . th dport map @at-HASH
//!         dnat to meta l4proto . th dport map @to-HASH
//!         fib daddr type local goto pod-OTHER       # never matches: see below
//!     }
//!     map to-HASH   { tcp . 8080 : 10.1.0.2 . 80 }  # one an attachment, as is at-HASH
//!     chain masquerade-13 {                         # nat hook, priority srcnat; one a bit
//!         meta mark & 0x2000 == 0x2000 masquerade
//!     }
//!     chain guard {                                 # filter hook, priority raw
//!         iifname "lo" return
//!         ip saddr 127.0.0.0/8 drop
//!         ip daddr 127.0.0.0/8 drop
//!     }
//! }
//! ```
//!
//! ADD adds its chain, maps and elements in one transaction, DEL deletes them: the attachment's own maps say which elements
//! of the shared ones may be its, so DEL needs no config. What is shared is made when it is missing, and stays.
//!
//! A runtime gives a container's mappings to each of its networks. The first that asks serves a port; a later
//! one has its chain and maps, but no element of the shared maps, and in its chain a last rule that leads to
//! the one that serves. No packet gets there, since the first rule returned all others; but the kernel does
//! not delete a chain that a rule leads to, so that the DEL of the one that serves can't miss the one that is
//! next, and gives the port on.

mod succession;

use crate::Guard;
use crate::condition::Condition;
use crate::conf::{Conf, Mapping, Masquerade};
use crate::holder::{is_of_container, sign_of_life};
use cni_common::kernel::netlink::{Socket, link};
use cni_common::kernel::nft::{
    Chain, Data, Element, End, Family, Field, Hook, Key, Match, Rule, Set, Transaction, Value, Verdict,
    chains, elements, find_element, has_chain, has_set, rules, uses, uses_of_table,
};
use cni_common::kernel::{Refusal, unused_ok};
use cni_common::owner::is_tag;
use cni_common::spec::{Attachment, Error, Result};
use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use succession::{Heir, NEXT_AFTER, hand_over, heirs, wait_for};

const TABLE: &str = "cni_portmap";
const PREROUTING: Chain = Chain { table: TABLE, name: "prerouting", hook: Some(Hook::DestinationNat) };
const OUTPUT: Chain = Chain { table: TABLE, name: "output", hook: Some(Hook::OutputNat) };
const GUARD: Chain = Chain { table: TABLE, name: "guard", hook: Some(Hook::First) };
/// The comment of the rules of an attachment whose tag was on a link of the host when they were made.
const MARKED: &str = "its host veth has this tag, too";
/// How often an ADD that met somebody else's change is tried again.
const TRIES: u32 = 5;
/// How many orphans GC deletes in one transaction: the kernel waits for readers of rules once in each, some 12 ms.
const TOGETHER: usize = 32;

const BY_PORT: &[Field] = &[Field::Protocol, Field::Port];
const BY_ADDRESS_V4: &[Field] = &[Field::Ipv4(End::Destination), Field::Protocol, Field::Port];
const BY_ADDRESS_V6: &[Field] = &[Field::Ipv6(End::Destination), Field::Protocol, Field::Port];
const TARGET_V4: &[Field] = &[Field::Ipv4(End::Destination), Field::Port];
const TARGET_V6: &[Field] = &[Field::Ipv6(End::Destination), Field::Port];

const fn key(family: Family, by_address: bool) -> &'static [Field] {
    match (by_address, family) {
        (false, _) => BY_PORT,
        (true, Family::V6) => BY_ADDRESS_V6,
        (true, _) => BY_ADDRESS_V4,
    }
}

/// The shared maps, from what a packet asks for to the chain of the attachment that has it.
const fn shared(family: Family, by_address: bool) -> Set<'static> {
    let name = if by_address { "addresses" } else { "ports" };
    Set { table: TABLE, name, key: key(family, by_address), data: Data::Verdict }
}

/// The names of what an attachment has of its own.
#[derive(PartialEq, Eq)]
struct Own {
    chain: String,
    /// Without and with a host address in the key.
    maps: [String; 2],
}

impl Own {
    fn of(digest: &str) -> Self {
        Self { chain: format!("pod-{digest}"), maps: ["to", "at"].map(|kind| format!("{kind}-{digest}")) }
    }

    /// Of the attachment whose chain has that name.
    fn of_chain(name: &str) -> Option<Self> {
        name.strip_prefix("pod-").map(Self::of)
    }

    fn chain(&self) -> Chain<'_> {
        Chain { table: TABLE, name: &self.chain, hook: None }
    }

    fn map(&self, family: Family, by_address: bool) -> Set<'_> {
        let data = Data::Fields(if family == Family::V6 { TARGET_V6 } else { TARGET_V4 });
        Set { table: TABLE, name: &self.maps[usize::from(by_address)], key: key(family, by_address), data }
    }
}

fn digest(attachment: &Attachment) -> String {
    attachment.digest(16)
}

/// What an attachment shares with others, and how many rules each has.
fn shared_rules(family: Family, masquerade: Chain) -> Vec<(Chain, u32)> {
    let mut rules = vec![(PREROUTING, 2), (OUTPUT, 2), (masquerade, 1)];
    rules.extend((family == Family::V4).then_some((GUARD, 3)));
    rules
}

fn masquerade_chain(bit: u32) -> String {
    format!("masquerade-{bit}")
}

/// What an attachment wants of one family.
pub struct Plan<'a> {
    /// Whose it is.
    pub attachment: &'a Attachment,
    /// The config.
    pub conf: &'a Conf,
    /// The bit of the mark that says "masquerade me".
    pub bit: u32,
    /// The container's address and subnet.
    pub target: IpNet,
    /// The mappings that there are in this family.
    pub mappings: Vec<Mapping>,
    /// Whether a link of the host carries the attachment's tag: then its absence will tell that the
    /// attachment is gone.
    pub is_marked: bool,
}

impl Plan<'_> {
    fn family(&self) -> Family {
        Family::of(self.target.addr())
    }

    fn key(mapping: &Mapping) -> (Key, bool) {
        let address = mapping.host_ip.address();
        (Key::service(address, mapping.protocol.number(), mapping.host_port), address.is_some())
    }

    fn conditions(&self) -> Vec<Match<'_>> {
        let one = |condition| match condition {
            &Condition::Source(net, true) => Some(Match::From(net)),
            &Condition::Source(net, false) => Some(Match::Outside(End::Source, net)),
            &Condition::Destination(net, true) => Some(Match::To(net)),
            &Condition::Destination(net, false) => Some(Match::Outside(End::Destination, net)),
            Condition::Interface(name, wanted) => Some(Match::Interface(name, *wanted)),
            Condition::Words(_) => None,
        };
        self.conf.conditions[usize::from(self.target.addr().is_ipv6())].iter().filter_map(one).collect()
    }

    /// The sources whose packets are masqueraded; `None` for any.
    fn masqueraded(&self) -> Vec<Option<IpNet>> {
        match self.conf.masquerade {
            Masquerade::Nothing => vec![],
            Masquerade::Everything => vec![None],
            // The kernel routes nothing from ::1.
            Masquerade::Hairpin if self.family() == Family::V6 => vec![Some(self.target.trunc())],
            Masquerade::Hairpin => vec![Some(self.target.trunc()), Some(loopback())],
        }
    }

    fn has(&self, by_address: bool) -> bool {
        self.mappings.iter().any(|mapping| Self::key(mapping).1 == by_address)
    }

    /// The chain, the maps and the elements, but for the shared ones of what other attachments of the container have.
    fn insert(&self, transaction: &mut Transaction, holders: &Holders) {
        let (family, own, tag) = (self.family(), Own::of(&digest(self.attachment)), self.attachment.tag());
        let maps = [true, false].into_iter().filter(|by_address| self.has(*by_address));
        let maps: Vec<Set> = maps.map(|by_address| own.map(family, by_address)).collect();
        for map in &maps {
            transaction.set(family, map);
        }
        let conditions = self.conditions();
        let marks: Vec<Vec<Match>> = self
            .masqueraded()
            .into_iter()
            .map(|source| conditions.iter().copied().chain(source.map(Match::From)).collect())
            .collect();
        let chain = own.chain();
        let rule = |matches, verdict, comment| Rule { chain, matches, verdict, comment };
        let mut rules = vec![rule(&[Match::Local(false)], Verdict::Return, tag.as_str())];
        rules.extend(marks.iter().map(|matches| rule(matches, Verdict::SetMark(1 << self.bit), "")));
        let comment = if self.is_marked { MARKED } else { "" };
        rules.extend(maps.iter().map(|map| rule(&conditions, Verdict::Dnat(*map), comment)));
        transaction.chain_with(family, &chain, &rules);
        let mut ahead: Vec<&Own> = Vec::new();
        for sibling in holders.siblings.values().map(|sibling| &sibling.own) {
            if !ahead.contains(&sibling) {
                wait_for(transaction, family, &chain, sibling);
                ahead.push(sibling);
            }
        }
        for (at, mapping) in self.mappings.iter().enumerate() {
            let (key, by_address) = Self::key(mapping);
            let target = Key::target(self.target.addr(), mapping.container_port);
            let map = own.map(family, by_address);
            transaction.insert_element(family, &map, (&key, Value::Data(&target)), &tag);
            if !holders.siblings.contains_key(&at) {
                let shared = shared(family, by_address);
                transaction.insert_element(family, &shared, (&key, Value::Goto(&chain)), &tag);
            }
        }
    }

    /// What is shared. Harmless where it is there already.
    fn set_up(&self, transaction: &mut Transaction) {
        let family = self.family();
        transaction.table(family, TABLE);
        let maps = [shared(family, true), shared(family, false)];
        for map in &maps {
            transaction.set(family, map);
        }
        for chain in [PREROUTING, OUTPUT] {
            let look = |map| Rule {
                chain,
                matches: &[],
                verdict: Verdict::Look(map),
                comment: "host ports of CNI networks",
            };
            transaction.chain_with(family, &chain, &maps.map(look));
        }
        if family == Family::V4 {
            guard(transaction);
        }
        let name = masquerade_chain(self.bit);
        let chain = Chain { table: TABLE, name: &name, hook: Some(Hook::SourceNat) };
        let matches = &[Match::Mark(1 << self.bit)];
        let comment = "host ports of CNI networks";
        transaction.chain_with(
            family,
            &chain,
            &[Rule { chain, matches, verdict: Verdict::Masquerade, comment }],
        );
    }

    /// Whether all that is shared is there, and whole: somebody may have flushed it.
    fn is_set_up(&self, socket: &mut Socket) -> Result<bool, Refusal> {
        let name = masquerade_chain(self.bit);
        let masquerade = Chain { table: TABLE, name: &name, hook: None };
        let wanted = shared_rules(self.family(), masquerade);
        let asked: Vec<_> = wanted.iter().map(|(chain, _)| (self.family(), *chain)).collect();
        // Nothing leads to them, so they are used by their rules alone.
        let found = uses(socket, &asked)?;
        Ok(wanted.iter().zip(found).all(|((_, count), found)| found == Some(*count)))
    }

    /// Maps the ports. `inside` tells the addresses that the container has. The mappings that it serves: those that
    /// another attachment of the container has already are its only once that one is gone.
    ///
    /// # Errors
    /// Code 7 when a living attachment of another container has one of them; code 5: what the kernel says.
    /// Nothing was changed then.
    pub fn add(&self, socket: &mut Socket, inside: &dyn Fn() -> Vec<IpAddr>) -> Result<Vec<Mapping>> {
        let family = self.family();
        let mut ready = self.is_set_up(socket)?;
        let mut holders = Holders::default();
        let mut result = Ok(());
        for _ in 0..TRIES {
            let mut transaction = Transaction::default();
            if !ready {
                self.set_up(&mut transaction);
            }
            for holder in &holders.dead {
                delete_all_of(socket, family, holder, &[], &mut transaction)?;
            }
            self.insert(&mut transaction, &holders);
            result = transaction.commit(socket);
            match &result {
                Err(refusal) if refusal.errno == Errno::EEXIST => {
                    // What is left of an earlier ADD of ours, which no DEL followed.
                    delete_family(socket, family, self.attachment)?;
                    holders = self.holders(socket, inside)?;
                }
                // What is shared, or a holder that was there at the look.
                Err(refusal) if refusal.errno == Errno::ENOENT => {
                    ready = false;
                    holders = self.holders(socket, inside)?;
                }
                // Another attachment of a dead one's container waits for its ports, and gets them first.
                Err(refusal) if refusal.errno == Errno::EBUSY => {
                    for holder in &holders.dead {
                        delete_own(socket, family, holder)?;
                    }
                    holders = self.holders(socket, inside)?;
                }
                // Somebody else's transaction came between.
                Err(refusal) if refusal.errno == Errno::EAGAIN => {}
                _ => break,
            }
        }
        result?;
        holders.tell(&self.mappings);
        let is_served = |at: &usize| !holders.siblings.contains_key(at);
        Ok((0..self.mappings.len()).filter(is_served).map(|at| self.mappings[at]).collect())
    }

    /// Who has our ports, unless a living attachment of another container does.
    fn holders(&self, socket: &mut Socket, inside: &dyn Fn() -> Vec<IpAddr>) -> Result<Holders> {
        let mut found = Holders::default();
        let (mut tags, mut addresses) = (None, None);
        for (at, mapping) in self.mappings.iter().enumerate() {
            let (key, by_address) = Self::key(mapping);
            let set = shared(self.family(), by_address);
            let Some(element) = find_element(socket, self.family(), &set, &key)? else { continue };
            let target = self.target_of(socket, &element, by_address)?;
            let is_inside = |ip: &IpAddr| addresses.get_or_insert_with(inside).contains(ip);
            let is_sibling =
                is_of_container(&element.tag, self.attachment) && target.as_ref().is_some_and(is_inside);
            if let (true, Some(own)) = (is_sibling, Own::of_chain(&element.chain)) {
                found.siblings.insert(at, Sibling { own, tag: element.tag });
                continue;
            }
            let tags = match &mut tags {
                Some(tags) => tags,
                none => none.insert(link_aliases()?),
            };
            let was_marked = Own::of_chain(&element.chain).map_or(Ok(false), |own| {
                let rules = rules(socket, self.family(), &own.chain())?;
                Ok::<_, Refusal>(rules.iter().any(|(_, comment)| comment == MARKED))
            })?;
            if let Some(sign) = sign_of_life(&element.tag, target, was_marked, tags) {
                let msg = format!("host port {mapping} is in use by {}", element.tag);
                return Err(Error::config(msg).details(format!(
                    "{sign}; DEL that attachment (or GC, when it is gone), or give this container another hostPort or a hostIP"
                )));
            }
            cni_common::log!("host port {mapping} was {}'s, which is gone; taking it over", element.tag);
            found.dead.extend(Own::of_chain(&element.chain).filter(|holder| !found.dead.contains(holder)));
        }
        Ok(found)
    }

    /// The address that an element of a shared map leads to, by the map of the attachment whose it is.
    fn target_of(
        &self,
        socket: &mut Socket,
        element: &Element,
        by_address: bool,
    ) -> Result<Option<IpAddr>, Refusal> {
        let Some(own) = Own::of_chain(&element.chain) else { return Ok(None) };
        let family = self.family();
        let found = find_element(socket, family, &own.map(family, by_address), &element.key)?;
        Ok(found.and_then(|element| element.data?.as_target()).map(|(ip, _)| ip))
    }

    /// The first thing that is not as ADD left it: expected and found.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn missing(&self, socket: &mut Socket) -> Result<Option<(String, String)>, Refusal> {
        let family = self.family();
        let own = Own::of(&digest(self.attachment));
        let name = masquerade_chain(self.bit);
        let masquerade = Chain { table: TABLE, name: &name, hook: None };
        let mut wanted = shared_rules(family, masquerade);
        let maps = u32::from(self.has(true)) + u32::from(self.has(false));
        let marks = u32::try_from(self.masqueraded().len()).unwrap_or_default();
        wanted.push((own.chain(), 1 + marks + maps));
        let mut ahead = Vec::new();
        for (chain, count) in wanted {
            let comments = rules(socket, family, &chain)?.into_iter().map(|(_, comment)| comment);
            let (waiting, others): (Vec<_>, Vec<_>) =
                comments.partition(|comment| comment.starts_with(NEXT_AFTER));
            ahead.extend(
                waiting.iter().filter_map(|comment| comment.strip_prefix(NEXT_AFTER)).map(str::to_owned),
            );
            let found = others.len();
            if u32::try_from(found) != Ok(count) {
                let what = format!("{count} rules in chain {TABLE} {}", chain.name);
                return Ok(Some((what, found.to_string())));
            }
        }
        for mapping in &self.mappings {
            let (key, by_address) = Self::key(mapping);
            let target = (self.target.addr(), mapping.container_port);
            let holder = find_element(socket, family, &shared(family, by_address), &key)?;
            let leads = find_element(socket, family, &own.map(family, by_address), &key)?;
            let found = match (holder, leads.and_then(|element| element.data?.as_target())) {
                (Some(holder), _) if holder.chain != own.chain && !ahead.contains(&holder.chain) => {
                    format!("one of {}'s", holder.tag)
                }
                (Some(_), Some(found)) if found == target => continue,
                (Some(_), Some((ip, port))) => format!("one that leads to {ip} port {port}"),
                _ => "none".to_owned(),
            };
            let what = format!("a mapping of host port {mapping} to {} port {}", target.0, target.1);
            return Ok(Some((what, found)));
        }
        Ok(None)
    }
}

/// Who has ports that an ADD asks for.
#[derive(Default)]
struct Holders {
    /// Attachments that are gone.
    dead: Vec<Own>,
    /// The other attachments of the container that have mappings, by the mapping's place in the plan.
    siblings: BTreeMap<usize, Sibling>,
}

/// Another attachment of the same container.
struct Sibling {
    own: Own,
    tag: String,
}

impl Holders {
    /// Says who serves our mappings instead of us: a line each, however many they are.
    fn tell(&self, mappings: &[Mapping]) {
        let mut told: BTreeMap<&str, (Mapping, usize)> = BTreeMap::new();
        for (at, sibling) in &self.siblings {
            told.entry(&sibling.tag).or_insert((mappings[*at], 0)).1 += 1;
        }
        for (tag, (first, count)) in told {
            let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
            cni_common::log!(
                "host port {first}{more} is served by {tag}, of this container too; by this attachment once \
                 that one is gone"
            );
        }
    }
}

fn loopback() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))
}

/// With `route_localnet` the kernel takes packets for 127.0.0.0/8 from anywhere (CVE-2020-8558), so they end here.
fn guard(transaction: &mut Transaction) {
    let inside = [Match::Interface("lo", true)];
    let (from, to) = ([Match::From(loopback())], [Match::To(loopback())]);
    let comment = "no loopback traffic from outside";
    let rule = |matches, verdict| Rule { chain: GUARD, matches, verdict, comment };
    let rules = [rule(&inside[..], Verdict::Return), rule(&from, Verdict::Drop), rule(&to, Verdict::Drop)];
    transaction.chain_with(Family::V4, &GUARD, &rules);
}

/// The aliases of the host's links: the tags of the attachments whose host veth is there.
fn link_aliases() -> Result<Vec<String>, Refusal> {
    let links = link::list(&mut Socket::route()?, None)?;
    Ok(links.into_iter().filter_map(|link| link.alias).collect())
}

/// An attachment's mapping, as the kernel has it.
pub struct Mapped {
    /// What was asked for: protocol and port of the host, and its address when that is given.
    pub service: (Option<IpAddr>, u8, u16),
    /// Where it led.
    pub target: IpAddr,
}

/// Deletes what is the attachment's in both families, and tells it.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn delete(socket: &mut Socket, attachment: &Attachment) -> Result<Vec<Mapped>, Refusal> {
    let mut gone = delete_family(socket, Family::V4, attachment)?;
    gone.extend(delete_family(socket, Family::V6, attachment)?);
    Ok(gone)
}

fn delete_family(
    socket: &mut Socket,
    family: Family,
    attachment: &Attachment,
) -> Result<Vec<Mapped>, Refusal> {
    delete_own(socket, family, &Own::of(&digest(attachment)))
}

fn delete_own(socket: &mut Socket, family: Family, own: &Own) -> Result<Vec<Mapped>, Refusal> {
    if !has_chain(socket, family, &own.chain())? {
        return Ok(vec![]);
    }
    let mut result = Ok(());
    let (mut gone, mut next) = (Vec::new(), Vec::new());
    let mut shared = if is_last(socket, family, own)? { shared_chains(socket, family)? } else { vec![] };
    for _ in 0..TRIES {
        let mut transaction = Transaction::default();
        gone = delete_all_of(socket, family, own, &next, &mut transaction)?;
        delete_shared(family, &shared, &mut transaction);
        result = transaction.commit(socket);
        // Somebody has come who uses what is shared.
        shared.clear();
        match &result {
            // Somebody waits for its ports, or one of those who waited has gone since the look.
            Err(refusal) if matches!(refusal.errno, Errno::EBUSY | Errno::ENOENT) => {
                if !has_chain(socket, family, &own.chain())? {
                    return Ok(gone);
                }
                next = heirs(socket, family, own)?;
            }
            Err(refusal) if refusal.errno == Errno::EAGAIN => {}
            _ => break,
        }
    }
    // Of two that went at once, each saw the other.
    let result = result.and_then(|()| unused_ok(delete_unused(socket, family)));
    result.map(|()| gone)
}

/// Whether an attachment is the last of its family: nobody else needs what is shared.
fn is_last(socket: &mut Socket, family: Family, own: &Own) -> Result<bool, Refusal> {
    let few = few_chains(socket, family)?;
    Ok(few.is_some_and(|names| !names.iter().any(|name| Own::of_chain(name).is_some() && *name != own.chain)))
}

/// The names of the table's chains; `None` when they are more than what is shared, with a masquerading chain
/// for some bits, and what one attachment has: then there is no need to look at them.
fn few_chains(socket: &mut Socket, family: Family) -> Result<Option<Vec<String>>, Refusal> {
    const FEW: u32 = 16;
    if uses_of_table(socket, family, TABLE)?.is_none_or(|count| count > FEW) {
        return Ok(None);
    }
    chains(socket, family, TABLE).map(Some)
}

/// The chains that attachments share, to be deleted with the last of those; none as long as the guard among
/// them is needed.
fn shared_chains(socket: &mut Socket, family: Family) -> Result<Vec<String>, Refusal> {
    if family == Family::V4 && is_loopback_open() {
        return Ok(vec![]);
    }
    let mut names = chains(socket, family, TABLE)?;
    names.retain(|name| Own::of_chain(name).is_none());
    Ok(names)
}

/// Whether `route_localnet` is on, for any link. Where that can't be told, it may be.
fn is_loopback_open() -> bool {
    let Ok(links) = std::fs::read_dir("/proc/sys/net/ipv4/conf") else { return true };
    links.flatten().any(|link| {
        let key = link.path().join("route_localnet");
        // A link may go meanwhile.
        std::fs::read_to_string(key).is_ok_and(|value| value.trim() != "0")
    })
}

/// Deletes what attachments share: these chains, the maps and the table. The kernel refuses all of it
/// (`EBUSY`) when somebody else has a chain in the table, as everybody has who has an element in the maps.
fn delete_shared(family: Family, names: &[String], transaction: &mut Transaction) {
    if names.is_empty() {
        return;
    }
    for name in names {
        transaction.delete_chain(family, &Chain { table: TABLE, name, hook: None });
    }
    for by_address in [true, false] {
        transaction.delete_set(family, &shared(family, by_address));
    }
    transaction.delete_empty_table(family, TABLE);
}

/// Everything of an attachment, to be deleted together: the kernel refuses all of it once the chain is gone. So a late DEL
/// and whoever takes over its ports can't both succeed, and nobody deletes what has got another owner since the look.
///
/// What it had goes to `heirs`; the kernel refuses all of it (`EBUSY`) when one of them is missing there.
fn delete_all_of(
    socket: &mut Socket,
    family: Family,
    own: &Own,
    heirs: &[Heir],
    transaction: &mut Transaction,
) -> Result<Vec<Mapped>, Refusal> {
    let (mut gone, mut held) = (Vec::new(), Vec::new());
    for by_address in [true, false] {
        for element in elements(socket, family, &own.map(family, by_address))? {
            let holder = find_element(socket, family, &shared(family, by_address), &element.key)?;
            // Somebody else's by now, if we were taken for dead.
            if holder.is_some_and(|holder| holder.chain == own.chain) {
                transaction.delete_element(family, &shared(family, by_address), &element.key);
                held.push((element.key.clone(), by_address));
            }
            if let (Some(service), Some(data)) = (element.key.as_service(), &element.data)
                && let Some((target, _)) = data.as_target()
            {
                gone.push(Mapped { service, target });
            }
        }
    }
    hand_over(socket, family, &held, heirs, transaction)?;
    transaction.delete_chain(family, &own.chain());
    for by_address in [true, false] {
        let map = own.map(family, by_address);
        if has_set(socket, family, &map)? {
            transaction.delete_set(family, &map);
        }
    }
    Ok(gone)
}

/// Deletes what carries an orphan's tag.
///
/// # Errors
/// Any refusal but that there is nothing to delete.
pub fn gc(socket: &mut Socket, is_orphan: impl Fn(&str) -> bool) -> Result<(), Refusal> {
    let mut result = Ok(());
    for family in Family::IP {
        let mut orphans = Vec::new();
        for name in chains(socket, family, TABLE)? {
            let Some(own) = Own::of_chain(&name) else { continue };
            if tag_of(socket, family, &own)?.is_some_and(|tag| is_orphan(&tag)) {
                orphans.push(own);
            }
        }
        for some in orphans.chunks(TOGETHER) {
            // One that is not as it should be, or was deleted since the look, keeps none of the others.
            if delete_together(socket, family, some).is_err() {
                for own in some {
                    result = result.and(delete_own(socket, family, own).map(drop));
                }
            }
        }
        result = result.and(unused_ok(delete_unused(socket, family)));
    }
    result
}

/// Deletes what is shared, when nobody is there to share it.
fn delete_unused(socket: &mut Socket, family: Family) -> Result<(), Refusal> {
    let Some(names) = few_chains(socket, family)? else { return Ok(()) };
    if names.iter().any(|name| Own::of_chain(name).is_some()) {
        return Ok(());
    }
    let mut transaction = Transaction::default();
    match names.as_slice() {
        // As iptables' mappings have it.
        [only] if only == GUARD.name => {
            if !is_loopback_open() {
                transaction.delete_unused_table(family, &[GUARD], &[]);
            }
        }
        _ => delete_shared(family, &shared_chains(socket, family)?, &mut transaction),
    }
    transaction.commit(socket)
}

/// Whose it is: its first rule says so, and where somebody flushed those, each of its mappings.
fn tag_of(socket: &mut Socket, family: Family, own: &Own) -> Result<Option<String>, Refusal> {
    let first = rules(socket, family, &own.chain())?.into_iter().next().map(|(_, tag)| tag);
    if let Some(tag) = first.filter(|tag| is_tag(tag)) {
        return Ok(Some(tag));
    }
    for by_address in [true, false] {
        if let Some(element) = elements(socket, family, &own.map(family, by_address))?.into_iter().next() {
            return Ok(Some(element.tag));
        }
    }
    Ok(None)
}

/// All of them or none.
fn delete_together(socket: &mut Socket, family: Family, orphans: &[Own]) -> Result<(), Refusal> {
    let mut transaction = Transaction::default();
    for own in orphans {
        delete_all_of(socket, family, own, &[], &mut transaction)?;
    }
    transaction.commit(socket)
}

/// What is there of the guard, which has to be up when `route_localnet` is on.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn guard_found(socket: &mut Socket) -> Result<Guard, Refusal> {
    Ok(match uses(socket, &[(Family::V4, GUARD)])?.as_slice() {
        [Some(3)] => Guard::Whole,
        [Some(_)] => Guard::Broken,
        _ => Guard::Absent,
    })
}

/// Puts up the guard alone, for what iptables maps.
///
/// # Errors
/// The kernel's refusal.
pub fn add_guard(socket: &mut Socket) -> Result<(), Refusal> {
    if guard_found(socket)? == Guard::Whole {
        return Ok(());
    }
    let mut transaction = Transaction::default();
    transaction.table(Family::V4, TABLE);
    guard(&mut transaction);
    transaction.commit(socket)
}
