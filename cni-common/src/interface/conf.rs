//! Keys that several interface plugins have. Each is read from the config by itself, beside the plugin's own keys.

use crate::kernel::netlink::{Socket, link};
use crate::plugin::Request;
use crate::spec::conf::NetConf;
use crate::spec::{Code, Error, MacAddr, Result};
use serde::Deserialize;

/// The bytes that a link's MTU may have: the least that IPv4 asks for, the most that a veth takes.
const MTU: std::ops::RangeInclusive<i64> = 68..=65535;

/// Where an MTU comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// The kernel's default.
    Kernel,
    /// So many bytes.
    Bytes(u32),
    /// As the machine's own links have it (`"auto"`, an extension).
    Auto,
}

impl Mtu {
    /// In bytes; `None` leaves it to the kernel.
    ///
    /// # Errors
    /// Code 5: what the kernel says.
    pub fn bytes(self, host: &mut Socket) -> Result<Option<u32>> {
        Ok(match self {
            Self::Kernel => None,
            Self::Bytes(mtu) => Some(mtu),
            Self::Auto => link::smallest_mtu(&link::list(host, None)?),
        })
    }

    /// The key `mtu` of a config.
    ///
    /// # Errors
    /// Code 6 for a wrong type, 7 for a number that is no MTU.
    pub fn read(conf: &NetConf) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Wire {
            mtu: MtuWire,
        }
        let Wire { mtu } = conf.decode()?;
        let MtuWire::Bytes(value) = mtu else { return Ok(Self::Auto) };
        match u32::try_from(value) {
            Ok(0) => Ok(Self::Kernel),
            Ok(mtu) if MTU.contains(&value) => Ok(Self::Bytes(mtu)),
            _ => {
                let msg = format!("mtu: {value} is out of range");
                let want = "want 68 to 65535 bytes, 0 to leave it to the kernel, or \"auto\"";
                Err(Error::config(msg).details(want))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a whole number of bytes, or \"auto\"")]
enum MtuWire {
    Bytes(i64),
    Word(Auto),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Auto {
    Auto,
}

impl Default for MtuWire {
    fn default() -> Self {
        Self::Bytes(0)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Args {
    cni: Mac,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mac {
    mac: String,
}

/// The address that the container's interface is to have; `None` for one of the kernel's or the plugin's choice. The
/// later of the three that is given wins: `CNI_ARGS`, `args.cni.mac`, `runtimeConfig.mac`.
///
/// # Errors
/// Code 4 when `CNI_ARGS` is wrong, 6 for a wrong type, 7 for what is no address of an interface.
pub fn mac(request: &Request) -> Result<Option<MacAddr>> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Wire {
        args: Args,
        runtime_config: Mac,
    }
    let wire: Wire = request.conf.decode()?;
    let by_args = request.arg("MAC")?;
    let given = [
        ("CNI_ARGS MAC", Code::BAD_ENVIRONMENT, by_args.as_deref().unwrap_or("")),
        ("args.cni.mac", Code::INVALID_CONFIG, wire.args.cni.mac.as_str()),
        ("runtimeConfig.mac", Code::INVALID_CONFIG, wire.runtime_config.mac.as_str()),
    ];
    let Some((key, code, text)) = given.into_iter().rev().find(|(_, _, text)| !text.is_empty()) else {
        return Ok(None);
    };
    let mac: MacAddr = text.parse().map_err(|bad| Error::new(code, format!("{key}: {bad:.200}")))?;
    if mac.is_multicast() || mac == MacAddr::ZERO {
        return Err(Error::new(code, format!("{key}: {mac} can't be an interface's address"))
            .details("it names a group, or nobody; the first byte has to be even"));
    }
    Ok(Some(mac))
}

/// `ipam.type`, if there is one.
///
/// # Errors
/// Code 6 for a wrong type.
pub fn ipam(conf: &NetConf) -> Result<Option<String>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Wire {
        ipam: Ipam,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Ipam {
        r#type: String,
    }
    let Wire { ipam } = conf.decode()?;
    Ok(Some(ipam.r#type).filter(|name| !name.is_empty()))
}
