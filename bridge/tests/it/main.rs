//! The `bridge` plugin against real kernels: each test is a machine of its own.

#![allow(
    clippy::unwrap_used,
    clippy::too_many_lines,
    reason = "a test may fail at any line, and tables are long"
)]

mod bed;

mod attach;
mod changed;
mod cleanup;
mod failing;
mod garbage;
mod iptables;
mod masquerade;
mod networks;
mod options;
mod others;
mod spoof;

/// The networks that are cleaned up after in each way.
fn kinds() -> Vec<serde_json::Value> {
    use serde_json::json;
    vec![
        json!({}),
        json!({"ipMasq": true, "isDefaultGateway": true}),
        json!({"ipMasq": true, "ipMasqBackend": "iptables"}),
        json!({"macspoofchk": true}),
    ]
}
