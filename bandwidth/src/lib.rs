//! The `bandwidth` plugin: limits on what a pod receives (ingress) and sends (egress).
//!
//! Ingress is what the host veth sends: a token bucket on it. Egress is what the host veth receives, which the kernel
//! can't queue: it is redirected to an IFB, which has the token bucket. The veth takes its qdiscs with it when it goes;
//! DEL has the IFB to delete. Without limits nothing is done at all.

pub mod conf;
mod ifb;
pub mod limit;
mod shaper;
mod veth;

use cni_common::kernel::netlink::tc::{self, Hook};
use cni_common::kernel::netlink::{Link, Socket};
use cni_common::owner::Living;
use cni_common::plugin::{Added, Plugin, Request, Target};
use cni_common::spec::{Attachment, Code, Error, Interface, Result, SpecVersion};
use cni_common::undo::Undo;
use conf::Conf;
use limit::Limit;
use shaper::Device;

/// Index of the loopback link, which every namespace has.
const LO: u32 = 1;
/// The Ethernet header in front of what the MTU counts, in bytes.
const ETHERNET_HEADER: u32 = 14;

/// The plugin.
pub struct Bandwidth;

impl Plugin for Bandwidth {
    fn name(&self) -> &'static str {
        "bandwidth"
    }

    /// The results of older versions have no interfaces, and so no host veth.
    fn since(&self) -> SpecVersion {
        SpecVersion::V0_3_0
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        let conf = Conf::read(&request.conf)?;
        let prev = request.conf.prev_result()?;
        let mut success = prev.ok_or_else(|| {
            Error::config("must be called as chained plugin")
                .details("bandwidth needs a prevResult: put it behind the plugin that makes the interface")
        })?;
        let mut undo = Undo::default();
        if conf.limits() {
            let mut socket = Socket::route()?;
            let netns = target.open_netns()?;
            let veth = veth::host_end(&netns, &target.attachment.ifname, &success, &mut socket)?;
            warn_of_small_bursts(&conf, veth.mtu);
            let mut work = Work { conf: &conf, attachment: &target.attachment, veth: &veth, socket };
            if let Some(ifb) = work.add(&mut undo)? {
                success.interfaces.retain(|one| !(one.sandbox.is_empty() && one.name == ifb.name));
                success.interfaces.push(ifb);
            }
        }
        Ok(Added { success, undo })
    }

    fn del(&self, _request: &Request, target: &Target) -> Result<()> {
        // Whatever the config says by now: runtimes do not tell the limits any more.
        ifb::delete(&mut Socket::route()?, &target.attachment)
    }

    fn check(&self, request: &Request, target: &Target) -> Result<()> {
        let conf = Conf::read(&request.conf)?;
        if !conf.limits() {
            return Ok(());
        }
        let prev = request.conf.required_prev_result()?;
        let mut socket = Socket::route()?;
        let netns = target.open_netns()?;
        let veth = veth::host_end(&netns, &target.attachment.ifname, &prev, &mut socket)?;
        Work { conf: &conf, attachment: &target.attachment, veth: &veth, socket }.check()
    }

    fn gc(&self, _request: &Request, living: &Living) -> Result<()> {
        ifb::gc(&mut Socket::route()?, living)
    }

    fn status(&self, request: &Request) -> Result<()> {
        let conf = Conf::read(&request.conf)?;
        if conf.limits() {
            // A kernel without traffic control does not know the question.
            let answer = Socket::route().and_then(|mut socket| tc::qdisc(&mut socket, LO, Hook::Root));
            answer?;
        }
        Ok(())
    }
}

/// What there is to do for one attachment.
struct Work<'a> {
    conf: &'a Conf,
    attachment: &'a Attachment,
    veth: &'a Link,
    socket: Socket,
}

fn device(link: &Link) -> Device<'_> {
    Device { index: link.index, name: &link.name }
}

impl Work<'_> {
    /// Brings both directions to what the config says, whatever an ADD before made. Gives the IFB, for the result.
    fn add(&mut self, undo: &mut Undo) -> Result<Option<Interface>> {
        let ifb = match self.conf.egress {
            Some(limit) => Some(self.limit_egress(limit, undo)?),
            None => self.free_egress().map(|()| None)?,
        };
        match self.conf.ingress {
            Some(limit) => {
                shaper::limit(&mut self.socket, device(self.veth), &limit.bucket(self.conf.latency), undo)?;
            }
            None => shaper::unlimit(&mut self.socket, self.veth.index)?,
        }
        Ok(ifb)
    }

    /// The redirect last: what comes by it meets the limit.
    fn limit_egress(&mut self, limit: Limit, undo: &mut Undo) -> Result<Interface> {
        let ifb = ifb::ensure(&mut self.socket, self.attachment, self.veth.mtu, undo)?;
        shaper::limit(&mut self.socket, device(&ifb), &limit.bucket(self.conf.latency), undo)?;
        shaper::redirect(&mut self.socket, device(self.veth), ifb.index, undo)?;
        let mac = ifb.mac.map(|mac| mac.to_string()).unwrap_or_default();
        Ok(Interface { name: ifb.name, mac, ..Interface::default() })
    }

    fn free_egress(&mut self) -> Result<()> {
        for ifb in ifb::find(&mut self.socket, self.attachment)? {
            shaper::unredirect(&mut self.socket, self.veth.index, ifb.index, true)?;
        }
        ifb::delete(&mut self.socket, self.attachment)
    }

    fn check(&mut self) -> Result<()> {
        let differs = |what: &str, expected: &str, found: &str| {
            Err(Error::new(Code::NOT_AS_ADDED, format!("{what}: expected {expected}, found {found}")))
        };
        let mut buckets = Vec::new();
        let ifb;
        if let Some(limit) = self.conf.ingress {
            buckets.push((device(self.veth), limit));
        }
        if let Some(limit) = self.conf.egress {
            let Some(found) = ifb::find(&mut self.socket, self.attachment)?.into_iter().next() else {
                return differs(
                    &format!("ifb of {}", self.attachment),
                    self.attachment.ifbs()[0].as_str(),
                    "none",
                );
            };
            ifb = found;
            if !ifb.up {
                return differs(&ifb.name, "up", "down");
            }
            if !shaper::is_redirected(&mut self.socket, device(self.veth), ifb.index)? {
                let what = format!("redirect of what {} receives", self.veth.name);
                return differs(&what, &format!("to {}", ifb.name), "none, or to another link");
            }
            buckets.push((device(&ifb), limit));
        }
        for (device, limit) in buckets {
            let bucket = limit.bucket(self.conf.latency);
            if let Some(found) = shaper::bucket_differs(&mut self.socket, device, &bucket)? {
                return differs(&found.what, &found.expected, &found.found);
            }
        }
        Ok(())
    }
}

/// The kernel drops a packet that is larger than the burst, always: small ones pass, connections hang.
fn warn_of_small_bursts(conf: &Conf, mtu: u32) {
    let packet = u64::from(mtu + ETHERNET_HEADER);
    for limit in
        [conf.ingress, conf.egress].into_iter().flatten().filter(|limit| limit.burst_bytes() < packet)
    {
        cni_common::log!(
            "{}Burst of {} bytes is less than a packet of {packet} bytes, which will always be dropped; give at least {} bits",
            limit.direction,
            limit.burst_bytes(),
            packet * 8
        );
    }
}
