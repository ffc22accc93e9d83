//! Where an ADD works.

use super::l3::L3;
use crate::kernel::netlink::addr::Dad;
use crate::kernel::netlink::event::{self, Group};
use crate::kernel::netlink::{Link, Socket, addr, all_ok, link, route};
use crate::kernel::netns::Netns;
use crate::kernel::sysctl::{self, Key};
use crate::plugin::Target;
use crate::spec::{Attachment, Code, Coded, Error, IfName, Result};
use crate::undo::Undo;
use ipnet::IpNet;
use nix::errno::Errno;
use std::time::Duration;

/// How long a link may take to come up, an address to be used, and duplicate address detection to end.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The host, the container, and the way back of all that is done to either.
pub struct Site<'a> {
    /// The way back.
    pub undo: Undo,
    /// Whose interface is made.
    pub attachment: &'a Attachment,
    /// The container's namespace.
    pub netns: Netns,
    /// A socket on the host.
    pub host: Socket,
    /// A socket in the container.
    pub inside: Socket,
}

impl<'a> Site<'a> {
    /// Goes there, and changes nothing.
    ///
    /// # Errors
    /// Code 4 for a name that no interface may have, and when there is no namespace to enter; code 101 when the
    /// container has an interface of that name: nothing of a living attachment is touched.
    pub fn enter(target: &'a Target) -> Result<Self> {
        let attachment = &target.attachment;
        refuse_reserved(&attachment.ifname)?;
        let netns = target.open_netns()?;
        let host = Socket::route()?;
        let inside = netns.run(|| Ok(Socket::route()?))?;
        let mut site = Self { undo: Undo::default(), attachment, netns, host, inside };
        if link::find(&mut site.inside, &attachment.ifname)?.is_some() {
            let msg = format!("the interface {} already exists in the container", attachment.ifname);
            return Err(Error::new(Code::ALREADY_ADDED, msg)
                .details("CNI_IFNAME has to name a new one; DEL the attachment before it is added again"));
        }
        Ok(site)
    }

    /// The interface as it is now.
    ///
    /// # Errors
    /// Code 5 when it has gone.
    pub fn look(&mut self) -> Result<Link> {
        let ifname = &self.attachment.ifname;
        let found = link::find(&mut self.inside, ifname)?;
        found.ok_or_else(|| {
            Error::new(Code::IO, format!("{ifname} was deleted inside the container meanwhile"))
        })
    }

    /// Sets the interface up, without addresses.
    ///
    /// # Errors
    /// Code 5: what the kernel says.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        Ok(self.inside.ack(link::set_up(index, true))?)
    }

    /// Addresses, link up, routes: one send.
    ///
    /// # Errors
    /// Code 5: what the kernel says to the first that it refuses.
    pub fn configure(&mut self, index: u32, l3: &L3, dad: Dad) -> Result<()> {
        let (ifname, has_v6) = (&self.attachment.ifname, l3.has_v6());
        self.netns.run(|| set_sysctls(ifname, has_v6, dad))?;
        let mut batch = vec![link::announce_addresses(index)];
        batch.extend(l3.ips.iter().map(|ip| addr::add(index, ip.address, dad)));
        batch.push(link::set_up(index, true));
        let before_routes = batch.len();
        batch.extend(l3.routes.iter().map(|route| route::add(index, route, l3.gateway_for(route))));
        let mut answers = self.inside.batch(batch)?;
        // The interface is new: the very same route is one of ours, in other words.
        for answer in &mut answers[before_routes..] {
            if answer.as_ref().is_err_and(|refusal| refusal.errno == Errno::EEXIST) {
                *answer = Ok(());
            }
        }
        all_ok(answers).map_err(|refusal| {
            let exists = refusal.errno == Errno::EEXIST;
            let error =
                Error::from(refusal).context(format!("failed to configure {ifname} inside the container"));
            if exists { error.context("two addresses of the network are the same") } else { error }
        })?;
        if has_v6 && dad == Dad::AsConfigured {
            self.await_dad(index)?;
        }
        Ok(())
    }

    /// Waits until no address of ours is tentative any more.
    fn await_dad(&mut self, index: u32) -> Result<()> {
        let mut events = self.netns.run(|| Ok(Socket::route()?))?;
        let socket = &mut self.inside;
        let settled = event::wait(&mut events, Group::Ipv6Addr, PATIENCE, || {
            let addresses = addr::list(socket, index)?;
            if let Some(failed) = addresses.iter().find(|addr| addr.dad_failed) {
                return Ok(Some(Err(failed.net)));
            }
            Ok((!addresses.iter().any(|addr| addr.tentative)).then_some(Ok(())))
        });
        let settled = settled
            .map_err(|refusal| Error::from(refusal).context("duplicate address detection did not end"))?;
        settled.map_err(|net| {
            Error::new(
                Code::IO,
                format!("duplicate address: somebody on the network already has {}", net.addr()),
            )
        })
    }

    /// Waits until packets reach the container's addresses.
    ///
    /// # Errors
    /// As [`await_addresses`].
    pub fn await_addresses(&mut self, l3: &L3) -> Result<()> {
        let netns = &self.netns;
        await_addresses(&mut self.inside, &l3.nets(), || netns.run(|| Ok(Socket::route()?)))
    }
}

/// To the kernel's sysctls, `all` and `default` are no interfaces.
fn refuse_reserved(ifname: &IfName) -> Result<()> {
    match ifname.as_str() {
        "all" | "default" | "lo" => {
            Err(Error::new(Code::BAD_ENVIRONMENT, format!("CNI_IFNAME {:?} is reserved", ifname.as_str()))
                .details("give the container's interface another name, such as eth0"))
        }
        _ => Ok(()),
    }
}

/// Waits until packets reach these addresses; see [`route::await_local`]. `open` opens a socket in `socket`'s
/// namespace.
///
/// # Errors
/// Code 5 when the kernel does not get that far in time.
pub fn await_addresses(
    socket: &mut Socket,
    nets: &[IpNet],
    open: impl FnOnce() -> Result<Socket>,
) -> Result<()> {
    let of_v6 = nets.iter().filter_map(|net| match net {
        IpNet::V6(net) => Some(net.addr()),
        IpNet::V4(_) => None,
    });
    route::await_local(socket, &of_v6.collect::<Vec<_>>(), PATIENCE, open)
        .map_err(|error: Error| error.context("the kernel does not begin to use the IPv6 addresses"))
}

/// Runs inside the container.
fn set_sysctls(ifname: &IfName, has_v6: bool, dad: Dad) -> Result<()> {
    if has_v6 {
        for name in [&IfName::lo(), ifname] {
            sysctl::ensure(&Key::V6(name, "disable_ipv6"), "0").io(format!("switch IPv6 on for {name}"))?;
        }
    }
    // With the first, who had the address before is forgotten by its neighbours; with the second, it outlives
    // a link that is down.
    let of_v6 = [("ndisc_notify", "1"), ("keep_addr_on_down", "1")];
    let of_dad = match dad {
        Dad::AsConfigured => &[("enhanced_dad", "1"), ("accept_dad", "1")][..],
        Dad::Off => &[("accept_dad", "0")],
    };
    for (key, value) in of_v6.iter().filter(|_| has_v6).chain(of_dad) {
        sysctl::wish(&Key::V6(ifname, key), value);
    }
    Ok(())
}
