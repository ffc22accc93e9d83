//! The `host-local` IPAM plugin: hands out addresses from ranges, and keeps who has them in a folder on this host.
//!
//! [`range`] says which addresses there are, [`alloc`] which one is next, [`store`] what is on disk; [`index`] and
//! [`contents`] make that quick however many leases there are. All sets of one ADD are taken under one lock, or none is.

pub mod alloc;
pub mod conf;
pub mod contents;
pub mod dns;
pub mod index;
pub mod lease;
pub mod memory;
pub mod range;
pub mod record;
pub mod store;
pub mod view;

use alloc::{deal, not_available, refuse_gateway, refuse_second};
use cni_common::disk;
use cni_common::owner::Living;
use cni_common::plugin::{Added, Outcome, Plugin, Request, Target};
use cni_common::spec::result::Dns;
use cni_common::spec::{Attachment, Code, Coded, Error, IpConfig, Result, Success};
use cni_common::undo::Undo;
use conf::{Conf, read_data_dir, read_quarantine};
use contents::Contents;
use lease::{Holder, Lease};
use range::RangeSet;
use record::HolderHash;
use std::collections::HashSet;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;
use store::{Locked, Store};

/// The plugin.
pub struct HostLocal;

impl Plugin for HostLocal {
    fn name(&self) -> &'static str {
        "host-local"
    }

    fn is_ipam(&self) -> bool {
        true
    }

    fn command_line(&self, words: &[OsString]) -> Option<ExitCode> {
        (!words.is_empty()).then(|| view::main(words))
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        let conf = Conf::read(request)?;
        let dns = conf.resolv_conf.as_deref().map(read_resolv_conf).transpose()?.unwrap_or_default();
        let store = Store::new(&conf.data_dir, &request.conf.name);
        let ips = allocate(&conf, &store, &target.attachment)?;
        let mut undo = Undo::default();
        let (attachment, given) = (target.attachment.clone(), ips.clone());
        undo.push("leases", move || Ok(give_back(&store, &attachment, &given)?));
        Ok(Added { success: result(&conf, &ips, dns), undo })
    }

    fn del(&self, request: &Request, target: &Target) -> Result<()> {
        let store = Store::new(&read_data_dir(&request.conf)?, &request.conf.name);
        let Some(mut locked) = store.lock_existing()? else { return Ok(()) };
        let mine = locked.leases_of(&target.attachment)?;
        let mine: Vec<IpAddr> = mine.into_iter().map(|lease| lease.ip).collect();
        mine.iter().try_for_each(|ip| locked.release(*ip))?;
        locked.note_freed(&mine, read_quarantine(&request.conf));
        locked.finish();
        Ok(())
    }

    fn check(&self, request: &Request, target: &Target) -> Result<()> {
        let conf = Conf::read(request)?;
        let store = Store::new(&conf.data_dir, &request.conf.name);
        let attachment = &target.attachment;
        let mine = store.leases_of(attachment)?;
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
                let found = store.holder_of(ip).map_or("nobody".to_owned(), |holder| holder.to_string());
                let msg = format!("host-local: {ip} is not leased to {attachment}");
                return Err(Error::new(Code::NOT_AS_ADDED, msg)
                    .details(format!("expected: {attachment}, found: {found}")));
            }
        }
        Ok(())
    }

    fn gc(&self, request: &Request, living: &Living) -> Result<()> {
        let store = Store::new(&read_data_dir(&request.conf)?, &request.conf.name);
        let Some(mut locked) = store.lock_existing()? else { return Ok(()) };
        let valid: HashSet<(&str, &str)> =
            living.attachments.iter().map(|one| (one.container_id.as_str(), one.ifname.as_str())).collect();
        let containers: HashSet<&str> = valid.iter().map(|(id, _)| *id).collect();
        let lives = |holder: &Holder| match holder {
            Holder::Attachment { container_id, ifname } => valid.contains(&(container_id, ifname)),
            Holder::Container(id) => containers.contains(id.as_str()),
            Holder::Unknown(_) => false,
            // A disk that fails to read a lease does not end it.
            Holder::Unreadable(_) => true,
        };
        let (mut outcome, mut freed) = (Outcome::default(), Vec::new());
        for Lease { ip, holder } in locked.leases()? {
            if let Holder::Unreadable(why) = &holder {
                let msg = format!("read the lease of {ip}, which is kept");
                outcome.note(Err(Error::new(Code::IO, msg).details(why)));
            }
            if lives(&holder) {
                continue;
            }
            match locked.release(ip) {
                Ok(()) => {
                    freed.push(ip);
                    cni_common::log!("GC of network {} freed {ip}, held by {holder}", request.conf.name);
                }
                failed => outcome.note(failed),
            }
        }
        locked.note_freed(&freed, read_quarantine(&request.conf));
        locked.finish();
        outcome.first_error()
    }

    fn status(&self, request: &Request) -> Result<()> {
        let conf = Conf::read(request)?;
        let store = Store::new(&conf.data_dir, &request.conf.name);
        store.check_writable()?;
        if conf.reclaim_after_reboot && store.is_of_earlier_boot() {
            // The next ADD frees what is too old.
            return Ok(());
        }
        let contents = store.contents()?;
        for (number, set) in conf.sets.iter().enumerate() {
            match alloc::next(number, set, None, &contents) {
                // A runtime takes a failing STATUS for a broken network, and the pods that run for lost. They
                // are well.
                Err(error) if error.code == Code::TRY_AGAIN => cni_common::log!(
                    "network {} has no address left for another container: {error}",
                    request.conf.name
                ),
                other => drop(other?),
            }
        }
        Ok(())
    }
}

