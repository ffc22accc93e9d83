//! Times `host-local` against the number of leases that the network holds, ours and the reference plugin's in turn.
//!
//! `bench-host-local OURS-DIR REFERENCE-DIR`: whole processes from the outside, on folders of their own in the temporary
//! folder. Prints a table of medians and 95th percentiles in milliseconds, and throughput with many at once.

use cni_conformance::call::percentile;
use cni_conformance::{Call, write_file};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The last is 99 % of the range.
const SIZES: [usize; 5] = [0, 1_000, 10_000, 60_000, 64_880];
const VERBS: [&str; 5] = ["ADD", "CHECK", "DEL", "DEL unknown", "STATUS"];
/// Runs of each verb at each size; fewer where one takes long.
const RUNS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(4);

struct Side {
    name: &'static str,
    plugins: PathBuf,
    data: tempfile::TempDir,
}

impl Side {
    fn conf(&self, verb: &str) -> Value {
        let version = if verb == "STATUS" { "1.1.0" } else { "1.0.0" };
        json!({"cniVersion": version, "name": "bench", "ipam": {"type": "host-local", "dataDir": self.data.path(),
               "ranges": [[{"subnet": "10.1.0.0/16"}]]}})
    }

    fn call(&self, verb: &str, id: &str) -> Call {
        let command = verb.split(' ').next().unwrap_or_default();
        let call = Call::of(&self.plugins, "host-local").command(command, &self.conf(verb));
        call.attachment(id, "eth0").env("CNI_NETNS", "/run/netns/none")
    }

    fn time(&self, verb: &str, id: &str) -> Duration {
        let call = self.call(verb, id);
        let begun = Instant::now();
        let answer = call.run();
        let took = begun.elapsed();
        assert!(answer.is_ok(), "{}", answer.dump());
        took
    }

    /// Fills the folder with leases up to `size`, from the range's first address on.
    fn fill(&self, from: usize, size: usize) {
        let dir = self.data.path().join("bench");
        let made = std::fs::create_dir_all(&dir);
        assert!(made.is_ok(), "{made:?}");
        for n in from..size {
            let (high, low) = ((n + 2) / 256, (n + 2) % 256);
            write_file(&dir.join(format!("10.1.{high}.{low}")), format!("filler{n}\r\neth0"), 0o600);
        }
        // The reference goes on from here; without it, it would try every lease first.
        let (high, low) = ((size + 1) / 256, (size + 1) % 256);
        write_file(&dir.join("last_reserved_ip.0"), format!("10.1.{high}.{low}"), 0o600);
    }
}

/// The times of each verb on both sides, taken in turn.
fn measure(sides: &[Side; 2]) -> [[Vec<Duration>; 5]; 2] {
    let mut times: [[Vec<Duration>; 5]; 2] = Default::default();
    let begun = Instant::now();
    for run in 0..RUNS {
        for (side, times) in sides.iter().zip(&mut times) {
            // Once the slower side has used up its time, a few runs have to do for it.
            if run >= 5 && side.name == "reference" && begun.elapsed() > PATIENCE {
                continue;
            }
            for (verb, times) in VERBS.iter().zip(times) {
                if *verb == "STATUS" && side.name == "reference" {
                    continue;
                }
                let id = if *verb == "DEL unknown" { "nobody" } else { "bench" };
                times.push(side.time(verb, id));
            }
        }
    }
    times
}

/// ADDs a second with `parallel` processes at once on a store with 1,000 leases.
fn throughput(side: &Side, parallel: usize) -> f64 {
    const ADDS: usize = 400;
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                while let n @ 0..ADDS = next.fetch_add(1, Ordering::Relaxed) {
                    side.time("ADD", &format!("many{parallel}-{n}"));
                }
            });
        }
    });
    let rate = f64::from(u32::try_from(ADDS).unwrap_or_default()) / begun.elapsed().as_secs_f64();
    for n in 0..ADDS {
        side.time("DEL", &format!("many{parallel}-{n}"));
    }
    rate
}

fn main() -> std::io::Result<()> {
    let dirs: Vec<String> = std::env::args().skip(1).collect();
    let [ours, reference] = dirs.as_slice() else {
        return Err(std::io::Error::other("usage: bench-host-local OURS-DIR REFERENCE-DIR"));
    };
    let side = |name, dir: &str| {
        let data = tempfile::tempdir()?;
        Ok::<_, std::io::Error>(Side { name, plugins: Path::new(dir).to_owned(), data })
    };
    let sides = [side("ours", ours)?, side("reference", reference)?];
    let mut out = std::io::stdout().lock();
    writeln!(out, "| leases | | {} |", VERBS.join(" | "))?;
    writeln!(out, "|---|---|{}", "---|".repeat(VERBS.len()))?;
    let mut filled = 0;
    let mut rates = Vec::new();
    for size in SIZES {
        for side in &sides {
            side.fill(filled, size);
        }
        filled = size;
        // The first call after others changed the folder makes the index; it is a cost of its own.
        let first = sides[0].time("DEL unknown", "nobody");
        let times = measure(&sides);
        for (side, times) in sides.iter().zip(&times) {
            let cell = |times: &Vec<Duration>| match times.len() {
                0 => "–".to_owned(),
                _ => format!("{:.2} / {:.2}", percentile(times, 50), percentile(times, 95)),
            };
            let cells: Vec<String> = times.iter().map(cell).collect();
            writeln!(out, "| {size} | {} | {} |", side.name, cells.join(" | "))?;
        }
        writeln!(
            out,
            "| {size} | ours, index made anew | DEL unknown {:.1} | | | | |",
            first.as_secs_f64() * 1000.0
        )?;
        if size == 1_000 {
            for parallel in [1, 16, 64] {
                let [ours, reference] = [&sides[0], &sides[1]].map(|side| throughput(side, parallel));
                rates.push(format!("| {parallel} | {ours:.0} | {reference:.0} | {:.1} |", ours / reference));
            }
        }
    }
    writeln!(
        out,
        "\n| at once | ADDs a second, ours | reference | ratio |\n|---|---|---|---|\n{}",
        rates.join("\n")
    )
}
