//! The `host-local` IPAM plugin: hands out addresses from ranges, and keeps who has them in a folder on this host.
//!
//! [`range`] says which addresses there are, [`alloc`] which one is next, [`store`] what is on disk. All sets of one
//! ADD are taken under one lock, or none is.

pub mod alloc;
pub mod conf;
pub mod dns;
pub mod range;
pub mod store;

use alloc::{Taken, deal, not_available};
use cni_common::plugin::{Added, Plugin, Request, Target};
use cni_common::spec::result::Dns;
use cni_common::spec::{Attachment, Code, Coded, Error, IpConfig, Result, Success};
use cni_common::undo::Undo;
use conf::{Conf, read_data_dir};
use std::net::IpAddr;
use std::path::Path;
use store::{Holder, Lease, Locked, Store};

/// The plugin.
pub struct HostLocal;

impl Plugin for HostLocal {
    fn name(&self) -> &'static str {
        "host-local"
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        let conf = Conf::read(request)?;
        let dns = conf.resolv_conf.as_deref().map(read_resolv_conf).transpose()?.unwrap_or_default();
        let store = Store::new(&conf.data_dir, &request.conf.name);
        let ips = allocate(&conf, &store, &target.attachment)?;
        let mut undo = Undo::default();
        let (attachment, given) = (target.attachment.clone(), ips.clone());
        undo.push("leases", move || Ok(give_back(&store.lock()?, &attachment, &given)?));
        Ok(Added { success: result(&conf, &ips, dns), undo })
    }

    fn del(&self, request: &Request, target: &Target) -> Result<()> {
        let store = Store::new(&read_data_dir(&request.conf)?, &request.conf.name);
        let Some(locked) = store.lock_existing()? else { return Ok(()) };
        let leases = locked.leases()?;
        for lease in leases_of(&leases, &target.attachment) {
            locked.release(lease.ip)?;
        }
        Ok(())
    }

    fn check(&self, request: &Request, target: &Target) -> Result<()> {
        let conf = Conf::read(request)?;
        let leases = Store::new(&conf.data_dir, &request.conf.name).leases()?;
        let attachment = &target.attachment;
        let mine = leases_of(&leases, attachment);
        if mine.is_empty() {
            let msg =
                format!("host-local: Failed to find address added by container {}", attachment.container_id);
            return Err(
                Error::new(Code::NOT_AS_ADDED, msg).details(format!("there is no lease of {attachment}"))
            );
        }
        let given =
            request.conf.prev_result()?.unwrap_or_default().ips.into_iter().map(|ip| ip.address.addr());
        for ip in given.filter(|ip| conf.sets.iter().any(|set| set.range_of(*ip).is_some())) {
            if !mine.iter().any(|lease| lease.ip == ip) {
                let found = leases.iter().find(|lease| lease.ip == ip);
                let found = found.map_or("nobody".to_owned(), |lease| lease.holder.to_string());
                let msg = format!("host-local: {ip} is not leased to {attachment}");
                return Err(Error::new(Code::NOT_AS_ADDED, msg)
                    .details(format!("expected: {attachment}, found: {found}")));
            }
        }
        Ok(())
    }

    fn gc(&self, request: &Request, valid: &[Attachment]) -> Result<()> {
        let store = Store::new(&read_data_dir(&request.conf)?, &request.conf.name);
        let Some(locked) = store.lock_existing()? else { return Ok(()) };
        let lives = |holder: &Holder| valid.iter().any(|one| holder.is(one) || holder.is_old_form_of(one));
        let mut failed = None;
        for Lease { ip, holder } in locked.leases()?.into_iter().filter(|lease| !lives(&lease.holder)) {
            match locked.release(ip) {
                Ok(()) => {
                    eprintln!("host-local: GC of network {} freed {ip}, held by {holder}", request.conf.name);
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn status(&self, request: &Request) -> Result<()> {
        let unavailable = |error: Error| Error::new(Code::NOT_AVAILABLE, error.msg()).details(error.cause());
        let conf = Conf::read(request).map_err(unavailable)?;
        let store = Store::new(&conf.data_dir, &request.conf.name);
        store.check_writable().map_err(unavailable)?;
        let taken = Taken::new(store.leases().map_err(unavailable)?);
        for (number, set) in conf.sets.iter().enumerate() {
            taken.next(number, set, None).map_err(unavailable)?;
        }
        Ok(())
    }
}

/// Takes one address from each set for `attachment`, all of them or none.
fn allocate(conf: &Conf, store: &Store, attachment: &Attachment) -> Result<Vec<IpAddr>> {
    let dealt = deal(&conf.sets, &conf.requested)?;
    let locked = store.lock()?;
    let mut taken = Taken::new(locked.leases()?);
    taken.refuse_second(&conf.sets, attachment)?;
    let mut ips = Vec::new();
    for (number, requested) in dealt.into_iter().enumerate() {
        match take(&locked, &mut taken, (number, conf), requested, attachment) {
            Ok(ip) => ips.push(ip),
            Err(error) => {
                give_back(&locked, attachment, &ips)?;
                return Err(error);
            }
        }
    }
    // Only now: an ADD that fails must not move the place where the next one looks.
    for (number, ip) in ips.iter().enumerate() {
        locked.note_last_reserved(number, *ip);
    }
    Ok(ips)
}

fn take(
    locked: &Locked,
    taken: &mut Taken,
    (number, conf): (usize, &Conf),
    requested: Option<IpAddr>,
    attachment: &Attachment,
) -> Result<IpAddr> {
    let set = &conf.sets[number];
    if let Some(ip) = requested {
        taken.check_requested(number, set, ip)?;
        return if locked.reserve(ip, attachment)? { Ok(ip) } else { Err(not_available(number, set, ip)) };
    }
    let last = locked.last_reserved(number);
    loop {
        let ip = taken.next(number, set, last)?;
        if locked.reserve(ip, attachment)? {
            return Ok(ip);
        }
        // Somebody who does not hold the lock made it since.
        taken.insert(ip);
    }
}

/// Frees the addresses that an ADD took, where they are still its own.
fn give_back(locked: &Locked, attachment: &Attachment, ips: &[IpAddr]) -> Result<()> {
    let leases = locked.leases()?;
    for lease in leases.iter().filter(|lease| ips.contains(&lease.ip) && lease.holder.is(attachment)) {
        locked.release(lease.ip)?;
    }
    Ok(())
}

/// The leases of `attachment`; only when it has none by its full name, those that old releases gave its container.
fn leases_of<'a>(leases: &'a [Lease], attachment: &Attachment) -> Vec<&'a Lease> {
    let exact: Vec<_> = leases.iter().filter(|lease| lease.holder.is(attachment)).collect();
    if !exact.is_empty() {
        return exact;
    }
    leases.iter().filter(|lease| lease.holder.is_old_form_of(attachment)).collect()
}

fn result(conf: &Conf, ips: &[IpAddr], dns: Dns) -> Success {
    let ranges = conf.sets.iter().zip(ips).filter_map(|(set, ip)| Some((set.range_of(*ip)?, *ip)));
    let ips = ranges.map(|(range, ip)| IpConfig {
        address: range.with_prefix(ip),
        gateway: Some(range.gateway),
        interface: None,
    });
    Success { ips: ips.collect(), routes: conf.routes.clone(), dns, ..Success::default() }
}

fn read_resolv_conf(path: &Path) -> Result<Dns> {
    let text = std::fs::read(path).io(format!("read ipam.resolvConf {}", path.display()))?;
    Ok(dns::parse(&String::from_utf8_lossy(&text)))
}
