//! `host-local leases`: what the store holds, for people and scripts. Reads only, and needs no lock.

use crate::HostLocal;
use crate::conf::{DEFAULT_DATA_DIR, read_sets};
use crate::lease::{Holder, Lease};
use crate::store::Store;
use cni_common::disk;
use cni_common::kernel::netlink::{Socket, link};
use cni_common::kernel::netns::Netns;
use cni_common::log::printable;
use cni_common::plugin::{Plugin, about_text};
use cni_common::spec::conf::NetConf;
use cni_common::spec::{Attachment, Coded, ContainerId, Error, IfName, NetworkName, Result, json};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

const USAGE: &str = "\
usage: host-local leases [--data-dir DIR] [--network NAME] [--json] [--config FILE]
                         [--check-netns [--results-dir DIR]]

Shows the leases in DIR (/var/lib/cni/networks): network, address, container, interface, since when.
--config names a network's config (.conf or .conflist), and how full its ranges are is told, too.
--check-netns tells whether the container's interface still exists: alive, gone, or unknown. It looks for the host veth
that our bridge plugin makes, and else into the namespace that libcni noted in its results (/var/lib/cni/results).
";

/// No config and no result is larger, in bytes.
const MOST: u64 = 16 << 20;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    data_dir: PathBuf,
    network: Option<String>,
    json: bool,
    config: Option<PathBuf>,
    check_netns: bool,
    results_dir: PathBuf,
}

