//! Plugins by their documented options.

mod bandwidth;
mod bridge;
mod firewall;
mod host_local;
mod loopback;
mod macvlan;
mod portmap;
mod ptp;
mod tuning;

use crate::suite::Case;

/// The cases of all of them.
pub fn all() -> Vec<&'static [Case]> {
    vec![
        bridge::CASES,
        host_local::CASES,
        loopback::CASES,
        portmap::CASES,
        bandwidth::CASES,
        firewall::CASES,
        tuning::CASES,
        ptp::CASES,
        macvlan::CASES,
    ]
}
