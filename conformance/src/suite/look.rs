//! What a machine holds, before and after.

use super::bed::{Bed, Pod, SETTLE};
use super::steps::Step;
use super::subject::Role;
use super::verdict::Verdict;
use crate::expect;
use cni_harness::snapshot::{Snapshot, difference, files, shaping};
use std::time::{Duration, Instant};

/// What a machine holds that an attachment may leave: one line a thing.
pub type Look = Vec<String>;

impl Bed<'_> {
    /// What the host and the folder hold.
    #[must_use]
    pub fn look(&self) -> Look {
        self.note(Step::shell(
            "# the suite looks: ip -d addr; ip route; bridge vlan; nft list ruleset; tc qdisc; find \"$DIR\"",
        ));
        let mut lines = Snapshot::take().lines();
        lines.extend(shaping().iter().map(|line| format!("shaping {line}")));
        for folder in ["leases", "state", "tuning"] {
            let kept = |name: &str| !name.contains("last_reserved_ip") && !name.ends_with("lock");
            let found = files(&self.dir().join(folder)).into_iter().filter(|(name, _)| kept(name));
            lines.extend(found.map(|(name, text)| format!("file {folder}/{name}: {:?}", text.trim())));
        }
        lines.sort();
        lines
    }

    /// What a container holds.
    #[must_use]
    pub fn look_inside(&self, pod: &Pod) -> Look {
        let inside = Snapshot::inside(&pod.path);
        let links = inside.links.iter().map(|(name, text)| format!("link {name}: {text}"));
        let mut found: Vec<String> = links.chain(inside.addresses).chain(inside.routes).collect();
        if self.subject.role == Role::Interface {
            // A container's lo is not theirs; some set it up on their way.
            found.retain(|line| !line.starts_with("lo ") && !line.starts_with("link lo:"));
        }
        found.sort();
        found
    }

    /// The machine has to be as `before`, as soon as the kernel has cleared away what it clears by itself.
    pub fn is_back_to(&self, before: &Look) -> Verdict {
        self.becomes(before, |now| now == before)
    }

    /// Nothing may be there that was not there before.
    pub fn has_no_more_than(&self, before: &Look) -> Verdict {
        self.becomes(before, |now| now.iter().all(|line| before.contains(line)))
    }

    /// What the machine holds that was not there `before`, once the kernel has cleared away what it clears by itself:
    /// links, and what is theirs. A bridge is not of them, and many a plugin leaves one.
    #[must_use]
    pub fn left_since(&self, before: &Look) -> Look {
        let vanishes = |line: &&String| line.starts_with("link ") && !line.contains(r#": kind "bridge" "#);
        let mut now = self.settled(|now| now.iter().filter(vanishes).all(|line| before.contains(line)));
        now.retain(|line| !before.contains(line));
        now
    }

    fn becomes(&self, before: &Look, is_well: impl Fn(&Look) -> bool) -> Verdict {
        let now = self.settled(&is_well);
        let found = difference(before, &now).unwrap_or_default();
        expect!(is_well(&now), "the machine as it was before", "{found}");
        Ok(())
    }

    /// What the machine holds as soon as that is well, or else when the kernel has had its time.
    fn settled(&self, is_well: impl Fn(&Look) -> bool) -> Look {
        let begun = Instant::now();
        loop {
            let now = self.look();
            if is_well(&now) || begun.elapsed() > SETTLE {
                return now;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The container has to be as `before`.
    pub fn is_back_inside(&self, pod: &Pod, before: &Look) -> Verdict {
        let found = difference(before, &self.look_inside(pod));
        expect!(found.is_none(), "the container as it was before", "{}", found.unwrap_or_default());
        Ok(())
    }
}
