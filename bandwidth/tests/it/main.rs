//! The `bandwidth` plugin against real kernels: each test is a machine of its own.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

mod bed;

mod checked;
mod cleanup;
mod faults;
mod refused;
mod shaped;
