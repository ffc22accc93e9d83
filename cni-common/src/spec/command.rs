//! The commands of the execution protocol and the variables that each needs (SPEC.md, "Section 2").

use super::SpecVersion;
use std::fmt;

/// What `CNI_COMMAND` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add,
    /// Detach it.
    Del,
    /// Look whether the attachment is as ADD left it.
    Check,
    /// Free what no attachment in the list owns.
    Gc,
    /// Say whether ADD could succeed.
    Status,
    /// List the versions we speak.
    Version,
}

/// A variable of the execution protocol that some command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Var {
    /// `CNI_COMMAND`
    Command,
    /// `CNI_CONTAINERID`
    ContainerId,
    /// `CNI_NETNS`
    Netns,
    /// `CNI_IFNAME`
    IfName,
    /// `CNI_PATH`
    Path,
}

impl Var {
    /// All of them, in the order in which they are checked.
    pub const ALL: [Self; 5] = [Self::Command, Self::ContainerId, Self::Netns, Self::IfName, Self::Path];

    /// The variable's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "CNI_COMMAND",
            Self::ContainerId => "CNI_CONTAINERID",
            Self::Netns => "CNI_NETNS",
            Self::IfName => "CNI_IFNAME",
            Self::Path => "CNI_PATH",
        }
    }
}

impl Command {
    /// The command of that name, in capitals.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|command| command.as_str() == text)
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The variables without which it can't run. `CNI_PATH` is asked for where a delegate is to be found, not here:
    /// the specification calls it optional but for GC.
    #[must_use]
    pub const fn needs(self) -> &'static [Var] {
        match self {
            Self::Add | Self::Check => &[Var::ContainerId, Var::Netns, Var::IfName],
            // The namespace may be gone by now.
            Self::Del => &[Var::ContainerId, Var::IfName],
            Self::Gc => &[Var::Path],
            Self::Status | Self::Version => &[],
        }
    }

    /// The first version of the specification that has it.
    #[must_use]
    pub const fn since(self) -> SpecVersion {
        match self {
            Self::Add | Self::Del | Self::Version => SpecVersion::V0_1_0,
            Self::Check => SpecVersion::V0_4_0,
            Self::Gc | Self::Status => SpecVersion::V1_1_0,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
