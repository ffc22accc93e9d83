//! Kubelet's plugin host: which plugins there are, which one it is, and what a pod is to them.

mod cni;
mod exec;
mod kubenet;
mod netns;
mod noop;
pub mod pod;

pub use kubenet::ensure_shared;
pub use noop::{NAME as NOOP, let_netfilter_see_bridges};

use crate::settings::Settings;
use cni_common::spec::{Error, Result};
use pod::{Pod, PodStatus};
use std::path::PathBuf;

/// Whether our own host runs us as an exec plugin.
#[must_use]
pub fn exec_mark() -> bool {
    std::env::var_os(exec::MARK).is_some()
}

/// A network plugin of a kubelet.
pub trait NetworkPlugin {
    /// The name by which it is chosen.
    fn name(&self) -> String;

    /// Where it is from, for people.
    fn origin(&self) -> String;

    /// Once, before anything else.
    fn init(&self) -> Result<()>;

    /// The node has got its ranges, parted by commas.
    fn pod_cidr_change(&self, cidrs: &str) -> Result<()>;

    /// After the pod's first container was started, before any other.
    fn set_up(&self, pod: &Pod) -> Result<Option<PodStatus>>;

    /// Before the pod's first container is removed; may be repeated.
    fn tear_down(&self, pod: &Pod) -> Result<()>;

    /// The pod's addresses; none to leave that to the runtime.
    fn pod_status(&self, pod: &Pod) -> Result<Option<PodStatus>>;

    /// Whether pods could be set up.
    fn status(&self) -> Result<()>;
}

/// A plugin that there is, and why it can't be chosen, if so.
pub struct Candidate {
    /// The plugin.
    pub plugin: Box<dyn NetworkPlugin>,
    /// What is wrong with its name.
    pub problem: Option<Error>,
    is_exec: bool,
}

/// All plugins that there are, in kubelet's order. Of two with one name the first counts.
#[must_use]
pub fn probe(settings: &Settings) -> Vec<Candidate> {
    let execs =
        exec::probe(settings).into_iter().map(|plugin| (Box::new(plugin) as Box<dyn NetworkPlugin>, true));
    let others: [Box<dyn NetworkPlugin>; 2] =
        [Box::new(cni::Cni::new(settings)), Box::new(kubenet::Kubenet::new(settings))];
    let mut names: Vec<String> = Vec::new();
    let mut judge = |(plugin, is_exec): (Box<dyn NetworkPlugin>, bool)| {
        let name = plugin.name();
        let problem = bad_name(&name).or_else(|| {
            let msg = format!("network plugin {name:?} was registered more than once");
            names
                .contains(&name)
                .then(|| Error::config(msg).details(format!("{} does not count", plugin.origin())))
        });
        names.push(name);
        Candidate { plugin, problem, is_exec }
    };
    execs.chain(others.map(|plugin| (plugin, false))).map(&mut judge).collect()
}

/// The plugin that the settings choose.
///
/// # Errors
/// Code 7, in kubelet's words, when there is none of that name or more than one.
pub fn select(settings: &Settings) -> Result<Box<dyn NetworkPlugin>> {
    let wanted = settings.plugin();
    if ["", "noop", "no-op", noop::NAME].contains(&wanted) {
        return Ok(Box::new(noop::Noop));
    }
    let mut candidates = probe(settings);
    if wanted == "exec" && !candidates.iter().any(|one| one.plugin.name() == "exec") {
        return the_only_exec(candidates, &settings.plugin_dir());
    }
    // One that would have to guess which is meant must not.
    if let Some(at) = candidates.iter().position(|one| one.plugin.name() == wanted && one.problem.is_some()) {
        return Err(candidates.swap_remove(at).problem.unwrap_or_else(|| not_found(wanted, settings)));
    }
    match candidates.iter().position(|one| one.plugin.name() == wanted) {
        Some(at) => Ok(candidates.swap_remove(at).plugin),
        None => Err(not_found(wanted, settings)),
    }
}

fn not_found(wanted: &str, settings: &Settings) -> Error {
    let names: Vec<String> = probe(settings).iter().map(|one| one.plugin.name()).collect();
    Error::config(format!("network plugin {wanted:?} not found")).details(format!(
        "there are: {}; exec plugins are looked for in {}",
        names.join(", "),
        settings.plugin_dir().display()
    ))
}

/// `--network-plugin=exec` names no plugin; it is understood when there is only one.
fn the_only_exec(candidates: Vec<Candidate>, dir: &std::path::Path) -> Result<Box<dyn NetworkPlugin>> {
    let mut execs: Vec<Candidate> =
        candidates.into_iter().filter(|one| one.is_exec && one.problem.is_none()).collect();
    match execs.len() {
        1 => Ok(execs.remove(0).plugin),
        count => {
            let names: Vec<String> = execs.iter().map(|one| one.plugin.name()).collect();
            Err(Error::config(format!(
                "network plugin \"exec\" stands for the only exec plugin, and there are {count}"
            ))
            .details(format!("in {}: [{}]; name one of them", dir.display(), names.join(" "))))
        }
    }
}

/// What keeps a name from being a Kubernetes qualified name: an optional `prefix/`, and 63 characters at most.
fn bad_name(name: &str) -> Option<Error> {
    let is_edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_part = |text: &str, more: &[char]| {
        is_edge(text.chars().next())
            && is_edge(text.chars().last())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
    };
    let (prefix, base) = name.split_once('/').map_or((None, name), |(prefix, base)| (Some(prefix), base));
    let reason = if base.len() > 63 || !is_part(base, &['-', '_', '.']) {
        "the name part must be 1 to 63 letters, digits, '-', '_' or '.', and start and end with a letter or digit"
    } else if prefix.is_some_and(|prefix| {
        prefix.len() > 253
            || prefix.chars().any(|c| c.is_ascii_uppercase())
            || !prefix.split('.').all(|label| is_part(label, &['-']))
    }) {
        "the prefix part must be a DNS subdomain"
    } else {
        return None;
    };
    Some(Error::config(format!("network plugin has invalid name: {name:?}: {reason}")))
}

/// Folders as people read them.
fn dirs(list: &[PathBuf]) -> String {
    list.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::bad_name;

    #[test]
    fn names_are_qualified_names() {
        for good in ["a", "kubenet", "mycompany/mysdn", "my.company-1/my_sdn.2", "A"] {
            assert!(bad_name(good).is_none(), "{good}");
        }
        for bad in ["", "-a", "a-", "a/b/c", "a b", "/a", "a/", "My/a", "a..b/c", &"x".repeat(64)] {
            assert!(bad_name(bad).is_some(), "{bad}");
        }
    }
}
