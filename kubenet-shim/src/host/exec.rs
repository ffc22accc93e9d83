//! Plugins that are programs of their own: `DIR/NAME/NAME init | setup | teardown | status`, as kubelet called them until 1.5.

use super::NetworkPlugin;
use super::pod::{Pod, PodStatus};
use crate::settings::Settings;
use cni_common::invoke::distrust;
use cni_common::process::Process;
use cni_common::spec::{Code, Error, Result};
use serde::Deserialize;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Set for an exec plugin, so that this program, named as its own exec plugin, refuses instead of going round in circles.
pub const MARK: &str = "KUBENET_SHIM_EXEC";

/// An exec plugin.
pub struct Exec {
    name: String,
    program: PathBuf,
    timeout: Duration,
}

/// The exec plugins of the plugin folder. A folder that can't be read has none.
pub fn probe(settings: &Settings) -> Vec<Exec> {
    let entries = std::fs::read_dir(settings.plugin_dir()).into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    let plugin = |dir: PathBuf| {
        // A vendor's plugin has its domain in front: `vendor~NAME/NAME` is `vendor/NAME`.
        let name = dir.file_name()?.to_str()?.replace('~', "/");
        let program = dir.join(name.rsplit('/').next()?);
        Some(Exec { name, program, timeout: settings.timeout() })
    };
    dirs.into_iter().filter_map(plugin).collect()
}

impl Exec {
    fn run(&self, action: &str, pod: Option<&Pod>) -> Result<Vec<u8>> {
        if std::env::var_os(MARK).is_some() {
            return Err(Error::config(format!("exec plugin {:?} is called by an exec plugin", self.name))
                .details("kubenet-shim as an exec plugin runs kubenet or cni, no exec plugin"));
        }
        // Its own folder, and the one that all of them are in.
        self.program.ancestors().skip(1).take(2).for_each(distrust);
        let mut command = Command::new(&self.program);
        command.arg(action).env(MARK, "1");
        if let Some(pod) = pod {
            command.args([&pod.namespace, &pod.name]).arg(pod.id.as_str());
        }
        let running = Process::start(command, format!("exec plugin {:?}", self.name), &[])?;
        let output = running.output(Some(Instant::now() + self.timeout))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !stderr.is_empty() {
            cni_common::log!("{} {action}: {}", self.name, stderr.trim_end());
        }
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stdout);
        Err(Error::new(Code::IO, format!("{} {action}: {}", self.program.display(), output.status))
            .details(format!("stdout {:.500?}, stderr {:.500?}", said.trim(), stderr.trim())))
    }
}

impl NetworkPlugin for Exec {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn origin(&self) -> String {
        self.program.display().to_string()
    }

    fn init(&self) -> Result<()> {
        let executable = std::fs::metadata(&self.program)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
        if !executable {
            return Err(Error::config(format!(
                "Invalid exec plugin. Executable '{}' does not have correct permissions.",
                self.program.display()
            )));
        }
        self.run("init", None).map(drop)
    }

    fn pod_cidr_change(&self, _cidrs: &str) -> Result<()> {
        // The protocol has no word for it.
        Ok(())
    }

    fn set_up(&self, pod: &Pod) -> Result<Option<PodStatus>> {
        let said = self.run("setup", Some(pod))?;
        if !said.is_empty() {
            cni_common::log!("{} setup: {}", self.name, String::from_utf8_lossy(&said).trim_end());
        }
        Ok(None)
    }

    fn tear_down(&self, pod: &Pod) -> Result<()> {
        self.run("teardown", Some(pod)).map(drop)
    }

    fn pod_status(&self, pod: &Pod) -> Result<Option<PodStatus>> {
        read_status(&self.run("status", Some(pod))?, pod)
    }

    fn status(&self) -> Result<()> {
        Ok(())
    }
}

/// Reads what an exec plugin says of a pod; nothing at all leaves it to the runtime.
fn read_status(said: &[u8], pod: &Pod) -> Result<Option<PodStatus>> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Status {
        kind: String,
        api_version: String,
        ip: String,
        ips: Vec<String>,
    }
    if said.trim_ascii().is_empty() {
        return Ok(None);
    }
    let bad = |msg: String| Error::new(Code::DECODE, msg);
    let name = &pod.name;
    let text = String::from_utf8_lossy(said);
    let status: Status = serde_json::from_slice(said)
        .map_err(|error| bad(format!("network status for pod '{name}' is no JSON: {error}: {text:.200?}")))?;
    if !["", "PodNetworkStatus"].contains(&status.kind.as_str()) {
        return Err(bad(format!(
            "Invalid 'kind' returned in network status for pod '{name}'. Valid value is 'PodNetworkStatus', got '{:.80}'.",
            status.kind
        )));
    }
    if !["", "v1beta1"].contains(&status.api_version.as_str()) {
        return Err(bad(format!(
            "Unknown version '{:.80}' in network status for pod '{name}'.",
            status.api_version
        )));
    }
    let mut texts = vec![status.ip];
    texts.extend(status.ips);
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let ip = text
            .parse()
            .map_err(|_| bad(format!("network status for pod '{name}': {text:.80?} is no address")))?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok((!ips.is_empty()).then_some(PodStatus { ips }))
}
