//! The keys of a network config that every plugin shares.

use super::compat;
use super::error::{Code, Error, Result};
use super::json;
use super::name::{Attachment, ContainerId, IfName, NetworkName};
use super::result::{Dns, Success};
use super::version::SpecVersion;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A network config: read once, its shared keys checked; each plugin reads its own keys with [`NetConf::decode`].
#[derive(Debug, Clone)]
pub struct NetConf {
    /// `cniVersion`; 0.1.0 when there is none.
    pub version: SpecVersion,
    /// `name`
    pub name: NetworkName,
    value: Value,
}

impl NetConf {
    /// Reads stdin's bytes.
    ///
    /// # Errors
    /// In the reference library's order: code 6 when it is not JSON, code 7 when the name is missing or wrong,
    /// code 6 when `cniVersion` is not text, code 1 when we do not know that version.
    pub fn parse(text: &[u8]) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Name {
            name: String,
        }
        let value = json::parse(text)?;
        // A whole config of `null` decodes, and then lacks everything.
        let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
        let Name { name } = json::decode(&value)?;
        if name.is_empty() {
            return Err(Error::config("missing network name").details("the config has no key \"name\""));
        }
        let name = NetworkName::try_from(name.clone()).map_err(|bad| {
            Error::config("invalid characters found in network name").details(format!(
                "{name:.80?}: {bad}; a name is 1 to 255 of a-z A-Z 0-9 _ . - and starts with a letter or digit"
            ))
        })?;
        let version = version_of(&value)?;
        Ok(Self { version, name, value })
    }

    /// The `cniVersion` of a text that need not be a right config in all else.
    #[must_use]
    pub fn version_in(text: &[u8]) -> Option<SpecVersion> {
        let value = json::parse(text).ok().filter(Value::is_object)?;
        version_of(&value).ok()
    }

    /// Reads a plugin's own keys.
    ///
    /// # Errors
    /// Code 6 when a value has the wrong type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        json::decode(&self.value)
    }

    /// The result of the plugin before this one in the chain; on DEL and CHECK, of the whole ADD.
    ///
    /// # Errors
    /// Code 6 when it is not a result.
    pub fn prev_result(&self) -> Result<Option<Success>> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Prev {
            prev_result: Option<Value>,
        }
        let Prev { prev_result } = self.decode()?;
        prev_result
            .map(|document| compat::from_json(&document, self.version))
            .transpose()
            .map_err(|error| Error::new(Code::DECODE, "could not parse prevResult").details(error))
    }

    /// The same, for CHECK, which can't do without.
    ///
    /// # Errors
    /// Code 7 when there is none, 6 when it is not a result.
    pub fn required_prev_result(&self) -> Result<Success> {
        self.prev_result()?.ok_or_else(|| {
            Error::config("Required prevResult missing")
                .details("CHECK compares with what ADD printed; libcni keeps that in its cache")
        })
    }

    /// GC's list of the attachments that live, in either spelling (`cni.dev/attachments` is older libraries').
    ///
    /// # Errors
    /// Code 7 when neither is there: without the list nobody may free anything. Code 6 when it is malformed.
    pub fn valid_attachments(&self) -> Result<Vec<Attachment>> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Lists {
            #[serde(rename = "cni.dev/valid-attachments")]
            valid: Option<Vec<Item>>,
            #[serde(rename = "cni.dev/attachments")]
            older: Option<Vec<Item>>,
        }
        #[derive(Deserialize)]
        struct Item {
            #[serde(rename = "containerID")]
            container_id: ContainerId,
            ifname: IfName,
        }
        let lists: Lists = self.decode()?;
        let items = lists.valid.or(lists.older).ok_or_else(|| {
            Error::config("GC needs the key \"cni.dev/valid-attachments\"").details(
                "without a list of the attachments in use nothing is freed; an empty list frees all of the network",
            )
        })?;
        let attachment = |item: Item| Attachment {
            network: self.name.clone(),
            container_id: item.container_id,
            ifname: item.ifname,
        };
        Ok(items.into_iter().map(attachment).collect())
    }
}

fn version_of(value: &Value) -> Result<SpecVersion> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Version {
        cni_version: String,
    }
    let Version { cni_version } = json::decode(value).map_err(|error| {
        Error::new(Code::DECODE, "decoding version from network config").details(error.msg())
    })?;
    SpecVersion::parse(&cni_version)
}

