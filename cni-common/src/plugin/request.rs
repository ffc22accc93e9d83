//! One call, as typed values: the plugins see nothing of the environment or stdin but this.

use super::args;
use crate::kernel::netns::Netns;
use crate::spec::command::{Command, Var};
use crate::spec::conf::NetConf;
use crate::spec::{Attachment, Code, Coded, ContainerId, Error, IfName, Result, SpecVersion};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The `CNI_*` variables of a call. Empty and unset are the same thing.
#[derive(Debug, Clone, Default)]
pub struct Env(HashMap<String, OsString>);

impl Env {
    /// The variables of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let cni = |(key, value): (OsString, OsString)| {
            key.into_string().ok().filter(|key| key.starts_with("CNI_")).map(|key| (key, value))
        };
        Self(std::env::vars_os().filter_map(cni).collect())
    }

    /// All of them, the empty ones too: what a plugin that is called next inherits.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &OsString)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The same, but for these.
    #[must_use]
    pub fn with(&self, changed: &[(&str, &str)]) -> Self {
        let mut env = self.clone();
        env.0.extend(changed.iter().map(|(name, value)| ((*name).to_owned(), value.into())));
        env
    }

    /// The value of `name`, unless it is empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| {
            Error::new(Code::BAD_ENVIRONMENT, format!("{name} is not UTF-8"))
                .details(format!("{:.200}", value.to_string_lossy()))
        })?;
        Ok(Some(text.to_owned()))
    }

    /// Whether the caller says that our own namespace is meant (`CNI_NETNS_OVERRIDE`).
    pub(super) fn overrides_netns(&self) -> bool {
        self.get("CNI_NETNS_OVERRIDE")
            .and_then(|value| value.to_str())
            .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }
}

impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// One call of a plugin.
#[derive(Debug)]
pub struct Request {
    /// The network config.
    pub conf: NetConf,
    /// stdin's bytes, which a delegate gets untouched.
    pub stdin: Vec<u8>,
    /// The `CNI_*` variables, which a delegate gets too.
    pub env: Env,
}

/// What ADD, CHECK and DEL work on.
#[derive(Debug, Clone)]
pub struct Target {
    /// Network, container, interface.
    pub attachment: Attachment,
    /// The container's namespace; on DEL it may be missing.
    pub netns: Option<PathBuf>,
}

impl Target {
    /// Opens the container's namespace, for ADD and CHECK.
    ///
    /// # Errors
    /// Code 4 when there is nothing to open.
    pub fn open_netns(&self) -> Result<Netns> {
        Netns::open(self.netns.as_deref().unwrap_or(Path::new("")))
    }

    /// The container's namespace for DEL: none when it is gone, or never was one. Then nothing of ours is in it.
    #[must_use]
    pub fn living_netns(&self) -> Option<Netns> {
        let path = self.netns.as_deref()?;
        match Netns::open(path).and_then(|netns| netns.run(|| Ok(())).map(|()| netns)) {
            Ok(netns) => Some(netns),
            Err(error) => {
                if path.exists() {
                    crate::log!("DEL of {}: {error}", self.attachment);
                }
                None
            }
        }
    }

    /// The container's namespace as a result names it: the words of `CNI_NETNS`.
    #[must_use]
    pub fn sandbox(&self) -> String {
        self.netns.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned()
    }
}

impl Request {
    /// The value of `key` in `CNI_ARGS`.
    ///
    /// # Errors
    /// Code 4: see the module `args`.
    pub fn arg(&self, key: &str) -> Result<Option<String>> {
        args::find(&self.env.text("CNI_ARGS")?.unwrap_or_default(), key)
    }

    /// The pairs of `CNI_ARGS`, in order, to hand them on.
    ///
    /// # Errors
    /// Code 4 when they are none.
    pub fn arg_pairs(&self) -> Result<Vec<(String, String)>> {
        args::pairs(&self.env.text("CNI_ARGS")?.unwrap_or_default())
    }

    /// Reads stdin and checks it, in the reference library's order. `version` becomes the config's as soon as it is known,
    /// whatever else is wrong with the config.
    pub(super) fn read(env: &Env, stdin: &mut dyn Read, version: &mut SpecVersion) -> Result<Self> {
        // Configs are small; with room for one at hand, one read gets it.
        let mut bytes = Vec::with_capacity(8192);
        stdin.read_to_end(&mut bytes).io("error reading from stdin")?;
        let conf = NetConf::parse(&bytes)
            .inspect_err(|_| *version = NetConf::version_in(&bytes).unwrap_or(*version))?;
        *version = conf.version;
        Ok(Self { conf, stdin: bytes, env: env.clone() })
    }
}

/// The names in the environment, checked: everything of a [`Target`] but the network's name.
#[derive(Debug)]
pub(super) struct Names {
    pub container_id: ContainerId,
    pub ifname: IfName,
}

/// Checks the variables that `command` needs, one by one: a malformed name is told before any that are missing.
pub(super) fn check_env(env: &Env, command: Option<Command>) -> Result<Option<Names>> {
    let needs = command.map_or(&[][..], Command::needs);
    let mut missing = Vec::new();
    let mut names = (None, None);
    for var in Var::ALL {
        let value = env.text(var.name())?;
        match (value, var) {
            (None, var) if var == Var::Command || needs.contains(&var) => missing.push(var.name()),
            (Some(text), Var::ContainerId) if needs.contains(&var) => {
                names.0 =
                    Some(ContainerId::try_from(text.clone()).map_err(|bad| bad_name(var, &text, &bad))?);
            }
            (Some(text), Var::IfName) if needs.contains(&var) => {
                names.1 = Some(IfName::try_from(text.clone()).map_err(|bad| bad_name(var, &text, &bad))?);
            }
            _ => {}
        }
    }
    if !missing.is_empty() {
        let msg = format!("required env variables [{}] missing", missing.join(","));
        return Err(Error::new(Code::BAD_ENVIRONMENT, msg));
    }
    Ok(match names {
        (Some(container_id), Some(ifname)) => Some(Names { container_id, ifname }),
        _ => None,
    })
}

fn bad_name(var: Var, text: &str, bad: &crate::spec::name::BadName) -> Error {
    let want = match var {
        Var::IfName => "an interface name is 1 to 15 bytes without / : or white space, not . or ..",
        _ => "a container ID is 1 to 255 of a-z A-Z 0-9 _ . - and starts with a letter or digit",
    };
    Error::new(Code::BAD_ENVIRONMENT, format!("{} {text:.80?} is invalid: {bad}", var.name())).details(want)
}
