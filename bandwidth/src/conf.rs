//! The keys that `bandwidth` knows, from a config's text to limits that were checked once.

use crate::limit::{Bits, BitsPerSecond, DEFAULT_LATENCY, Direction, Limit, Milliseconds, Source};
use cni_common::spec::conf::NetConf;
use cni_common::spec::{Error, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The longest `latency`: a packet that waits for ten seconds is of no use to anybody.
const MAX_LATENCY: u64 = 10_000;

/// A config, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// Towards the pod.
    pub ingress: Option<Limit>,
    /// From the pod.
    pub egress: Option<Limit>,
    /// How long a packet waits at most.
    pub latency: Milliseconds,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    ingress_rate: Option<u64>,
    ingress_burst: Option<u64>,
    egress_rate: Option<u64>,
    egress_burst: Option<u64>,
    runtime_config: RuntimeConfig,
    latency: Option<u64>,
    shaped_subnets: Option<IgnoredAny>,
    unshaped_subnets: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    bandwidth: Option<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

impl Wire {
    /// The numbers to use: with a single one in the config, be it 0, what the runtime says does not count.
    fn entry(self) -> (Source, Entry) {
        let here = [self.ingress_rate, self.ingress_burst, self.egress_rate, self.egress_burst];
        if here.iter().all(Option::is_none) {
            return (Source::Runtime, self.runtime_config.bandwidth.unwrap_or_default());
        }
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] = here.map(Option::unwrap_or_default);
        (Source::Config, Entry { ingress_rate, ingress_burst, egress_rate, egress_burst })
    }
}

impl Conf {
    /// Reads and checks it.
    ///
    /// # Errors
    /// Code 7 for what is wrong, 6 for wrong types.
    pub fn read(conf: &NetConf) -> Result<Self> {
        let wire: Wire = conf.decode()?;
        let latency = latency(wire.latency)?;
        // Known to one release of the reference (1.5) and ignored by all others.
        let subnets = wire.shaped_subnets.is_some() || wire.unshaped_subnets.is_some();
        let (source, entry) = wire.entry();
        let limit = |direction, rate, burst| Limit::new(direction, source, BitsPerSecond(rate), Bits(burst));
        let conf = Self {
            ingress: limit(Direction::Ingress, entry.ingress_rate, entry.ingress_burst)?,
            egress: limit(Direction::Egress, entry.egress_rate, entry.egress_burst)?,
            latency,
        };
        if conf.limits() && subnets {
            cni_common::log!(
                "shapedSubnets and unshapedSubnets are not supported; the limits hold for all traffic"
            );
        }
        Ok(conf)
    }

    /// Whether there is a limit at all.
    #[must_use]
    pub const fn limits(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }
}

fn latency(given: Option<u64>) -> Result<Milliseconds> {
    let Some(given) = given else { return Ok(DEFAULT_LATENCY) };
    match u32::try_from(given) {
        Ok(millis) if (1..=MAX_LATENCY).contains(&given) => Ok(Milliseconds(millis)),
        _ => Err(Error::config(format!("latency {given} is out of range"))
            .details(format!("it is in milliseconds, 1 to {MAX_LATENCY}"))),
    }
}
