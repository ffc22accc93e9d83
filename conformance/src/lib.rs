//! `cni-conformance`: [`suite`] judges any folder of plugins by [`cases`], and [`report`] tells; [`compare`] puts two
//! folders side by side, and [`bench`] times them. [`chains`] are what [`faults`] breaks and [`load`] uses by the
//! thousand. All of it stands on `cni_harness`.

pub mod bench;
pub mod cases;
pub mod chains;
pub mod cli;
pub mod compare;
pub mod faults;
pub mod load;
pub mod report;
pub mod suite;
