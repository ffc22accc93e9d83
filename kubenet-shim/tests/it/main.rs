//! `kubenet-shim` through each of its doors, with our plugins and real kernels: each test is a machine of its own.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

mod bed;

mod cni_door;
mod exec_door;
mod host_door;
mod ranges;
mod reconciled;
