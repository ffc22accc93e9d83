//! What a plugin that makes an interface is made of: functions and small types, from which each plugin tells its own
//! story in its `lib.rs`.
//!
//! * [`conf`]: keys that several of them have.
//! * [`l3`]: the addresses and routes that IPAM gave.
//! * [`site`]: where an ADD works. The host, the container, and the way back; configuring the interface there.
//! * [`check`]: whether the interface is as ADD left it.
//! * [`leave`]: taking it away again.
//! * [`masquerade`]: what containers send out of their subnet gets the host's address.

pub mod check;
pub mod conf;
pub mod l3;
pub mod leave;
pub mod masquerade;
pub mod site;
