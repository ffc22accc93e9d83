//! The end of the container's veth pair that the host has.

use cni_common::kernel::netlink::{Link, Socket, link};
use cni_common::kernel::netns::Netns;
use cni_common::spec::{Error, IfName, Result, Success};

/// The link of the host that is the other end of `ifname` in the container, and that `prev` lists.
///
/// # Errors
/// Code 7 when the plugins before us made no such pair, or did not say so; code 5 when the kernel can't be asked.
pub fn host_end(netns: &Netns, ifname: &IfName, prev: &Success, host: &mut Socket) -> Result<Link> {
    if prev.interfaces.is_empty() {
        return Err(Error::config("no interfaces provided")
            .details("prevResult has an empty \"interfaces\"; bandwidth shapes the host's end of a veth pair that it lists"));
    }
    let inside = netns.run(|| Ok(link::find(&mut Socket::route()?, ifname)?))?;
    let no_peer = |why: &str| {
        Err(Error::config(format!("container interface {ifname} has no veth peer: {why}"))
            .details("bandwidth shapes veth pairs only: put it behind a plugin that makes one (bridge, ptp)"))
    };
    let Some(inside) = inside else { return no_peer("there is no such interface") };
    if !inside.is_veth() {
        return no_peer(&format!("it is of kind {}", inside.kind_name()));
    }
    let Some(peer) = inside.bound_to else { return no_peer("the kernel names none") };
    let Some(outside) = link::peer(host, &inside)? else {
        return Err(Error::config(format!("veth peer with index {peer} is not in host ns")));
    };
    let listed = prev.interfaces.iter().any(|one| one.sandbox.is_empty() && one.name == outside.name);
    if !listed {
        let names: Vec<&str> = prev
            .interfaces
            .iter()
            .filter(|one| one.sandbox.is_empty())
            .map(|one| one.name.as_str())
            .collect();
        return Err(Error::config("no veth peer of container interface found in host ns").details(format!(
            "the peer of {ifname} is {}; prevResult's interfaces without a sandbox are [{}]",
            outside.name,
            names.join(", ")
        )));
    }
    Ok(outside)
}
