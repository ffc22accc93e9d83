//! A network's config: the list of plugins that make it, read from a file or from bytes.

use crate::disk::read_given;
use crate::spec::{Code, Coded, Error, NetworkName, Result, SpecVersion};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// No config is larger, in bytes.
const MOST: u64 = 16 << 20;

/// A network and its plugins, in the order of ADD.
#[derive(Debug, Clone)]
pub struct ConfList {
    /// The network's name.
    pub name: NetworkName,
    /// The version that its plugins are called with.
    pub version: SpecVersion,
    /// `disableCheck`: CHECK succeeds without a look.
    pub disable_check: bool,
    /// `disableGC`: GC succeeds and does nothing.
    pub disable_gc: bool,
    plugins: Vec<Map<String, Value>>,
    text: Vec<u8>,
    inlined_only: bool,
}

impl ConfList {
    /// Reads a list of plugins (`.conflist`).
    ///
    /// # Errors
    /// Code 6 when it is no list, code 1 for a version that we do not know.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let list = Self::read(text).map_err(|error| error.context("error parsing configuration list"))?;
        if list.plugins.is_empty() {
            return Err(wrong("no plugins in list"));
        }
        Ok(list)
    }

    /// Reads the config of a single plugin (`.conf`, `.json`) as a list of one.
    ///
    /// # Errors
    /// As [`ConfList::parse`].
    pub fn parse_single(text: &[u8]) -> Result<Self> {
        let plugin: Value = parse(text).map_err(|error| error.context("error parsing configuration"))?;
        if !plugin["type"].is_string() {
            return Err(wrong("error parsing configuration: missing 'type'")
                .details("a list of plugins belongs into a file whose name ends in .conflist"));
        }
        let list = json!({"name": plugin["name"], "cniVersion": plugin["cniVersion"], "plugins": [plugin]});
        Self::parse(list.to_string().as_bytes())
    }

    /// Reads a file as its name's ending says; for a list with the plugins of its drop-in folder `NETWORK/*.conf` behind
    /// its own (libcni 1.1).
    ///
    /// # Errors
    /// As [`ConfList::parse`]; code 5 when it can't be read.
    pub fn load(file: &Path) -> Result<Self> {
        let text = read_given(file, MOST).io(format!("read {}", file.display()))?;
        if file.extension().is_none_or(|ending| ending != "conflist") {
            return Self::parse_single(&text);
        }
        let mut list =
            Self::read(&text).map_err(|error| error.context("error parsing configuration list"))?;
        if !list.inlined_only {
            let folder = file.parent().unwrap_or(Path::new(".")).join(list.name.as_str());
            for part in files_in(&folder, &["conf"])? {
                let doing = format!("failed to parse plugin config {}", part.display());
                let text = read_given(&part, MOST).io(&doing)?;
                let plugin = plugin_of(parse(&text).map_err(|error| error.context(&doing))?)?;
                list.plugins.push(plugin);
            }
        }
        if list.plugins.is_empty() {
            return Err(wrong("no plugin configs found").details(file.display()));
        }
        Ok(list)
    }

    fn read(text: &[u8]) -> Result<Self> {
        let list = parse(text)?;
        let name = match &list["name"] {
            Value::Null => return Err(wrong("no name")),
            Value::String(name) => NetworkName::try_from(name.as_str())
                .map_err(|bad| Error::config(format!("invalid name {name:.80?}: {bad}")))?,
            other => return Err(wrong(format!("invalid name type: {other:.80}"))),
        };
        let plugins = match &list["plugins"] {
            Value::Null => vec![],
            Value::Array(plugins) => plugins.iter().cloned().map(plugin_of).collect::<Result<_>>()?,
            other => return Err(wrong(format!("invalid 'plugins' type: {other:.80}"))),
        };
        Ok(Self {
            name,
            version: version_of(&list)?,
            disable_check: flag(&list, "disableCheck")?,
            disable_gc: flag(&list, "disableGC")?,
            inlined_only: flag(&list, "loadOnlyInlinedPlugins")?,
            plugins,
            text: text.to_vec(),
        })
    }

    /// The `type` of each plugin.
    pub fn types(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.plugins.iter().map(|plugin| plugin["type"].as_str().unwrap_or_default())
    }

    /// Each plugin's own config.
    pub(super) fn plugins(&self) -> &[Map<String, Value>] {
        &self.plugins
    }

    /// Whether a plugin of the list takes what the runtime says under `capability`.
    #[must_use]
    pub fn takes(&self, capability: &str) -> bool {
        self.plugins
            .iter()
            .any(|plugin| plugin.get("capabilities").is_some_and(|has| has[capability] == true))
    }

    /// The bytes that it was read from.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }
}