/// Takes one address from each set for `attachment`, all of them or none.
fn allocate(conf: &Conf, store: &Store, attachment: &Attachment) -> Result<Vec<IpAddr>> {
    let dealt = deal(&conf.sets, &conf.requested)?;
    let mut locked = store.lock()?;
    if conf.reclaim_after_reboot {
        locked.reclaim_after_reboot()?;
    }
    let (mut contents, mine) = locked.survey(attachment)?;
    let mut quarantined = locked.quarantined(conf.quarantine);
    quarantined.retain(|ip| contents.contains(*ip).is_ok_and(|leased| !leased));
    for ip in &quarantined {
        contents.insert(*ip, HolderHash::UNKNOWN);
    }
    refuse_second(&mine, &conf.sets, attachment)?;
    let mut ips = Vec::new();
    for (number, (set, requested)) in conf.sets.iter().zip(dealt).enumerate() {
        let last = locked.last_reserved(number);
        let next = |contents: &mut Contents| {
            let found = alloc::next(number, set, last, contents);
            if !found.as_ref().is_err_and(|error| error.code == Code::TRY_AGAIN) || quarantined.is_empty() {
                return found;
            }
            // Nothing else is left.
            for ip in &quarantined {
                contents.remove(*ip);
            }
            alloc::next(number, set, last, contents)
        };
        let taken = if let Some(ip) = requested {
            take_requested(&mut locked, number, set, ip, attachment)
        } else {
            take_next(&mut locked, &mut contents, next, attachment)
        };
        match taken {
            Ok(ip) => ips.push(ip),
            Err(error) => {
                ips.iter().try_for_each(|ip| locked.release(*ip))?;
                locked.finish();
                let exhausted = requested.is_none() && error.code == Code::TRY_AGAIN;
                return Err(if exhausted { name_oldest(&error, store, set) } else { error });
            }
        }
    }
    // Only now: an ADD that fails must not move the place where the next one looks.
    for (number, ip) in ips.iter().enumerate() {
        locked.note_last_reserved(number, *ip);
    }
    locked.finish();
    Ok(ips)
}

/// Leases that nobody ever freed are the old ones: tells where to look.
fn name_oldest(error: &Error, store: &Store, set: &RangeSet) -> Error {
    const SOME: usize = 3;
    let age = |since: SystemTime| match SystemTime::now().duration_since(since).unwrap_or_default().as_secs()
    {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    };
    let oldest = store.oldest(SOME, |ip| set.range_of(ip).is_some());
    let oldest = oldest
        .into_iter()
        .map(|(lease, since)| format!("{} by {} for {}", lease.ip, lease.holder, age(since)));
    let details = format!("{}; held longest: {}", error.cause(), oldest.collect::<Vec<_>>().join(", "));
    Error::new(error.code, error.msg()).details(details)
}

fn take_requested(
    locked: &mut Locked,
    number: usize,
    set: &RangeSet,
    ip: IpAddr,
    attachment: &Attachment,
) -> Result<IpAddr> {
    refuse_gateway(number, set, ip)?;
    if locked.reserve(ip, attachment)? {
        return Ok(ip);
    }
    let holder = locked.holder_of(ip).map_or("nobody any more".to_owned(), |holder| holder.to_string());
    Err(not_available(number, set, ip).details(format!("it is held by {holder}")))
}

fn take_next(
    locked: &mut Locked,
    contents: &mut Contents,
    next: impl Fn(&mut Contents) -> Result<IpAddr>,
    attachment: &Attachment,
) -> Result<IpAddr> {
    // The leases are the truth: when the index can't be read, or says of a leased address that it is free, they are asked.
    match next(contents) {
        Ok(ip) if locked.reserve(ip, attachment)? => return Ok(ip),
        Err(error) if error.code != Code::IO => return Err(error),
        _ => {}
    }
    *contents = locked.contents_anew()?;
    loop {
        let ip = next(contents)?;
        if locked.reserve(ip, attachment)? {
            return Ok(ip);
        }
        // Something is in the way that is no lease. An address that was tried is not tried again, so this ends.
        contents.insert(ip, HolderHash::UNKNOWN);
    }
}

/// Frees the addresses that an ADD took, where they are still its own.
fn give_back(store: &Store, attachment: &Attachment, ips: &[IpAddr]) -> Result<()> {
    let mut locked = store.lock()?;
    let mine = locked.leases_of(attachment)?;
    for lease in mine.iter().filter(|lease| ips.contains(&lease.ip)) {
        locked.release(lease.ip)?;
    }
    locked.finish();
    Ok(())
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
    // What resolvers read is a few lines.
    const MOST: u64 = 1 << 20;
    let text = disk::read_given(path, MOST).io(format!("read ipam.resolvConf {}", path.display()))?;
    Ok(dns::parse(&String::from_utf8_lossy(&text)))
}
