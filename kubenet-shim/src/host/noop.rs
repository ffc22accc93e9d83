//! The plugin that does nothing for pods: it only lets netfilter see what bridges forward, so that kube-proxy's rules hold
//! for docker's bridge too.

use super::NetworkPlugin;
use super::pod::{Pod, PodStatus};
use cni_common::kernel::sysctl::{self, Key};
use cni_common::process::{self, program};
use cni_common::spec::Result;
use std::time::Duration;

/// Its name in kubelet.
pub const NAME: &str = "kubernetes.io/no-op";

/// How long a module may take to load.
const PATIENCE: Duration = Duration::from_secs(20);

/// The plugin.
pub struct Noop;

impl NetworkPlugin for Noop {
    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn origin(&self) -> String {
        "built in".to_owned()
    }

    fn init(&self) -> Result<()> {
        let_netfilter_see_bridges();
        Ok(())
    }

    fn pod_cidr_change(&self, _cidrs: &str) -> Result<()> {
        Ok(())
    }

    fn set_up(&self, _pod: &Pod) -> Result<Option<PodStatus>> {
        Ok(None)
    }

    fn tear_down(&self, _pod: &Pod) -> Result<()> {
        Ok(())
    }

    fn pod_status(&self, _pod: &Pod) -> Result<Option<PodStatus>> {
        Ok(None)
    }

    fn status(&self) -> Result<()> {
        Ok(())
    }
}

/// Loads `br_netfilter`, where there is a program to load it with, and switches it on for both families. What fails is
/// logged: a node without bridges does well without.
pub fn let_netfilter_see_bridges() {
    // As a module it may be missing, and built in there is none to load: either shows below.
    if let Some(modprobe) = program::find("modprobe") {
        let mut command = program::alone(&modprobe);
        command.arg("br_netfilter");
        let _ = process::run(command, &[], PATIENCE);
    }
    for key in [Key::BridgeCallsV4, Key::BridgeCallsV6] {
        if let Err(error) = sysctl::ensure(&key, "1") {
            cni_common::log!("can't set /proc/sys/{key} to 1: {error}; is the module br_netfilter loaded?");
        }
    }
}
