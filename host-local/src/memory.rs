//! What two options of ours remember beside the leases: when addresses were freed (`quarantineSeconds`), and the boot that
//! leases were last looked through in (`reclaimAfterReboot`).

use crate::index::boot_id_text;
use crate::store::{Locked, Store};
use cni_common::disk::{overwrite, read_own_text};
use cni_common::spec::{Coded, Result};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

const FREED: &str = ".freed";
const BOOT: &str = ".boot";
/// A boot ID, in bytes.
const MAX_BOOT: u64 = 64;
/// A line for each address of the largest range that anybody waits for.
const MAX_FREED: u64 = 16 << 20;

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Store {
    /// Whether this boot has not looked through the leases yet.
    #[must_use]
    pub fn is_of_earlier_boot(&self) -> bool {
        let noted = read_own_text(&self.dir.join(BOOT), MAX_BOOT).unwrap_or_default();
        boot_id_text().is_ok_and(|current| noted != current)
    }
}

impl Locked<'_> {
    /// Frees the leases that are older than this boot, once a boot (where that can be noted), and names them
    /// on stderr: no container outlives it.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn reclaim_after_reboot(&mut self) -> Result<()> {
        if !self.store.is_of_earlier_boot() {
            return Ok(());
        }
        let doing = "look for leases of an earlier boot";
        let uptime = std::fs::read_to_string("/proc/uptime").io(doing)?;
        let uptime: f64 =
            uptime.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(f64::MAX);
        let booted =
            Duration::try_from_secs_f64(uptime).ok().and_then(|uptime| SystemTime::now().checked_sub(uptime));
        // To be released one by one, they must be known one by one.
        self.leases()?;
        for (lease, since) in self.store.oldest(usize::MAX, |_| true) {
            if booted.is_some_and(|booted| since < booted) {
                self.release(lease.ip)?;
                cni_common::log!("freed {}, held by {} before this boot", lease.ip, lease.holder);
            }
        }
        let current = boot_id_text().io(doing)?;
        let path = self.store.dir.join(BOOT);
        if let Err(error) = overwrite(&path, current.as_bytes()) {
            // The next ADD looks again.
            cni_common::log!("{} could not be written: {error}", path.display());
        }
        Ok(())
    }

    /// Notes when addresses were freed, for as long as somebody may ask. That it can't be noted only means that they may be
    /// given again sooner.
    pub fn note_freed(&self, ips: &[IpAddr], keep: Duration) {
        if keep.is_zero() || ips.is_empty() {
            return;
        }
        let now = seconds(SystemTime::now());
        let kept = self.freed().into_iter().filter(|(since, _)| now.saturating_sub(*since) < keep.as_secs());
        let all = kept.chain(ips.iter().map(|ip| (now, *ip)));
        let lines: Vec<String> = all.map(|(since, ip)| format!("{since} {ip}\n")).collect();
        let path = self.store.dir.join(FREED);
        if let Err(error) = overwrite(&path, lines.concat().as_bytes()) {
            cni_common::log!("{} could not be written: {error}", path.display());
        }
    }

    fn freed(&self) -> Vec<(u64, IpAddr)> {
        let text = read_own_text(&self.store.dir.join(FREED), MAX_FREED).unwrap_or_default();
        let parse = |line: &str| {
            let (since, ip) = line.split_once(' ')?;
            Some((since.parse().ok()?, ip.parse().ok()?))
        };
        text.lines().filter_map(parse).collect()
    }

    /// The addresses that were freed less than `within` ago.
    #[must_use]
    pub fn quarantined(&self, within: Duration) -> Vec<IpAddr> {
        if within.is_zero() {
            return vec![];
        }
        let now = seconds(SystemTime::now());
        let fresh = |(since, _): &(u64, IpAddr)| now.saturating_sub(*since) < within.as_secs();
        self.freed().into_iter().filter(fresh).map(|(_, ip)| ip).collect()
    }
}
