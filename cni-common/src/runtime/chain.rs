//! Running the plugins of a list, one after the other.

use super::cache::{Cache, Entry};
use super::list::ConfList;
use crate::invoke::{Callee, PluginPath, is_unknown_command};
use crate::plugin::Env;
use crate::spec::{
    Attachment, Code, Coded, Command, ContainerId, Error, IfName, NetworkName, Result, SpecVersion, Success,
    compat, json,
};
use serde_json::{Map, Value};
use std::time::{Duration, Instant};

/// One interface of one container, as the runtime tells it to each plugin.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The container's ID.
    pub container_id: ContainerId,
    /// The path of its network namespace; empty when it is gone (DEL).
    pub netns: String,
    /// The interface's name inside.
    pub ifname: IfName,
    /// The pairs of `CNI_ARGS`, in order.
    pub args: Vec<(String, String)>,
    /// What there is to say under each capability. A plugin is told what it declares.
    pub capabilities: Map<String, Value>,
    /// ADD's result, for CHECK and DEL, where the caller has it; else it is the cache's. For ADD what its first plugin
    /// continues from.
    pub result: Option<Success>,
}

impl Endpoint {
    /// The attachment that it is on a network.
    #[must_use]
    pub fn on(&self, network: &NetworkName) -> Attachment {
        Attachment {
            network: network.clone(),
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        }
    }
}

/// Runs plugins, and remembers results.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Where the plugins are.
    pub path: PluginPath,
    /// Where results are kept; `None` keeps none.
    pub cache: Option<Cache>,
    /// How long one operation may take, all its plugins together; `None` for ever.
    pub timeout: Option<Duration>,
}

/// One operation on a list.
struct Operation<'a> {
    runtime: &'a Runtime,
    list: &'a ConfList,
    command: Command,
    endpoint: Option<&'a Endpoint>,
    deadline: Option<Instant>,
}

