//! The cni plugin: the first usable network of a folder of CNI configs, for every pod.

use super::pod::{Pod, PodStatus};
use super::{NetworkPlugin, dirs};
use crate::kubenet::state;
use crate::settings::Settings;
use cni_common::invoke::PluginPath;
use cni_common::runtime::{Cache, ConfList, Endpoint, Found, Runtime, discover};
use cni_common::spec::{Code, Error, Result};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// The plugin.
pub struct Cni {
    settings: Settings,
}

impl Cni {
    /// With these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self { settings: settings.clone() }
    }

    fn runtime(&self, began: Instant) -> Runtime {
        let spent = began.elapsed();
        Runtime {
            path: PluginPath::of_dirs(&self.settings.bin_dirs()),
            cache: Some(Cache::new(&self.settings.cache_dir())),
            // One budget for the loopback and the network.
            timeout: Some(self.settings.timeout().saturating_sub(spent)),
        }
    }

    /// The network: the first usable config of the first folder that has one.
    fn network(&self) -> Result<ConfList> {
        let runtime = self.runtime(Instant::now());
        let mut reasons = Vec::new();
        for dir in self.settings.conf_dirs() {
            match discover(&dir, |list| runtime.validate(list)) {
                Ok(Found { list, skipped, .. }) => {
                    for (file, why) in skipped {
                        cni_common::log!("{} is of no use and skipped: {why}", file.display());
                    }
                    return Ok(list);
                }
                Err(error) => reasons.push(format!("{}: {}", error.msg(), error.cause())),
            }
        }
        let details =
            reasons.iter().map(|reason| reason.trim_end_matches([':', ' '])).collect::<Vec<_>>().join("; ");
        Err(Error::config("cni config uninitialized").details(details))
    }

    fn loopback() -> Result<ConfList> {
        let list = json!({"cniVersion": "0.2.0", "name": "cni-loopback", "plugins": [{"type": "loopback"}]});
        ConfList::parse(list.to_string().as_bytes())
    }

    fn cidrs(&self) -> Result<Vec<IpNet>> {
        Ok(self.settings.node()?.cidrs)
    }

    fn endpoint(&self, pod: &Pod, needs_netns: bool) -> Result<Endpoint> {
        let mut endpoint = pod.endpoint(&self.settings, needs_netns)?;
        let ranges: Vec<Value> =
            self.cidrs()?.iter().map(|cidr| json!([{"subnet": cidr.to_string()}])).collect();
        if !ranges.is_empty() {
            endpoint.capabilities.insert("ipRanges".to_owned(), ranges.into());
        }
        Ok(endpoint)
    }
}

/// Some plugins fail a DEL for want of a namespace that is gone, which is what DEL is for.
fn gone_ok(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.to_string().contains("no such file or directory") => Ok(()),
        other => other,
    }
}

impl NetworkPlugin for Cni {
    fn name(&self) -> String {
        "cni".to_owned()
    }

    fn origin(&self) -> String {
        let (confs, bins) = (self.settings.conf_dirs(), self.settings.bin_dirs());
        format!("configs in {}, plugins in {}", dirs(&confs), dirs(&bins))
    }

    fn init(&self) -> Result<()> {
        Ok(())
    }

    fn pod_cidr_change(&self, cidrs: &str) -> Result<()> {
        super::kubenet::learn(&self.settings, cidrs)
    }

    fn set_up(&self, pod: &Pod) -> Result<Option<PodStatus>> {
        let began = Instant::now();
        self.status()?;
        let (network, endpoint) = (self.network()?, self.endpoint(pod, true)?);
        self.runtime(began).refuse_living(&network, &endpoint)?;
        let simple = Runtime { cache: None, ..self.runtime(began) };
        simple.add(&Self::loopback()?, &endpoint)?;
        let added = self.runtime(began).add(&network, &endpoint);
        // What is there already is another setup's.
        if added.as_ref().is_err_and(|error| error.code != Code::ALREADY_ADDED)
            && let Err(error) = self.tear_down(pod)
        {
            cni_common::log!("undo of a failed setup: {error}");
        }
        Ok(Some(PodStatus::of(&added?)))
    }

    fn tear_down(&self, pod: &Pod) -> Result<()> {
        let began = Instant::now();
        let (network, endpoint) = (self.network()?, self.endpoint(pod, false)?);
        let simple = Runtime { cache: None, ..self.runtime(began) };
        if let Err(error) = gone_ok(simple.del(&Self::loopback()?, &endpoint)) {
            cni_common::log!("loopback of {}/{}: {error}", pod.namespace, pod.name);
        }
        gone_ok(self.runtime(began).del(&network, &endpoint))
    }

    fn pod_status(&self, pod: &Pod) -> Result<Option<PodStatus>> {
        pod.addresses(&self.settings)
    }

    fn status(&self) -> Result<()> {
        let network = self.network()?;
        if network.takes("ipRanges") && self.cidrs()?.is_empty() {
            let since = state::waiting_since(Path::new(&self.settings.state_dir()));
            let since = since.map(|time| format!("; waited for since {time}")).unwrap_or_default();
            return Err(Error::new(Code::NOT_AVAILABLE, "cni config needs ipRanges but no PodCIDR set")
                .details(format!("`kubenet-shim event pod-cidr-change CIDR` or --pod-cidr sets it{since}")));
        }
        Ok(())
    }
}
