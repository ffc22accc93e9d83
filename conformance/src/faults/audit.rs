//! Everything that a node holds which an attachment may leave.

use cni_harness::snapshot::{Snapshot, files, names, shaping};
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Lines, sorted: links, addresses, routes, VLANs, permanent neighbours, rules, sets and maps, qdiscs and filters, files below `dir`, locks held.
pub fn audit(dir: &Path) -> Vec<String> {
    let mut lines = Snapshot::take().lines();
    lines.extend(shaping().iter().map(|line| format!("shaping {line}")));
    lines.extend(neighbours());
    for folder in ["leases", "state", "cache"] {
        let folder = dir.join(folder);
        let held = |name: &&String| name.ends_with("lock") && is_locked(&folder.join(name));
        let found = names(&folder);
        lines.extend(found.iter().filter(held).map(|name| format!("held lock {name}")));
        // What was handed out last, and indexes, are hints; that they are there is not.
        let texts = files(&folder);
        lines.extend(found.iter().map(|name| {
            let text = texts.get(name).filter(|_| !name.contains("last_reserved_ip"));
            format!("file {name} {:?}", text.map_or("", |text| text.trim()))
        }));
    }
    lines.sort();
    lines
}

/// Those that somebody set; the others are the kernel's own memory.
fn neighbours() -> Vec<String> {
    let output = Command::new("ip").args(["neigh", "show", "nud", "permanent"]).output();
    let text = output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    text.lines().map(|line| format!("neighbour {}", line.trim())).collect()
}

fn is_locked(file: &Path) -> bool {
    File::open(file).is_ok_and(|file| file.try_lock().is_err())
}