fn wrong(what: impl std::fmt::Display) -> Error {
    Error::new(Code::DECODE, what)
}

fn parse(text: &[u8]) -> Result<Value> {
    let value = crate::spec::json::parse(text)?;
    if value.is_object() { Ok(value) } else { Err(wrong(format!("want an object, found {value:.80}"))) }
}

fn plugin_of(plugin: Value) -> Result<Map<String, Value>> {
    match plugin {
        Value::Object(plugin) if plugin.get("type").is_some_and(Value::is_string) => Ok(plugin),
        other => Err(wrong("a plugin without 'type'").details(format!("{other:.200}"))),
    }
}

/// A switch, which may be text.
fn flag(list: &Value, key: &str) -> Result<bool> {
    match &list[key] {
        Value::Null => Ok(false),
        Value::Bool(on) => Ok(*on),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(wrong(format!("invalid value {other:.80} for {key}; want true or false"))),
    }
}

/// The newest of `cniVersions` and `cniVersion` that we speak.
fn version_of(list: &Value) -> Result<SpecVersion> {
    let text = |value: &Value| match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong(format!("invalid type for cniVersion: {other:.80}"))),
    };
    let own = text(&list["cniVersion"])?;
    let more = match &list["cniVersions"] {
        Value::Null => vec![],
        Value::Array(versions) => versions.iter().map(text).collect::<Result<_>>()?,
        other => return Err(wrong(format!("invalid type for cniVersions: {other:.80}"))),
    };
    let known = more.iter().filter_map(|version| SpecVersion::parse(version).ok()).max();
    match (known, SpecVersion::parse(&own)) {
        (Some(known), Ok(own)) if !list["cniVersion"].is_null() => Ok(known.max(own)),
        (Some(known), _) => Ok(known),
        (None, own) => own,
    }
}

/// The files right in `folder` whose names have one of these endings, by byte order. None when there is no such folder.
pub(super) fn files_in(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let doing = format!("list {}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.io(&doing)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.io(&doing)?.path();
        let has_ending =
            |path: &Path| path.extension().is_some_and(|has| endings.iter().any(|want| has == *want));
        if has_ending(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_list_is_said_in_libcnis_words() {
        for (text, words) in [
            ("{", "not valid JSON"),
            ("[]", "want an object"),
            (r#"{"plugins":[{"type":"x"}]}"#, "no name"),
            (r#"{"name":7,"plugins":[{"type":"x"}]}"#, "invalid name type"),
            (r#"{"name":"a/b","plugins":[{"type":"x"}]}"#, "invalid name"),
            (r#"{"name":"n"}"#, "no plugins in list"),
            (r#"{"name":"n","plugins":7}"#, "invalid 'plugins' type"),
            (r#"{"name":"n","plugins":[{}]}"#, "a plugin without 'type'"),
            (r#"{"name":"n","disableCheck":7,"plugins":[{"type":"x"}]}"#, "disableCheck"),
            (r#"{"name":"n","cniVersion":"9.9.9","plugins":[{"type":"x"}]}"#, "incompatible CNI versions"),
        ] {
            let error = ConfList::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let error = ConfList::parse_single(br#"{"name":"n","plugins":[{"type":"x"}]}"#).unwrap_err();
        assert!(error.to_string().contains("missing 'type'"), "{error}");
    }

    #[test]
    fn the_newest_known_version_is_chosen() {
        for (versions, want) in [
            (r#""cniVersion":"0.4.0""#, "0.4.0"),
            (r#""cniVersion":"0.4.0","cniVersions":["0.3.1","1.0.0","9.0.0"]"#, "1.0.0"),
            (r#""cniVersion":"1.1.0","cniVersions":["0.3.1"]"#, "1.1.0"),
            (r#""cniVersions":["0.3.1","0.4.0"]"#, "0.4.0"),
            (r#""disableGC":"TRUE""#, "0.1.0"),
        ] {
            let text = format!(r#"{{"name":"n",{versions},"plugins":[{{"type":"x"}}]}}"#);
            assert_eq!(ConfList::parse(text.as_bytes()).unwrap().version.as_str(), want, "{versions}");
        }
    }
}
