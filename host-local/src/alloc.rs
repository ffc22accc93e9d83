//! Which address next. Pure: it is told what is taken, and says what to take.

use crate::range::RangeSet;
use crate::store::{Holder, Lease};
use cni_common::spec::{Attachment, Code, Error, Result};
use std::collections::HashMap;
use std::net::IpAddr;

/// The leases of a network, by address.
pub struct Taken(HashMap<IpAddr, Holder>);

impl Taken {
    /// From the list of leases.
    #[must_use]
    pub fn new(leases: Vec<Lease>) -> Self {
        Self(leases.into_iter().map(|lease| (lease.ip, lease.holder)).collect())
    }

    /// How many of the set's addresses are taken.
    #[must_use]
    pub fn used(&self, set: &RangeSet) -> usize {
        self.0.keys().filter(|ip| set.range_of(**ip).is_some_and(|range| range.gateway != **ip)).count()
    }

    /// Fails when `attachment` already has an address out of one of the sets.
    ///
    /// # Errors
    /// Code 101.
    pub fn refuse_second(&self, sets: &[RangeSet], attachment: &Attachment) -> Result<()> {
        let holds = |holder: &Holder| holder.is(attachment) || holder.is_old_form_of(attachment);
        let mine = self.0.iter().filter(|(_, holder)| holds(holder)).map(|(ip, _)| *ip);
        let Some(ip) = mine.filter(|ip| sets.iter().any(|set| set.range_of(*ip).is_some())).min() else {
            return Ok(());
        };
        let msg = format!(
            "{ip} has been allocated to {}, duplicate allocation is not allowed",
            attachment.container_id
        );
        Err(Error::new(Code::ALREADY_ADDED, msg)
            .details(format!("{attachment} exists; DEL it before it is added again")))
    }

    /// The next free address of the set with number `number`.
    ///
    /// # Errors
    /// Code 11 when there is none.
    pub fn next(&self, number: usize, set: &RangeSet, last: Option<IpAddr>) -> Result<IpAddr> {
        set.candidates(last).find(|ip| !self.0.contains_key(ip)).ok_or_else(|| {
            let msg = format!(
                "failed to allocate for range {number}: no IP addresses available in range set: {set}"
            );
            Error::new(Code::TRY_AGAIN, msg).details(format!(
                "{} of {} addresses are in use; free some (DEL, GC) or give the network more",
                self.used(set),
                set.size()
            ))
        })
    }

    /// Fails when the requested address can't be had from the set with number `number`.
    ///
    /// # Errors
    /// Code 7 for a gateway, code 11 when somebody has it.
    pub fn check_requested(&self, number: usize, set: &RangeSet, ip: IpAddr) -> Result<()> {
        if set.range_of(ip).is_some_and(|range| range.gateway == ip) {
            return Err(Error::config(format!(
                "failed to allocate for range {number}: requested ip {ip} is subnet's gateway"
            )));
        }
        match self.0.get(&ip) {
            Some(holder) => Err(not_available(number, set, ip).details(format!("it is held by {holder}"))),
            None => Ok(()),
        }
    }

    /// Notes an address as taken by somebody else.
    pub fn insert(&mut self, ip: IpAddr) {
        self.0.insert(ip, Holder::Unknown("it appeared while we were looking".to_owned()));
    }
}

/// The requested address is in use.
#[must_use]
pub fn not_available(number: usize, set: &RangeSet, ip: IpAddr) -> Error {
    let msg = format!(
        "failed to allocate for range {number}: requested IP address {ip} is not available in range set {set}"
    );
    Error::new(Code::TRY_AGAIN, msg)
}

/// Deals the requested addresses out to the sets: each set takes the first that lies in it.
///
/// # Errors
/// Code 7 when some are left over.
pub fn deal(sets: &[RangeSet], requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>> {
    let mut left = requested.to_vec();
    let dealt = sets.iter().map(|set| {
        let at = left.iter().position(|ip| set.range_of(*ip).is_some())?;
        Some(left.remove(at))
    });
    let dealt = dealt.collect();
    if left.is_empty() {
        return Ok(dealt);
    }
    let list = |ips: Vec<String>| ips.join(" ");
    Err(Error::config(format!(
        "failed to allocate all requested IPs: {}",
        list(left.iter().map(ToString::to_string).collect())
    ))
    .details(format!(
        "the ranges are {}, one address from each",
        list(sets.iter().map(ToString::to_string).collect())
    )))
}
