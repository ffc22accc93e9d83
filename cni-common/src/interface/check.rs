//! CHECK of an interface inside a container: is it as ADD left it? Each failure says what was expected and what is there.

use crate::kernel::netlink::{Link, Socket, addr, link, route};
use crate::spec::{Attachment, Code, Error, Interface, IpConfig, Result, Route, Success};
use ipnet::IpNet;
use std::fmt::Display;

/// What CHECK is told of an attachment.
pub struct Told<'a> {
    /// Whose attachment it is.
    pub attachment: &'a Attachment,
    /// The container's namespace as `CNI_NETNS` names it.
    pub sandbox: &'a str,
    /// What ADD, and the plugins after us, answered.
    pub prev: &'a Success,
}

impl Told<'_> {
    /// The result's interface of that name on the host.
    #[must_use]
    pub fn on_host(&self, name: &str) -> Option<&Interface> {
        self.prev.interfaces.iter().find(|interface| interface.name == name && interface.sandbox.is_empty())
    }

    /// The interface inside the container, which is of the kind `wanted`, where the result says, with its address.
    ///
    /// # Errors
    /// Code 100 with what is not so.
    pub fn container(&self, inside: &mut Socket, wanted: &str) -> Result<Link> {
        let ifname = &self.attachment.ifname;
        let listed =
            self.prev.interfaces.iter().find(|one| one.name == ifname.as_str() && !one.sandbox.is_empty());
        let listed = listed.ok_or_else(|| {
            Error::differs("prevResult", format!("the interface {ifname}"), "no such interface")
        })?;
        if listed.sandbox != self.sandbox {
            let msg = format!(
                "Sandbox in prevResult {} doesn't match configured netns: {}",
                listed.sandbox, self.sandbox
            );
            return Err(Error::new(Code::NOT_AS_ADDED, msg));
        }
        let link = link::find(inside, ifname)?;
        let link = link.ok_or_else(|| {
            Error::differs(format!("{ifname} in the container"), format!("a {wanted}"), "nothing")
        })?;
        same(format!("kind of {ifname} in the container"), wanted, link.kind_name())?;
        same_mac(&link, listed)?;
        Ok(link)
    }

    /// The interface is up.
    ///
    /// # Errors
    /// Code 100 when it is not.
    pub fn is_up(&self, link: &Link) -> Result<()> {
        let state = |up| if up { "up" } else { "down" };
        same(format!("state of {} in the container", link.name), state(true), state(link.up))
    }

    /// The addresses of the result that are ours: those of other interfaces are other plugins'.
    pub fn own_ips(&self) -> impl Iterator<Item = &IpConfig> {
        let is_ours = |index: i64| {
            let interface = usize::try_from(index).ok().and_then(|index| self.prev.interfaces.get(index));
            interface
                .is_some_and(|one| one.name == self.attachment.ifname.as_str() && one.sandbox == self.sandbox)
        };
        self.prev.ips.iter().filter(move |ip| ip.interface.is_none_or(is_ours))
    }

    /// The addresses of the result are there.
    ///
    /// # Errors
    /// Code 100 with the first that is missing.
    pub fn addresses(&self, inside: &mut Socket, container: &Link) -> Result<()> {
        let have: Vec<IpNet> = addr::list(inside, container.index)?.iter().map(|addr| addr.net).collect();
        if let Some(ip) = self.own_ips().find(|ip| !have.contains(&ip.address)) {
            return Err(Error::differs(format!("addresses of {}", container.name), ip.address, list(&have)));
        }
        Ok(())
    }

    /// The result's routes lead over our interface: another network of the container may have one to the same
    /// destination.
    ///
    /// # Errors
    /// Code 100 with the first that is missing.
    pub fn routes(&self, inside: &mut Socket, container: &Link) -> Result<()> {
        let have = route::list(inside)?;
        for wanted in &self.prev.routes {
            let same_dst: Vec<_> = have
                .iter()
                .filter(|found| found.link == Some(container.index))
                .map(|found| &found.route)
                .filter(|found| found.dst == wanted.dst.trunc())
                .collect();
            if !same_dst.iter().any(|found| fulfils(found, wanted)) {
                let found: Vec<String> = same_dst.into_iter().map(show_route).collect();
                return Err(Error::differs("routes in the container", show_route(wanted), list(&found)));
            }
        }
        Ok(())
    }
}

/// Two things that have to be the same.
///
/// # Errors
/// Code 100 when they are not.
pub fn same<T: PartialEq + Display>(what: impl Display, expected: T, found: T) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::differs(what, expected, found)) }
}

/// A link's address, for people.
#[must_use]
pub fn mac_of(link: &Link) -> String {
    link.mac.map_or("none".to_owned(), |mac| mac.to_string())
}

/// An interface that the result lists with its MAC still has it.
///
/// # Errors
/// Code 100 when it has another.
pub fn same_mac(link: &Link, listed: &Interface) -> Result<()> {
    let given = listed.mac.to_ascii_lowercase();
    if given.is_empty() { Ok(()) } else { same(format!("address of {}", link.name), given, mac_of(link)) }
}

/// Whether a route that the kernel has is the one that the result tells of. What the result leaves open, it may have
/// any way.
fn fulfils(found: &Route, wanted: &Route) -> bool {
    let table = wanted.table.filter(|table| *table != 0).unwrap_or(route::MAIN_TABLE);
    found.table == Some(table)
        && wanted.gw.is_none_or(|gw| gw.is_unspecified() || found.gw == Some(gw))
        && [(wanted.priority, found.priority), (wanted.mtu, found.mtu), (wanted.advmss, found.advmss)]
            .iter()
            .all(|(wanted, found)| *wanted == 0 || wanted == found)
        // The kernel keeps no scope for IPv6.
        && (wanted.dst.addr().is_ipv6() || wanted.scope.is_none_or(|scope| found.scope == Some(scope)))
}

fn show_route(route: &Route) -> String {
    let optional =
        |name: &str, value: Option<String>| value.map_or(String::new(), |value| format!(" {name} {value}"));
    let number = |name: &str, value: u32| optional(name, (value != 0).then(|| value.to_string()));
    format!(
        "{}{}{}{}{}{}{}",
        route.dst,
        optional("via", route.gw.map(|gw| gw.to_string())),
        number("mtu", route.mtu),
        number("advmss", route.advmss),
        number("priority", route.priority),
        optional("table", route.table.map(|table| table.to_string())),
        optional("scope", route.scope.map(|scope| scope.to_string())),
    )
}

/// The items, for people.
#[must_use]
pub fn list<T: Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
