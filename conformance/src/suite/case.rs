//! One requirement.

use super::bed::Bed;
use super::subject::{Role, Subject};
use super::verdict::{Trouble, Verdict};
use super::version::VERSIONS;
use serde::Serialize;

/// How much a requirement binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The specification says must, or the plugin's documentation promises it.
    Must,
    /// The specification says should, or its users can't do well without.
    Should,
    /// Neither says it, but runtimes rely on it.
    Convention,
}

impl Level {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
            Self::Convention => "convention",
        }
    }
}

/// Whom a case is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// Every executable that is a plugin, whatever it does.
    Any,
    /// Every plugin that a working config is known for.
    Configured,
    /// Plugins that make or change an interface of the container.
    Attaching,
    /// Plugins that make an interface, or change what another one made.
    Consulting,
    /// Plugins that make an interface.
    Link,
    /// Plugins that make an interface and ask an IPAM plugin for addresses.
    Delegating,
    /// Plugins that give addresses, or have them given.
    Addressing,
    /// IPAM plugins.
    Ipam,
    /// Plugins that change what another one made.
    Chained,
    /// The plugin of this name.
    Plugin(&'static str),
}

impl On {
    /// Whether it is for `subject`.
    #[must_use]
    pub fn is(self, subject: &Subject) -> bool {
        let role = subject.role;
        let delegating = role == Role::Interface && subject.delegates();
        match self {
            Self::Any => true,
            Self::Configured => role != Role::Unknown,
            Self::Attaching => matches!(role, Role::Interface | Role::Loopback | Role::Chained),
            Self::Consulting => matches!(role, Role::Interface | Role::Chained),
            Self::Link => role == Role::Interface,
            Self::Delegating => delegating,
            Self::Addressing => role == Role::Ipam || delegating,
            Self::Ipam => role == Role::Ipam,
            Self::Chained => role == Role::Chained,
            Self::Plugin(name) => role != Role::Unknown && subject.kind == name,
        }
    }
}

/// A requirement, and how it is tried.
#[derive(Clone, Copy)]
pub struct Case {
    /// `group.name`; who filters or expects goes by it.
    pub id: &'static str,
    /// How much it binds.
    pub level: Level,
    /// Where it comes from.
    pub section: &'static str,
    /// What is asked, in short.
    pub words: &'static str,
    /// Whom it is for.
    pub on: On,
    /// The first and the last of [`VERSIONS`] that have it.
    pub versions: (&'static str, &'static str),
    /// Whether it is tried in each of these versions that the plugin speaks; else in the newest one.
    pub each: bool,
    /// Whether it is tried in the newest of them even if the plugin does not speak that.
    pub anyway: bool,
    /// Tries it.
    pub check: fn(&Bed) -> Verdict,
}

const fn case(level: Level, id: &'static str, section: &'static str, words: &'static str) -> Case {
    Case {
        id,
        level,
        section,
        words,
        on: On::Any,
        versions: ("0.1.0", "1.1.0"),
        each: false,
        anyway: false,
        check: |_| Err(Trouble::Untried(String::new())),
    }
}

/// A requirement of [`Level::Must`].
#[must_use]
pub const fn must(id: &'static str, section: &'static str, words: &'static str) -> Case {
    case(Level::Must, id, section, words)
}

/// A requirement of [`Level::Should`].
#[must_use]
pub const fn should(id: &'static str, section: &'static str, words: &'static str) -> Case {
    case(Level::Should, id, section, words)
}

/// A requirement of [`Level::Convention`].
#[must_use]
pub const fn convention(id: &'static str, section: &'static str, words: &'static str) -> Case {
    case(Level::Convention, id, section, words)
}

impl Case {
    /// Whom it is for; everybody otherwise.
    #[must_use]
    pub const fn on(mut self, on: On) -> Self {
        self.on = on;
        self
    }

    /// The first version that has it.
    #[must_use]
    pub const fn since(mut self, version: &'static str) -> Self {
        self.versions.0 = version;
        self
    }

    /// The last version that has it.
    #[must_use]
    pub const fn until(mut self, version: &'static str) -> Self {
        self.versions.1 = version;
        self
    }

    /// Try it in each version.
    #[must_use]
    pub const fn each(mut self) -> Self {
        self.each = true;
        self
    }

    /// Try it even if the plugin does not say that it speaks the version.
    #[must_use]
    pub const fn anyway(mut self) -> Self {
        self.anyway = true;
        self
    }

    /// How it is tried.
    #[must_use]
    pub const fn check(mut self, check: fn(&Bed) -> Verdict) -> Self {
        self.check = check;
        self
    }

    /// The versions that it is to be tried in on a plugin that speaks `spoken`.
    #[must_use]
    pub fn tried_in(&self, spoken: &[String]) -> Vec<&'static str> {
        let at = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let (first, last) =
            (at(self.versions.0).unwrap_or_default(), at(self.versions.1).unwrap_or_default());
        let has = VERSIONS.get(first..=last).unwrap_or_default().iter().copied();
        let mut versions: Vec<&str> = has.filter(|version| spoken.iter().any(|one| one == version)).collect();
        if self.anyway {
            versions = vec![self.versions.1];
        }
        if !self.each && versions.len() > 1 {
            versions.drain(..versions.len() - 1);
        }
        versions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_that_both_have() {
        let spoken = ["0.3.1", "0.4.0", "1.0.0"].map(str::to_owned);
        let case = must("a.b", "", "");
        assert_eq!(case.tried_in(&spoken), ["1.0.0"]);
        assert_eq!(case.each().tried_in(&spoken), spoken);
        assert_eq!(case.since("0.4.0").each().tried_in(&spoken), ["0.4.0", "1.0.0"]);
        assert_eq!(case.until("0.4.0").tried_in(&spoken), ["0.4.0"]);
        assert_eq!(case.since("1.1.0").tried_in(&spoken), [""; 0]);
        assert_eq!(case.since("1.1.0").anyway().tried_in(&spoken), ["1.1.0"]);
        assert_eq!(case.until("0.2.0").each().tried_in(&spoken), [""; 0]);
    }
}
