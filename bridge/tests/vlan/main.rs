//! VLANs, on kernels whose bridges can tell ports apart by them. `scripts/test-vm` brings such a kernel; on a machine that
//! has one, `cargo test --package bridge --test vlan` does as well.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "../it/bed.rs"]
mod bed;
#[path = "../it/cleanup.rs"]
mod cleanup;
mod gateway;
mod ports;

use serde_json::{Value, json};

/// The networks that are cleaned up after in each way.
fn kinds() -> Vec<Value> {
    vec![json!({"vlan": 100, "ipMasq": true}), json!({"vlanTrunk": [{"id": 5}, {"minID": 10, "maxID": 12}]})]
}