impl Options {
    fn parse(args: &[String]) -> std::result::Result<Self, String> {
        let mut options = Self {
            data_dir: DEFAULT_DATA_DIR.into(),
            network: None,
            json: false,
            config: None,
            check_netns: false,
            results_dir: "/var/lib/cni/results".into(),
        };
        let mut args = args.iter();
        if args.next().map(String::as_str) != Some("leases") {
            return Err(USAGE.to_owned());
        }
        while let Some(arg) = args.next() {
            let mut value = || args.next().cloned().ok_or(format!("{arg} needs a value\n{USAGE}"));
            match arg.as_str() {
                "--data-dir" => options.data_dir = value()?.into(),
                "--config" => options.config = Some(value()?.into()),
                "--network" => options.network = Some(value()?),
                "--results-dir" => options.results_dir = value()?.into(),
                "--json" => options.json = true,
                "--check-netns" => options.check_netns = true,
                other => return Err(format!("unknown option {other:?}\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

/// All that is shown.
#[derive(Debug, Serialize)]
struct View {
    leases: Vec<Line>,
    ranges: Vec<Fill>,
}

/// How full a range set is.
#[derive(Debug, Serialize)]
struct Fill {
    network: String,
    range: String,
    used: usize,
    size: u128,
}

/// One line of the view.
#[derive(Debug, Serialize)]
struct Line {
    network: String,
    address: IpAddr,
    container: String,
    interface: String,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
}

/// What is known of a container's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Alive,
    Gone,
    Unknown,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

/// Runs with these arguments and prints to stdout.
#[must_use]
pub fn main(words: &[OsString]) -> ExitCode {
    let args: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let args = args.as_slice();
    let asks_for = |words: [&str; 2]| args.iter().any(|arg| words.contains(&arg.as_str()));
    if asks_for(["--help", "-h"]) || args == ["--version"] {
        cni_common::log::write(format_args!("{}", about_text(HostLocal.name(), HostLocal.since())));
    }
    if args == ["--version"] {
        return ExitCode::SUCCESS;
    }
    if asks_for(["--help", "-h"]) {
        let written = std::io::stdout().lock().write_all(USAGE.as_bytes());
        return if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(text) => {
            cni_common::log::write(format_args!("{text}\n"));
            return ExitCode::from(2);
        }
    };
    let view = || {
        let ranges = options
            .config
            .as_deref()
            .map_or_else(|| Ok(vec![]), |config| fills(config, &options.data_dir))?;
        Ok(View { leases: lines(&options)?, ranges })
    };
    let shown = view().and_then(|view| {
        let text = if options.json { json::to_text(&view) + "\n" } else { table(&view) };
        std::io::stdout().lock().write_all(text.as_bytes()).io("write to stdout")
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cni_common::log!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn lines(options: &Options) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for network in networks(options)? {
        let store = Store::new(&options.data_dir, &network);
        for (lease, since) in store.oldest(usize::MAX, |_| true) {
            let state = options.check_netns.then(|| state(&network, &lease, &options.results_dir));
            lines.push(line(&network, lease, since, state));
        }
    }
    lines.sort_by(|one, other| (&one.network, one.address).cmp(&(&other.network, other.address)));
    Ok(lines)
}

/// The networks that have a folder, in order.
fn networks(options: &Options) -> Result<Vec<NetworkName>> {
    if let Some(name) = &options.network {
        let name = NetworkName::try_from(name.as_str());
        return Ok(vec![name.map_err(|bad| Error::config(format!("--network: {bad}")))?]);
    }
    let doing = format!("list {}", options.data_dir.display());
    let entries = std::fs::read_dir(&options.data_dir).io(&doing)?;
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> =
        folders.filter_map(|entry| entry.file_name().into_string().ok()?.try_into().ok()).collect();
    names.sort();
    Ok(names)
}

fn line(network: &NetworkName, lease: Lease, since: SystemTime, state: Option<State>) -> Line {
    let (container, interface) = match lease.holder {
        Holder::Attachment { container_id, ifname } => (container_id, ifname),
        Holder::Container(id) => (id, "?".to_owned()),
        Holder::Unknown(why) | Holder::Unreadable(why) => (format!("? ({why})"), "?".to_owned()),
    };
    Line {
        network: network.to_string(),
        address: lease.ip,
        container,
        interface,
        since: humantime::format_rfc3339_seconds(since).to_string(),
        state,
    }
}

fn state(network: &NetworkName, lease: &Lease, results: &Path) -> State {
    let Holder::Attachment { container_id, ifname } = &lease.holder else { return State::Unknown };
    let names = (ContainerId::try_from(container_id.as_str()), IfName::try_from(ifname.as_str()));
    let (Ok(container_id), Ok(ifname)) = names else { return State::Unknown };
    let attachment = Attachment { network: network.clone(), container_id, ifname };
    if has_host_veth(&attachment) { State::Alive } else { noted_by_libcni(&attachment, results) }
}

fn has_host_veth(attachment: &Attachment) -> bool {
    let Ok(mut host) = Socket::route() else { return false };
    link::host_veth(&mut host, attachment).is_ok_and(|found| found.is_some())
}

fn noted_by_libcni(attachment: &Attachment, results: &Path) -> State {
    #[derive(Deserialize)]
    struct Note {
        netns: PathBuf,
    }
    let Attachment { network, container_id, ifname } = attachment;
    let note = disk::read_own(&results.join(format!("{network}-{container_id}-{ifname}")), MOST).ok();
    let Some(Note { netns }) = note.and_then(|text| json::decode(&json::parse(&text).ok()?).ok()) else {
        return State::Unknown;
    };
    if !netns.exists() {
        return State::Gone;
    }
    let inside =
        Netns::open(&netns).and_then(|netns| netns.run(|| Ok(link::find(&mut Socket::route()?, ifname)?)));
    match inside {
        Ok(Some(_)) => State::Alive,
        Ok(None) => State::Gone,
        Err(_) => State::Unknown,
    }
}

/// How full the ranges of a network are. In a list, those of each plugin that has `host-local` for its IPAM.
fn fills(config: &Path, data_dir: &Path) -> Result<Vec<Fill>> {
    let doing = format!("read {}", config.display());
    let mut document =
        json::parse(&disk::read_given(config, MOST).io(&doing)?).map_err(|error| error.context(&doing))?;
    if !document.is_object() {
        return Err(Error::config("it is no network config").context(&doing));
    }
    let name = document["name"].clone();
    let plugins = match document["plugins"].take() {
        serde_json::Value::Array(plugins) => plugins,
        _ => vec![document],
    };
    let mut fills = Vec::new();
    for mut plugin in plugins.into_iter().filter(|plugin| plugin["ipam"]["type"] == "host-local") {
        plugin["name"] = name.clone();
        let conf = NetConf::parse(plugin.to_string().as_bytes()).map_err(|error| error.context(&doing))?;
        let contents = Store::new(data_dir, &conf.name).contents()?;
        for set in read_sets(&conf).map_err(|error| error.context(&doing))? {
            let used = set.used(&contents).io("read the index of leases")?;
            fills.push(Fill {
                network: conf.name.to_string(),
                range: set.to_string(),
                used,
                size: set.size(),
            });
        }
    }
    Ok(fills)
}

fn table(view: &View) -> String {
    let lines = &view.leases;
    let mut rows =
        vec![["NETWORK", "ADDRESS", "CONTAINER", "INTERFACE", "SINCE", "STATE"].map(ToOwned::to_owned)];
    rows.extend(lines.iter().map(|line| {
        let state = line.state.map_or("", State::as_str).to_owned();
        let Line { network, container, interface, since, .. } = line;
        [
            network.clone(),
            line.address.to_string(),
            printable(container).into_owned(),
            printable(interface).into_owned(),
            since.clone(),
            state,
        ]
    }));
    let checked = lines.iter().any(|line| line.state.is_some());
    let columns = if checked { 6 } else { 5 };
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    for Fill { network, range, used, size } in &view.ranges {
        let _ = writeln!(text, "{network}: {used} of {size} addresses in use of {range}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_strange_ones_refused() {
        let parse =
            |text: &str| Options::parse(&text.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>());
        let options = parse("leases --data-dir /d --network n --json --check-netns").unwrap();
        assert_eq!((options.data_dir.to_str(), options.network.as_deref()), (Some("/d"), Some("n")));
        assert!(options.json && options.check_netns);
        for bad in ["", "lease", "leases --network", "leases --frob", "leases x"] {
            assert!(parse(bad).unwrap_err().contains("usage:"), "{bad}");
        }
    }
}