/// A config's `dns`: unlike a result's, it tells "not given" from "given and empty".
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DnsConf {
    nameservers: Option<Vec<String>>,
    domain: String,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

impl DnsConf {
    /// The key `dns` of a config.
    ///
    /// # Errors
    /// Code 6 for a wrong type.
    pub fn read(conf: &NetConf) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Wire {
            dns: DnsConf,
        }
        let Wire { dns } = conf.decode()?;
        Ok(dns)
    }

    /// The settings to use: these, when anything is given here (an explicit `[]` is), else IPAM's.
    #[must_use]
    pub fn or(&self, ipam: &Dns) -> Dns {
        let given = self.nameservers.is_some()
            || self.search.is_some()
            || self.options.is_some()
            || !self.domain.is_empty();
        if !given {
            return ipam.clone();
        }
        Dns {
            nameservers: self.nameservers.clone().unwrap_or_default(),
            domain: self.domain.clone(),
            search: self.search.clone().unwrap_or_default(),
            options: self.options.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_keys_fail_with_their_codes_in_order() {
        for (text, code, word) in [
            ("{", 6, "not valid JSON"),
            ("", 6, "not valid JSON"),
            ("{} {}", 6, "not valid JSON"),
            ("null", 7, "missing network name"),
            ("{}", 7, "missing network name"),
            (r#"{"name":null}"#, 7, "missing network name"),
            (r#"{"name":7}"#, 6, "\"name\""),
            (r#"{"name":"a/b","cniVersion":7}"#, 7, "invalid characters"),
            (r#"{"name":"a","cniVersion":7}"#, 6, "decoding version"),
            (r#"{"name":"a","cniVersion":"1.0"}"#, 1, "incompatible"),
            (r#"{"name":"a","cniVersion":"9.9.9"}"#, 1, "incompatible"),
        ] {
            let error = NetConf::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.code.0, code, "{text} → {error}");
            assert!(error.msg().contains(word), "{text} → {error}");
        }
        let conf = NetConf::parse(br#"{"NAME":"a"}"#).unwrap();
        assert_eq!((conf.name.as_str(), conf.version), ("a", SpecVersion::V0_1_0));
    }

    #[test]
    fn gc_takes_both_spellings_and_no_list_frees_nothing() {
        let read = |list: &str| {
            NetConf::parse(format!(r#"{{"name":"n"{list}}}"#).as_bytes()).unwrap().valid_attachments()
        };
        assert_eq!(read("").unwrap_err().code, Code::INVALID_CONFIG);
        assert_eq!(read(r#","cni.dev/valid-attachments":null"#).unwrap_err().code, Code::INVALID_CONFIG);
        assert_eq!(read(r#","cni.dev/valid-attachments":[]"#).unwrap(), []);
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let list = read(&format!(r#","{key}":[{{"containerID":"c","ifname":"eth0"}}]"#)).unwrap();
            assert_eq!((list[0].container_id.as_str(), list[0].ifname.as_str()), ("c", "eth0"));
        }
        let both =
            r#","cni.dev/attachments":[],"cni.dev/valid-attachments":[{"containerID":"c","ifname":"e"}]"#;
        assert_eq!(read(both).unwrap().len(), 1);
        for bad in [r#"[{"containerID":"../x","ifname":"e"}]"#, r#"[{"containerID":"c"}]"#, "7", r#"["x"]"#] {
            assert_eq!(
                read(&format!(r#","cni.dev/valid-attachments":{bad}"#)).unwrap_err().code,
                Code::DECODE,
                "{bad}"
            );
        }
    }

    #[test]
    fn dns_of_the_config_replaces_ipams_whole() {
        let ipam = Dns { nameservers: vec!["1.1.1.1".into()], ..Dns::default() };
        let conf =
            |text: &str| json::decode::<DnsConf>(&serde_json::from_str(text).unwrap()).unwrap().or(&ipam);
        assert_eq!(conf("{}"), ipam);
        assert_eq!(conf(r#"{"search":[]}"#), Dns::default());
        assert_eq!(conf(r#"{"domain":"d"}"#), Dns { domain: "d".into(), ..Dns::default() });
    }
}