impl Runtime {
    fn operation<'a>(
        &'a self,
        list: &'a ConfList,
        command: Command,
        endpoint: Option<&'a Endpoint>,
    ) -> Operation<'a> {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        Operation { runtime: self, list, command, endpoint, deadline }
    }

    /// Attaches the container: each plugin gets the result of the one before it. The last one's is kept and given.
    ///
    /// # Errors
    /// That of the first plugin that fails. What those before it made is the caller's to DEL.
    pub fn add(&self, list: &ConfList, endpoint: &Endpoint) -> Result<Success> {
        let operation = self.operation(list, Command::Add, Some(endpoint));
        let mut prev = endpoint.result.clone();
        for plugin in list.plugins() {
            let stdout = operation.run(plugin, prev.as_ref(), &[])?;
            let success = json::parse(&stdout)
                .and_then(|document| compat::from_json(&document, list.version))
                .map_err(|error| error.context(operation.failed(plugin)))?;
            prev = Some(success);
        }
        let success = prev.unwrap_or_default();
        if let Some(cache) = &self.cache {
            let entry = Entry {
                container_id: endpoint.container_id.to_string(),
                if_name: endpoint.ifname.to_string(),
                network_name: list.name.to_string(),
                netns: endpoint.netns.clone(),
                cni_args: endpoint.args.clone(),
                capability_args: endpoint.capabilities.clone(),
                result: document(&success, list.version)?,
                ..Entry::default()
            };
            cache.store(&endpoint.on(&list.name), &entry.with_config(list.text()))?;
        }
        Ok(success)
    }

    /// Fails when the attachment is there already, as far as the cache knows: an ADD that fails is followed by a DEL, which
    /// would take a living container off the network.
    ///
    /// # Errors
    /// Code 101.
    pub fn refuse_living(&self, list: &ConfList, endpoint: &Endpoint) -> Result<()> {
        match self.cached(list, endpoint) {
            Some(entry) if entry.netns == endpoint.netns && entry.is_living() => {
                let msg = format!("{} is there already", endpoint.on(&list.name));
                let what = format!("its result is kept, and its namespace {} lives", entry.netns);
                Err(Error::new(Code::ALREADY_ADDED, msg)
                    .details(format!("{what}; DEL it before it is added again")))
            }
            _ => Ok(()),
        }
    }

    /// Looks whether the attachment is as ADD left it.
    ///
    /// # Errors
    /// The first plugin's that says no; code 1 before 0.4.0, which has no CHECK.
    pub fn check(&self, list: &ConfList, endpoint: &Endpoint) -> Result<()> {
        if list.version < Command::Check.since() {
            let msg = format!(
                "configuration version {:?} does not support the CHECK command",
                list.version.as_str()
            );
            return Err(Error::new(Code::INCOMPATIBLE_VERSION, msg));
        }
        if list.disable_check {
            return Ok(());
        }
        let cached = || result_of(&self.cached(list, endpoint)?, list.version);
        let prev = endpoint.result.clone().or_else(cached);
        let operation = self.operation(list, Command::Check, Some(endpoint));
        list.plugins().iter().try_for_each(|plugin| operation.run(plugin, prev.as_ref(), &[]).map(drop))
    }

    /// Detaches the container, the last plugin first. What ADD was told and `endpoint` does not say is taken from the
    /// cache.
    ///
    /// # Errors
    /// That of the first plugin that fails; the result is kept then, for the next try.
    pub fn del(&self, list: &ConfList, endpoint: &Endpoint) -> Result<()> {
        let entry = self.cached(list, endpoint);
        let cached = || result_of(entry.as_ref()?, list.version);
        // Results came to DEL together with CHECK.
        let has_result = list.version >= Command::Check.since();
        let prev = has_result.then(|| endpoint.result.clone().or_else(cached)).flatten();
        let mut endpoint = endpoint.clone();
        if let Some(entry) = entry {
            if endpoint.args.is_empty() {
                endpoint.args = entry.cni_args;
            }
            if endpoint.capabilities.is_empty() {
                endpoint.capabilities = entry.capability_args;
            }
        }
        let operation = self.operation(list, Command::Del, Some(&endpoint));
        list.plugins()
            .iter()
            .rev()
            .try_for_each(|plugin| operation.run(plugin, prev.as_ref(), &[]).map(drop))?;
        self.cache.as_ref().map_or(Ok(()), |cache| cache.remove(&endpoint.on(&list.name)))
    }

    /// Whether an ADD could succeed now. Plugins before 1.1.0 can't say no.
    ///
    /// # Errors
    /// The first plugin's that says no.
    pub fn status(&self, list: &ConfList) -> Result<()> {
        if list.version < Command::Status.since() {
            return Ok(());
        }
        let operation = self.operation(list, Command::Status, None);
        list.plugins().iter().try_for_each(|plugin| operation.run(plugin, None, &[]).map(drop))
    }

    /// Frees what belongs to the network and to none of `valid`: attachments that the cache knows by DEL, the rest by each
    /// plugin's GC, where the version has it.
    ///
    /// # Errors
    /// All that failed, in one; none keeps the others from their turn.
    pub fn gc(&self, list: &ConfList, valid: &[Attachment]) -> Result<()> {
        if list.disable_gc {
            return Ok(());
        }
        let mut errors = Vec::new();
        errors.extend(self.cache.as_ref().and_then(|cache| cache.sweep().err()));
        for entry in self.stale(list, valid)? {
            let what = format!("failed to delete stale attachment {} {}", entry.container_id, entry.if_name);
            // By the config of that day: its version is one that the plugins spoke then.
            let kept = entry.config().and_then(|text| ConfList::parse(&text).ok());
            let kept = kept.as_ref().unwrap_or(list);
            let deleted = Endpoint::try_from(&entry).and_then(|endpoint| self.del(kept, &endpoint));
            errors.extend(deleted.err().map(|error| error.context(what)));
        }
        if list.version >= Command::Gc.since() {
            let living: Value = valid
                .iter()
                .map(|one| serde_json::json!({"containerID": one.container_id.as_str(), "ifname": one.ifname.as_str()}))
                .collect();
            let keys = ["cni.dev/valid-attachments", "cni.dev/attachments"].map(|key| (key, living.clone()));
            let operation = self.operation(list, Command::Gc, None);
            // A plugin from before 1.1.0 has no GC: what it made went by DEL, as far as the cache knows of it.
            let has_gc =
                |error: &Error| error.code != Code::INCOMPATIBLE_VERSION && !is_unknown_command(error);
            let run = |plugin| operation.run(plugin, None, &keys).err().filter(has_gc);
            errors.extend(list.plugins().iter().filter_map(run));
        }
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => {
                let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
                Err(Error::new(errors[0].code, "failed to collect garbage").details(all.join("; ")))
            }
        }
    }

    fn stale(&self, list: &ConfList, valid: &[Attachment]) -> Result<Vec<Entry>> {
        let Some(cache) = &self.cache else { return Ok(vec![]) };
        let is_valid = |entry: &Entry| {
            valid.iter().any(|one| {
                one.container_id.as_str() == entry.container_id && one.ifname.as_str() == entry.if_name
            })
        };
        let mut entries = cache.of_network(list.name.as_str())?;
        entries.retain(|entry| !is_valid(entry));
        Ok(entries)
    }

    /// Whether every plugin of the list is there and speaks its version.
    ///
    /// # Errors
    /// The first plugin's that is not, or does not.
    pub fn validate(&self, list: &ConfList) -> Result<()> {
        let operation = self.operation(list, Command::Version, None);
        for (plugin, kind) in list.plugins().iter().zip(list.types()) {
            let stdout = operation.run(plugin, None, &[])?;
            let answer = json::parse(&stdout)?;
            let versions = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
            if !versions.iter().any(|version| version == list.version.as_str()) {
                let msg =
                    format!("plugin {kind} does not support config version {:?}", list.version.as_str());
                return Err(Error::new(Code::INCOMPATIBLE_VERSION, msg));
            }
        }
        Ok(())
    }

    fn cached(&self, list: &ConfList, endpoint: &Endpoint) -> Option<Entry> {
        self.cache.as_ref()?.load(&endpoint.on(&list.name))
    }
}

