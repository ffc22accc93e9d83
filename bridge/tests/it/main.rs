//! The `bridge` plugin against real kernels: each test is a machine of its own.

mod bed;

mod attach;
mod changed;
mod cleanup;
mod failing;
mod garbage;
mod masquerade;
mod options;
