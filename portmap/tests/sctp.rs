//! SCTP through mapped ports, on kernels that have it. `scripts/test-vm` brings such a kernel; on a machine that has one,
//! `cargo test --package portmap --test sctp` does as well.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
#[path = "it/bed.rs"]
mod bed;
#[path = "it/reached.rs"]
mod reached;

use cni_harness::traffic::Transport;

/// Whose ports are mapped.
fn transports() -> Vec<Transport> {
    vec![Transport::Sctp]
}
