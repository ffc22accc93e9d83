//! How much a pod may send or receive at once, beyond its rate.

use serde_json::{Map, Value};

/// A tenth of a second's worth, ten packets at least, kubelet's number at most; in bits.
const LEAST_BURST: u64 = 10 * 1514 * 8;
const MOST_BURST: u64 = i32::MAX as u64;
/// What runtimes that know no better hand over: 2^32 - 1 bits (containerd), and eight times that (CRI-O).
const UNLIMITED_BURST: u64 = u32::MAX as u64;

/// The burst for a rate in bits a second, in bits.
#[must_use]
pub fn burst(rate: u64) -> u64 {
    (rate / 10).clamp(LEAST_BURST, MOST_BURST)
}

/// Gives the capability `bandwidth` of a pod bursts of our own where a runtime handed over "as much as there
/// is": with that, a pod sends for seconds as if it had no limit.
pub fn bound_bursts(capabilities: &mut Map<String, Value>) {
    let Some(limits) = capabilities.get_mut("bandwidth").and_then(Value::as_object_mut) else { return };
    for direction in ["ingress", "egress"] {
        let number = |key: &str| limits.get(&format!("{direction}{key}")).and_then(Value::as_u64);
        let (Some(rate), Some(given)) = (number("Rate"), number("Burst")) else { continue };
        if rate > 0 && given >= UNLIMITED_BURST {
            limits.insert(format!("{direction}Burst"), burst(rate).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_a_burst_without_bound_is_replaced() {
        let mut of = json!({"portMappings": [], "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": u32::MAX,
                            "egressRate": 1_000, "egressBurst": 8 * u64::from(u32::MAX)}});
        bound_bursts(of.as_object_mut().unwrap());
        assert_eq!(
            of["bandwidth"],
            json!({"ingressRate": 10_000_000, "ingressBurst": 1_000_000,
                                           "egressRate": 1_000, "egressBurst": 121_120})
        );
        for kept in [
            json!({"bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 5_000_000}}),
            json!({"bandwidth": {"ingressRate": 0, "ingressBurst": u32::MAX}}),
            json!({"bandwidth": []}),
            json!({}),
        ] {
            let mut of = kept.clone();
            bound_bursts(of.as_object_mut().unwrap());
            assert_eq!(of, kept);
        }
    }
}
