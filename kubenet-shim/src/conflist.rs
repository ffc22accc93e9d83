//! A config for runtimes that call CNI plugins themselves.

use crate::settings::Settings;
use cni_common::process::{self, program};
use cni_common::spec::{Result, SpecVersion, json};
use serde_json::{Value, json as value};
use std::time::Duration;

/// The config for containerd, CRI-O, cri-dockerd and others. Without a range of its own it takes the runtime's (`ipRanges`),
/// else the one that the node was told.
///
/// # Errors
/// Code 7 with the setting that is wrong.
pub fn text(settings: &Settings, template: bool, version: Option<&str>) -> Result<String> {
    let version = match version {
        Some(text) => SpecVersion::parse(text).map_err(|error| error.context("--cni-version"))?,
        None if containerd_asks_status() => SpecVersion::V1_1_0,
        None => SpecVersion::V1_0_0,
    };
    let node = settings.node()?;
    let mut plugin = value!({"type": "kubenet-shim",
        "capabilities": {"portMappings": true, "bandwidth": true}});
    let defaults = Settings::default().node()?;
    let mut set = |key: &str, given: Value, default: Value| {
        if given != default {
            plugin[key] = given;
        }
    };
    set("bridge", node.bridge.as_str().into(), defaults.bridge.as_str().into());
    set("mtu", node.mtu.into(), Value::Null);
    set("hairpinMode", node.hairpin.to_string().into(), defaults.hairpin.to_string().into());
    let list = |nets: &[ipnet::IpNet]| Value::from(nets.iter().map(ToString::to_string).collect::<Vec<_>>());
    set("nonMasqueradeCIDRs", list(&node.non_masquerade), list(&defaults.non_masquerade));
    set("stateDir", value!(node.state_dir), value!(defaults.state_dir));
    set("dataDir", value!(node.data_dir), Value::Null);
    let range = if template { Some("PODCIDRS") } else { settings.pod_cidr() };
    if let Some(range) = range {
        plugin["podCIDR"] = value!(range);
    } else {
        plugin["capabilities"]["ipRanges"] = value!(true);
    }
    let list = value!({"cniVersion": version.as_str(), "name": "kubenet", "plugins": [plugin]});
    let text = json::to_text(&list) + "\n";
    // containerd's words: one range a line, parted by commas.
    let ranges = r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}"{{$range}}"{{end}}]"#;
    Ok(text.replace("\"PODCIDRS\"", ranges))
}

/// Whether the machine's containerd calls STATUS, and tells what that says as the node's condition: since 2.0.
fn containerd_asks_status() -> bool {
    const PATIENCE: Duration = Duration::from_secs(5);
    let Some(containerd) = program::find("containerd") else { return false };
    let mut command = program::alone(&containerd);
    command.arg("--version");
    let said = process::run(command, &[], PATIENCE).map(|output| output.stdout).unwrap_or_default();
    is_since_2(&String::from_utf8_lossy(&said))
}

/// `containerd github.com/containerd/containerd/v2 v2.1.3 COMMIT`; Debian's has no `v`.
fn is_since_2(said: &str) -> bool {
    let major = |word: &str| word.trim_start_matches('v').split('.').next()?.parse::<u32>().ok();
    said.split_whitespace().skip(2).find_map(major).is_some_and(|major| major >= 2)
}

#[cfg(test)]
mod tests {
    use super::is_since_2;

    #[test]
    fn containerds_release_is_read() {
        for (said, want) in [
            (
                "containerd github.com/containerd/containerd/v2 v2.1.3 c787fb98911740dd3ff2d0e45ce88cdf01410486",
                true,
            ),
            ("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", false),
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1", false),
            ("", false),
        ] {
            assert_eq!(is_since_2(said), want, "{said}");
        }
    }
}
