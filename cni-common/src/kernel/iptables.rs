//! iptables, where it is asked for: one `iptables-restore --noflush` a change and family, all its lines or none.
//!
//! There are two of it, which do not see each other's rules: `legacy`, and `nft`, whose tables nf_tables shows.
//! Which is plain `iptables` is the machine's choice, so who looks for old rules asks the kernel which of the two has them.

use super::netlink::Socket;
use super::nft;
use crate::process::{self, program};
use crate::spec::{Code, Error, Result};
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How long the program may wait for others that change rules, and work.
const PATIENCE: Duration = Duration::from_secs(60);

/// A family's iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `iptables`
    V4,
    /// `ip6tables`
    V6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    const fn command(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    const fn nft(self) -> nft::Family {
        match self {
            Self::V4 => nft::Family::V4,
            Self::V6 => nft::Family::V6,
        }
    }

    const fn legacy_tables(self) -> &'static str {
        match self {
            Self::V4 => "/proc/net/ip_tables_names",
            Self::V6 => "/proc/net/ip6_tables_names",
        }
    }
}

/// What chain is looked for.
#[derive(Debug, Clone, Copy)]
pub enum Chain<'a> {
    /// One of these.
    Named(&'a [&'a str]),
    /// Any whose name begins so.
    Prefix(&'a str),
}

/// What a table holds, as `iptables-save` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The names of its chains.
    pub chains: Vec<String>,
    /// Its rules: `-A CHAIN …`.
    pub rules: Vec<String>,
}

/// `iptables-save` and `iptables-restore` of one family and kind.
#[derive(Debug)]
pub struct Iptables {
    save: PathBuf,
    restore: PathBuf,
}

impl Iptables {
    /// The machine's choice; where the kernel has no nf_tables, the one that needs none.
    ///
    /// # Errors
    /// Code 5 when there is none.
    pub fn find(family: Family) -> Result<Self> {
        let name = family.command();
        let legacy = || Self::named(&format!("{name}-legacy")).filter(|_| nft::available().is_err());
        legacy().or_else(|| Self::named(name)).ok_or_else(|| {
            Error::new(Code::IO, format!("no {name}-restore in {} or PATH", program::FOLDERS.join(", ")))
                .details("install iptables, or take the back end \"nftables\", which needs no program")
        })
    }

    /// Those in which such a chain may be: asked of the kernel, so that no program is started in vain. What chains a
    /// legacy table has it does not tell; the answer then is that there is such a table.
    ///
    /// # Errors
    /// Code 5 when there are such rules and no program to change them.
    pub fn holding(family: Family, table: &str, chain: Chain) -> Result<Vec<Self>> {
        let mut kinds = Vec::new();
        let in_nft = |mut socket| match chain {
            Chain::Named(names) => {
                for name in names {
                    if nft::has_chain(&mut socket, family.nft(), &nft::Chain { table, name, hook: None })? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Chain::Prefix(prefix) => nft::chains(&mut socket, family.nft(), table)
                .map(|chains| chains.iter().any(|name| name.starts_with(prefix))),
        };
        // Without nf_tables there is nothing in them.
        if Socket::netfilter().and_then(in_nft).unwrap_or(false) {
            kinds.push("nft");
        }
        if legacy_tables(family).lines().any(|line| line == table) {
            kinds.push("legacy");
        }
        let name = family.command();
        kinds
            .into_iter()
            .map(|kind| Self::named(&format!("{name}-{kind}")).map_or_else(|| Self::find(family), Ok))
            .collect()
    }

    fn named(name: &str) -> Option<Self> {
        Some(Self {
            save: program::find(&format!("{name}-save"))?,
            restore: program::find(&format!("{name}-restore"))?,
        })
    }

    /// What `table` holds.
    ///
    /// # Errors
    /// Code 5: what the program says.
    pub fn saved(&self, table: &str) -> Result<Saved> {
        let mut save = program::alone(&self.save);
        save.args(["-t", table]);
        let output = run(save, "")?;
        let chains = output.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        Ok(Saved {
            chains: chains.map(ToOwned::to_owned).collect(),
            rules: output.lines().filter(|line| line.starts_with("-A ")).map(ToOwned::to_owned).collect(),
        })
    }

    /// Does to `table` what `decide` makes of its contents, and again when somebody else's change came between: that
    /// fails ours whole.
    ///
    /// # Errors
    /// Code 5: what the program says, each time.
    pub fn edit(&self, table: &str, decide: impl Fn(&Saved) -> Vec<String>) -> Result<()> {
        const TRIES: usize = 5;
        let mut outcome = Ok(());
        for _ in 0..TRIES {
            let lines = decide(&self.saved(table)?);
            outcome = if lines.is_empty() { Ok(()) } else { self.change(table, &lines) };
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Does what `lines` say to `table`, all of it or nothing, once nobody else changes it.
    ///
    /// # Errors
    /// Code 5: what the program says.
    pub fn change(&self, table: &str, lines: &[String]) -> Result<()> {
        let input = format!("*{table}\n{}\nCOMMIT\n", lines.join("\n"));
        let mut restore = program::alone(&self.restore);
        restore.args(["--noflush", "--wait"]);
        run(restore, &input).map(drop)
    }
}

/// The names of the tables that legacy iptables has, a line each; none where the kernel has no such thing.
fn legacy_tables(family: Family) -> String {
    // raw, mangle, nat, filter and security: one read gets them, and the kernel tells no size.
    let mut names = [0; 256];
    let len =
        File::open(family.legacy_tables()).and_then(|mut file| file.read(&mut names)).unwrap_or_default();
    String::from_utf8_lossy(&names[..len]).into_owned()
}

fn run(command: Command, input: &str) -> Result<String> {
    let doing = format!("run {}", command.get_program().display());
    let output = process::run(command, input.as_bytes(), PATIENCE)?;
    if !output.status.success() {
        let says = String::from_utf8_lossy(&output.stderr);
        return Err(Error::new(Code::IO, doing).details(format!("{}: {:.1000}", output.status, says.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
