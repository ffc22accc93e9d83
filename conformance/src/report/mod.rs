//! What a run found, for people and for programs.

mod html;
mod junit;
mod table;
mod tap;

use crate::suite::run::{Outcome, Record};
use crate::suite::subject::Subject;
use serde::Serialize;
use std::collections::BTreeMap;

pub use html::{document, html};
pub use junit::junit;
pub use table::{summary, table};
pub use tap::tap;

/// All that a run found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of this report's format.
    pub format: u32,
    /// The folder of the plugins.
    pub plugin_dir: String,
    /// The kernel's release.
    pub kernel: String,
    /// Each plugin, and the versions of the specification that it speaks.
    pub plugins: BTreeMap<String, Vec<String>>,
    /// How many ended how.
    pub counts: BTreeMap<String, usize>,
    /// Expectations that no case of this run is about.
    pub unused_expectations: Vec<String>,
    /// Every run of a case.
    pub results: Vec<Record>,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything was as expected.
    AsExpected,
    /// Something deviates, or passes that was expected to deviate.
    Deviations,
    /// The suite could not try everything that it should have.
    CouldNotRun,
}

impl Report {
    /// The report of `results`.
    #[must_use]
    pub fn new(
        dir: &std::path::Path,
        subjects: &[Subject],
        unused: Vec<String>,
        results: Vec<Record>,
    ) -> Self {
        let mut counts = BTreeMap::new();
        for outcome in Outcome::ALL {
            counts.insert(
                outcome.name().to_owned(),
                results.iter().filter(|record| record.outcome == outcome).count(),
            );
        }
        let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        Self {
            format: 1,
            plugin_dir: dir.display().to_string(),
            kernel: kernel.unwrap_or_default(),
            plugins: subjects
                .iter()
                .map(|subject| (subject.name.clone(), subject.versions.clone()))
                .collect(),
            counts,
            unused_expectations: unused,
            results,
        }
    }

    /// How many ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.counts.get(outcome.name()).copied().unwrap_or_default()
    }

    /// How the run ends.
    #[must_use]
    pub fn ending(&self) -> Ending {
        if self.count(Outcome::Broken) > 0 || self.results.is_empty() {
            Ending::CouldNotRun
        } else if self.count(Outcome::Deviates) + self.count(Outcome::UnexpectedPass) > 0 {
            Ending::Deviations
        } else {
            Ending::AsExpected
        }
    }

    /// The plugins, and how many runs of each ended so.
    fn by_plugin(&self, outcome: Outcome) -> BTreeMap<&str, usize> {
        let mut found: BTreeMap<&str, usize> =
            self.plugins.keys().map(|plugin| (plugin.as_str(), 0)).collect();
        for record in self.results.iter().filter(|record| record.outcome == outcome) {
            *found.entry(&record.plugin).or_default() += 1;
        }
        found
    }
}

impl Outcome {
    /// All that there are.
    pub const ALL: [Self; 6] = [
        Self::Passed,
        Self::Deviates,
        Self::KnownDeviation,
        Self::UnexpectedPass,
        Self::Untried,
        Self::Broken,
    ];

    /// As reports write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Deviates => "deviates",
            Self::KnownDeviation => "known-deviation",
            Self::UnexpectedPass => "unexpected-pass",
            Self::Untried => "untried",
            Self::Broken => "broken",
        }
    }

    /// Whether somebody has to look at it.
    #[must_use]
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Deviates | Self::UnexpectedPass | Self::Broken)
    }
}
