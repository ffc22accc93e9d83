//! Which of the kernel's two packet filters does a plugin's work.

use super::iptables::{self, Iptables};
use super::nft;
use crate::spec::{Error, Result};

/// A packet filter, as a config asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// nf_tables where the kernel has them, else iptables.
    #[default]
    Auto,
    /// nf_tables.
    Nftables,
    /// iptables.
    Iptables,
}

impl Backend {
    /// Whether an ADD could use it for `what`, which an error names.
    ///
    /// # Errors
    /// What is missing.
    pub fn available(self, what: &str) -> Result<()> {
        let nftables = || {
            let msg = format!("{what} needs nf_tables, which this kernel lacks");
            nft::available().map_err(|refusal| Error::from(refusal).context(msg))
        };
        let iptables = || Iptables::find(iptables::Family::V4).map(drop);
        match self {
            Self::Nftables => nftables(),
            Self::Iptables => iptables(),
            Self::Auto => nftables().or_else(|error| iptables().map_err(|_| error)),
        }
    }
}
