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
mod refused;
mod traffic;
