//! The words of the CNI specification: data only, no I/O.

pub mod addr;
pub mod command;
pub mod compat;
pub mod conf;
pub mod error;
pub mod json;
pub mod name;
mod print;
pub mod result;
pub mod version;

pub use addr::MacAddr;
pub use command::Command;
pub use error::{Code, Coded, Error, Result};
pub use name::{Attachment, ContainerId, IfName, NetworkName};
pub use result::{Interface, IpConfig, Route, Success};
pub use version::SpecVersion;
