//! Which address next. Pure: it is told what is leased, and says what to take.

use crate::contents::Contents;
use crate::lease::Lease;
use crate::range::RangeSet;
use cni_common::spec::{Attachment, Code, Coded, Error, Result};
use std::net::IpAddr;

/// Fails when one of `mine`, the leases of `attachment`, is out of one of the sets.
///
/// # Errors
/// Code 101.
pub fn refuse_second(mine: &[Lease], sets: &[RangeSet], attachment: &Attachment) -> Result<()> {
    let in_sets = |ip: &IpAddr| sets.iter().any(|set| set.range_of(*ip).is_some());
    let Some(ip) = mine.iter().map(|lease| lease.ip).filter(in_sets).min() else { return Ok(()) };
    let msg = format!(
        "{ip} has been allocated to {}, duplicate allocation is not allowed",
        attachment.container_id
    );
    Err(Error::new(Code::ALREADY_ADDED, msg)
        .details(format!("the lease of {ip} by {attachment} is there; DEL it before it is added again")))
}

/// The next free address of the set with number `number`.
///
/// # Errors
/// Code 11 when there is none, code 5 when the contents can't be read.
pub fn next(number: usize, set: &RangeSet, last: Option<IpAddr>, contents: &Contents) -> Result<IpAddr> {
    let doing = "read the index of leases";
    if let Some(ip) = set.next_free(last, contents).io(doing)? {
        return Ok(ip);
    }
    let used = set.used(contents).io(doing)?;
    let msg = format!("failed to allocate for range {number}: no IP addresses available in range set: {set}");
    Err(Error::new(Code::TRY_AGAIN, msg).details(format!(
        "{used} of {} addresses are in use; free some (DEL, GC) or give the network more",
        set.size()
    )))
}

/// Fails when the requested address is its range's gateway.
///
/// # Errors
/// Code 7.
pub fn refuse_gateway(number: usize, set: &RangeSet, ip: IpAddr) -> Result<()> {
    if set.range_of(ip).is_none_or(|range| range.gateway != ip) {
        return Ok(());
    }
    Err(Error::config(format!(
        "failed to allocate for range {number}: requested ip {ip} is subnet's gateway"
    )))
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
