//! Kubelet's network-plugin layer, as one program with three doors.
//!
//! * As a CNI plugin ([`plugin`]): type `kubenet-shim`, the whole of kubenet behind one entry of a config.
//! * As the plugin host ([`cli`], [`host`]): kubelet's flags, and the plugins that it had: noop, exec, cni and kubenet.
//! * As an exec plugin of a kubelet: `init`, `setup`, `teardown`, `status` in its folder; the same words as the host's.

pub mod cidr;
pub mod cli;
pub mod conf;
pub mod conflist;
pub mod doctor;
pub mod host;
pub mod kubenet;
pub mod limits;
pub mod plugin;
pub mod quantity;
pub mod reconcile;
pub mod settings;
