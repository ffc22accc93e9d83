//! A config for runtimes that call CNI plugins themselves.

use crate::settings::Settings;
use cni_common::spec::{Result, json};
use serde_json::{Value, json as value};

/// The config for containerd, CRI-O, cri-dockerd and others. Without a range of its own it takes the runtime's (`ipRanges`),
/// else the one that the node was told.
///
/// # Errors
/// Code 7 with the setting that is wrong.
pub fn text(settings: &Settings, template: bool) -> Result<String> {
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
    let list = value!({"cniVersion": "1.0.0", "name": "kubenet", "plugins": [plugin]});
    let text = json::to_text(&list) + "\n";
    // containerd's words: one range a line, parted by commas.
    let ranges = r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}"{{$range}}"{{end}}]"#;
    Ok(text.replace("\"PODCIDRS\"", ranges))
}
