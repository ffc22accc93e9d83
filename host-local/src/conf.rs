//! The keys that `host-local` knows, from a config's text to values that were checked once.

use crate::range::{RangeConf, RangeSet};
use cni_common::plugin::Request;
use cni_common::spec::addr::{parse_cidr, parse_ip};
use cni_common::spec::conf::NetConf;
use cni_common::spec::{Code, Error, Result, Route, SpecVersion};
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where leases are kept when the config does not say.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// A config, checked.
#[derive(Debug)]
pub struct Conf {
    /// One address is taken from each.
    pub sets: Vec<RangeSet>,
    /// Passed on to the result.
    pub routes: Vec<Route>,
    /// Where leases are kept; the network's name is appended.
    pub data_dir: PathBuf,
    /// A file with resolver settings.
    pub resolv_conf: Option<PathBuf>,
    /// Addresses freed less than this ago are given last; zero for none.
    pub quarantine: Duration,
    /// Whether leases of an earlier boot are freed.
    pub reclaim_after_reboot: bool,
    /// Addresses asked for, from `CNI_ARGS`, `args.cni.ips` and `runtimeConfig.ips`, in that order.
    pub requested: Vec<IpAddr>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    ipam: Option<Ipam>,
    runtime_config: RuntimeConfig,
    args: Args,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ipam {
    // The range of old configs, given without a list.
    subnet: String,
    range_start: String,
    range_end: String,
    gateway: String,
    ranges: Vec<Vec<RangeConf>>,
    routes: Vec<Route>,
    data_dir: String,
    resolv_conf: String,
    // Ours alone.
    exclude: Vec<String>,
    quarantine_seconds: u32,
    reclaim_after_reboot: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    ip_ranges: Vec<Vec<RangeConf>>,
    ips: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: ArgsCni,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ArgsCni {
    ips: Vec<String>,
}

impl Conf {
    /// Reads and checks the config of `request`.
    ///
    /// # Errors
    /// Code 7 for what is wrong, 6 for wrong types, 4 for `CNI_ARGS`.
    pub fn read(request: &Request) -> Result<Self> {
        let wire: Wire = request.conf.decode()?;
        let ipam = wire.ipam.ok_or_else(|| Error::config("IPAM config missing 'ipam' key"))?;
        let mut requested = Vec::new();
        if let Some(text) = request.arg("IP")? {
            let ip = parse_requested(&text)
                .map_err(|bad| Error::new(Code::BAD_ENVIRONMENT, format!("CNI_ARGS IP: {bad}")))?;
            requested.push(ip);
        }
        for (key, list) in
            [("args.cni.ips", &wire.args.cni.ips), ("runtimeConfig.ips", &wire.runtime_config.ips)]
        {
            for text in list {
                requested.push(parse_requested(text).map_err(|bad| Error::config(format!("{key}: {bad}")))?);
            }
        }
        let sets = sets(&ipam, wire.runtime_config.ip_ranges)?;
        check_sets(&sets, request.conf.version)?;
        Ok(Self {
            sets,
            routes: ipam.routes,
            data_dir: data_dir(&ipam.data_dir),
            resolv_conf: Some(ipam.resolv_conf).filter(|path| !path.is_empty()).map(Into::into),
            quarantine: Duration::from_secs(ipam.quarantine_seconds.into()),
            reclaim_after_reboot: ipam.reclaim_after_reboot,
            requested,
        })
    }
}

/// The network and its range sets, out of a config that no runtime has sent: for the view.
///
/// # Errors
/// Code 7 for what is wrong, 6 for wrong types.
pub fn read_sets(conf: &NetConf) -> Result<Vec<RangeSet>> {
    let wire: Wire = conf.decode()?;
    sets(&wire.ipam.unwrap_or_default(), vec![])
}

/// The folder of leases alone: DEL and GC free what a config left that has since been broken or changed.
///
/// # Errors
/// Code 6 when `ipam` or `ipam.dataDir` has the wrong type.
pub fn read_data_dir(conf: &NetConf) -> Result<PathBuf> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Part {
        data_dir: String,
    }
    Ok(data_dir(&ipam_part::<Part>(conf)?.data_dir))
}

/// How long a freed address is to be left alone. A value that is wrong is ADD's to tell; nothing is freed the less for it.
#[must_use]
pub fn read_quarantine(conf: &NetConf) -> Duration {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Part {
        quarantine_seconds: u32,
    }
    Duration::from_secs(ipam_part::<Part>(conf).unwrap_or_default().quarantine_seconds.into())
}

/// Some keys of `ipam`, whatever the others are.
fn ipam_part<T: Default + DeserializeOwned>(conf: &NetConf) -> Result<T> {
    #[derive(Deserialize)]
    struct Wire<T> {
        ipam: Option<T>,
    }
    Ok(conf.decode::<Wire<T>>()?.ipam.unwrap_or_default())
}

fn data_dir(text: &str) -> PathBuf {
    if text.is_empty() { DEFAULT_DATA_DIR } else { text }.into()
}

/// `ip` or `ip/len`; the length says nothing here.
fn parse_requested(text: &str) -> Result<IpAddr, String> {
    let bad = || format!("{text:?} is not an IP address; write it as 10.1.2.3 or 10.1.2.3/24");
    let ip = match text.split_once('/') {
        Some(_) => parse_cidr(text).map(|net| net.addr()),
        None => parse_ip(text),
    };
    ip.map_err(|_| bad())
}

/// An address, or a CIDR with or without host bits.
fn parse_excluded(text: &str) -> Result<IpNet> {
    let net = parse_cidr(text).or_else(|_| parse_ip(text).map(IpNet::from));
    net.map_err(|_| {
        let msg = format!("ipam.exclude: {text:?} is neither an address nor a CIDR");
        Error::config(msg).details("write it as 10.1.2.3 or 10.1.2.0/28")
    })
}

fn sets(ipam: &Ipam, ip_ranges: Vec<Vec<RangeConf>>) -> Result<Vec<RangeSet>> {
    let single = RangeConf {
        subnet: ipam.subnet.clone(),
        range_start: ipam.range_start.clone(),
        range_end: ipam.range_end.clone(),
        gateway: ipam.gateway.clone(),
    };
    let single = (!single.subnet.is_empty()).then(|| vec![single]);
    let confs = ip_ranges.into_iter().chain(single).chain(ipam.ranges.iter().cloned());
    let excluded: Vec<IpNet> = ipam.exclude.iter().map(|text| parse_excluded(text)).collect::<Result<_>>()?;
    let parse = |(i, conf): (usize, Vec<RangeConf>)| {
        let set = RangeSet::new(&conf).and_then(|set| set.without(&excluded));
        set.map_err(|bad| Error::config(format!("invalid range set {i}: {bad}")))
    };
    confs.enumerate().map(parse).collect()
}

fn check_sets(sets: &[RangeSet], version: SpecVersion) -> Result<()> {
    if sets.is_empty() {
        return Err(Error::config("no IP ranges specified").details("give ipam.ranges (or ipam.subnet)"));
    }
    for (i, one) in sets.iter().enumerate() {
        if let Some(other) = sets[..i].iter().position(|other| other.overlaps(one)) {
            return Err(Error::config(format!("range set {other} overlaps with {i}")));
        }
    }
    let of_family = |v4: bool| sets.iter().filter(|set| set.is_ipv4() == v4).count();
    if version < SpecVersion::V0_3_0 && (of_family(true) > 1 || of_family(false) > 1) {
        return Err(Error::config(format!(
            "CNI version {version} does not support more than 1 address per family"
        )));
    }
    Ok(())
}