impl Operation<'_> {
    /// Runs one plugin and gives what it printed.
    fn run(
        &self,
        plugin: &Map<String, Value>,
        prev: Option<&Success>,
        extra: &[(&str, Value)],
    ) -> Result<Vec<u8>> {
        let go = || {
            let kind = plugin["type"].as_str().unwrap_or_default();
            let callee = Callee::find(&self.runtime.path, kind)?;
            let stdin = Value::Object(self.request(plugin, prev, extra)?).to_string();
            let endpoint = self.endpoint;
            let args = endpoint.map(|endpoint| endpoint.args.as_slice()).unwrap_or_default();
            let args: Vec<String> = args.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let env = Env::of_process().with(&[
                ("CNI_CONTAINERID", endpoint.map_or("", |endpoint| endpoint.container_id.as_str())),
                ("CNI_NETNS", endpoint.map_or("", |endpoint| endpoint.netns.as_str())),
                ("CNI_IFNAME", endpoint.map_or("", |endpoint| endpoint.ifname.as_str())),
                ("CNI_ARGS", &args.join(";")),
                ("CNI_PATH", &self.runtime.path.to_string()),
            ]);
            callee.call(self.command, stdin.as_bytes(), &env, self.deadline)
        };
        go().map_err(|error: Error| match self.command {
            // As libcni has it: a runtime reads these as they come.
            Command::Status | Command::Check => error,
            _ => error.context(self.failed(plugin)),
        })
    }

    /// The plugin's own config with what is the list's and the runtime's.
    fn request(
        &self,
        plugin: &Map<String, Value>,
        prev: Option<&Success>,
        extra: &[(&str, Value)],
    ) -> Result<Map<String, Value>> {
        let mut request = plugin.clone();
        let mut set = |key: &str, value: Value| request.insert(key.to_owned(), value);
        set("name", self.list.name.as_str().into());
        set("cniVersion", self.list.version.as_str().into());
        if let Some(prev) = prev {
            set("prevResult", document(prev, self.list.version)?);
        }
        for (key, value) in extra {
            set(key, value.clone());
        }
        if let (Some(endpoint), Some(Value::Object(declared))) = (self.endpoint, plugin.get("capabilities")) {
            let told: Map<String, Value> = endpoint
                .capabilities
                .iter()
                .filter(|(capability, _)| declared.get(*capability) == Some(&Value::Bool(true)))
                .map(|(capability, value)| (capability.clone(), value.clone()))
                .collect();
            if !told.is_empty() {
                set("runtimeConfig", told.into());
            }
        }
        Ok(request)
    }

    fn failed(&self, plugin: &Map<String, Value>) -> String {
        let name = plugin.get("name").and_then(Value::as_str).map(|name| format!(" name={name:?}"));
        let verb = match self.command {
            Command::Del => "delete".to_owned(),
            other => other.as_str().to_lowercase(),
        };
        format!("plugin type={}{} failed ({verb})", plugin["type"], name.unwrap_or_default())
    }
}

fn document(success: &Success, version: SpecVersion) -> Result<Value> {
    serde_json::from_str(&compat::to_json(success, version)?).coded(Code::INTERNAL, "read back a result")
}

/// A result that can't be read is as good as none.
fn result_of(entry: &Entry, version: SpecVersion) -> Option<Success> {
    compat::from_json(&entry.result, version).ok()
}

impl TryFrom<&Entry> for Endpoint {
    type Error = Error;

    /// As ADD was told it; code 6 when the entry's names are none.
    fn try_from(entry: &Entry) -> Result<Self> {
        let bad =
            |name: &str, text: &str| Error::new(Code::DECODE, format!("cached result: {name} {text:.80?}"));
        let container_id = ContainerId::try_from(entry.container_id.as_str());
        let ifname = IfName::try_from(entry.if_name.as_str());
        Ok(Endpoint {
            container_id: container_id.map_err(|_| bad("containerId", &entry.container_id))?,
            netns: entry.netns.clone(),
            ifname: ifname.map_err(|_| bad("ifName", &entry.if_name))?,
            args: entry.cni_args.clone(),
            capabilities: entry.capability_args.clone(),
            result: None,
        })
    }
}
