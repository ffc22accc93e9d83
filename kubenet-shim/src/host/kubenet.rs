//! kubenet, as a plugin of the host.

use super::pod::{Pod, PodStatus};
use super::{NetworkPlugin, dirs, noop};
use crate::cidr;
use crate::kubenet::{Node, pods, state};
use crate::settings::Settings;
use cni_common::runtime::Endpoint;
use cni_common::spec::Result;

/// The plugin.
pub struct Kubenet {
    settings: Settings,
}

impl Kubenet {
    /// With these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone() }
    }

    fn endpoint(&self, pod: &Pod, needs_netns: bool) -> Result<Endpoint> {
        pod.endpoint(&self.settings, needs_netns)
    }
}

/// Takes note of the node's range: the first is kept, a later one replaces it where the settings allow. Logs what was
/// done.
///
/// # Errors
/// Code 7 when any of the list is wrong; then what was in force stays.
pub fn learn(settings: &Settings, text: &str) -> Result<()> {
    let told = cidr::pod_cidrs(text)?;
    let state_dir = settings.state_dir();
    let kept = state::pod_cidrs(&state_dir)?;
    if kept == told {
        return Ok(());
    }
    if !kept.is_empty() && !settings.reconciles_cidr() {
        cni_common::log!(
            "Ignoring subsequent pod CIDR update to {} (--reconcile-cidr=false): {} stays",
            cidr::to_text(&told),
            cidr::to_text(&kept)
        );
        return Ok(());
    }
    state::keep_pod_cidrs(&state_dir, &told)?;
    match kept.as_slice() {
        [] => cni_common::log!("pod CIDR is {}", cidr::to_text(&told)),
        _ => cni_common::log!("pod CIDR is {}, was {}", cidr::to_text(&told), cidr::to_text(&kept)),
    }
    Ok(())
}

/// Brings what pods share to what it should be, and logs what had to be changed. Without a range there is nothing to do yet.
///
/// # Errors
/// Code 5: what the kernel says.
pub fn ensure_shared(node: &Node) -> Result<()> {
    if node.cidrs.is_empty() {
        return Ok(());
    }
    let mut changed = Vec::new();
    let ensured = pods::ensure_shared(node, &mut changed);
    for what in changed {
        cni_common::log!("{what}");
    }
    ensured.map(drop)
}

impl NetworkPlugin for Kubenet {
    fn name(&self) -> String {
        "kubenet".to_owned()
    }

    fn origin(&self) -> String {
        format!("plugins in {}", dirs(&self.settings.bin_dirs()))
    }

    fn init(&self) -> Result<()> {
        noop::let_netfilter_see_bridges();
        if self.settings.configures_cbr0() {
            cni_common::log!(
                "--configure-cbr0 is superseded by --network-plugin=kubenet, which does the same and more"
            );
        }
        if let Some(text) = self.settings.pod_cidr() {
            learn(&self.settings, text)?;
        }
        let node = self.settings.node_in_use()?;
        if node.cidrs.is_empty() {
            state::wait_for_pod_cidrs(&node.state_dir)?;
        }
        ensure_shared(&node)
    }

    fn pod_cidr_change(&self, cidrs: &str) -> Result<()> {
        learn(&self.settings, cidrs)?;
        ensure_shared(&self.settings.node()?)
    }

    fn set_up(&self, pod: &Pod) -> Result<Option<PodStatus>> {
        let node = self.settings.node()?;
        // Before the runtime is asked for anything.
        node.ready().map_err(|error| error.context("kubenet cannot SetUpPod"))?;
        let success = pods::set_up(&node, &self.endpoint(pod, true)?)?;
        Ok(Some(PodStatus::of(&success)))
    }

    fn tear_down(&self, pod: &Pod) -> Result<()> {
        pods::tear_down(&self.settings.node()?, &self.endpoint(pod, false)?)
    }

    fn pod_status(&self, pod: &Pod) -> Result<Option<PodStatus>> {
        let node = self.settings.node()?;
        let kept = pods::addresses(&node, &pod.id);
        match kept {
            Some(ips) if !ips.is_empty() => Ok(Some(PodStatus { ips })),
            _ => pod.addresses(&self.settings),
        }
    }

    fn status(&self) -> Result<()> {
        self.settings.node()?.ready()
    }
}
