//! The `portmap` plugin behind `bridge`, against real kernels and real traffic: each test is a machine of its own.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

mod bed;

mod cleanup;
mod conflicts;
mod faults;
mod flushed;
mod networks;
mod reached;
mod refused;
mod traffic;

/// Whose ports are mapped; a kernel with SCTP is what the target `sctp` is for.
fn transports() -> Vec<cni_harness::traffic::Transport> {
    use cni_harness::traffic::Transport;
    vec![Transport::Tcp, Transport::Udp]
}
