//! What the kernel says when it will not.

use crate::spec::{Code, Error};
use nix::errno::Errno;
use std::borrow::Cow;
use std::fmt;

/// A request that the kernel refused. Callers decide by `errno`, people read the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked for.
    pub doing: String,
    /// The kernel's error number.
    pub errno: Errno,
    /// The kernel's own words about it, when it has any (`NLMSGERR_ATTR_MSG`).
    pub says: Option<String>,
    /// The module that would have what the kernel lacks, if that is known.
    pub module: Option<&'static str>,
}

impl Refusal {
    /// A refusal without further words.
    pub fn new(doing: impl Into<String>, errno: Errno) -> Self {
        Self { doing: doing.into(), errno, says: None, module: None }
    }

    /// Says which module has what was asked for.
    #[must_use]
    pub fn of_module(self, module: &'static str) -> Self {
        Self { module: Some(module), ..self }
    }

    /// What an operator can do about it.
    fn hint(&self) -> Option<Cow<'static, str>> {
        let fixed = match self.errno {
            Errno::EPERM | Errno::EACCES => {
                "the plugin needs CAP_NET_ADMIN in this namespace; run it as root"
            }
            Errno::EXFULL => "a bridge takes at most 1023 ports; use another bridge for this network",
            Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT | Errno::ENOENT => {
                match self.module {
                    Some(module) => {
                        return Some(
                            format!("the kernel lacks it; load its module: modprobe {module}").into(),
                        );
                    }
                    None if self.errno == Errno::ENOENT => return None,
                    None => "the kernel lacks it; is the module loaded?",
                }
            }
            Errno::ENOBUFS | Errno::ENOMEM => "the kernel is short of memory",
            _ => return None,
        };
        Some(fixed.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.doing, self.errno.desc(), self.errno as i32)?;
        if let Some(says) = &self.says {
            write!(f, ": {says}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let reason = match (&refusal.says, refusal.hint()) {
            (Some(says), Some(hint)) => format!(": {says}; {hint}"),
            (Some(text), None) => format!(": {text}"),
            (None, Some(hint)) => format!(": {hint}"),
            (None, None) => String::new(),
        };
        let details = format!("{} (errno {}){reason}", refusal.errno.desc(), refusal.errno as i32);
        Self::new(Code::IO, &refusal.doing).details(details)
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        let says = error.raw_os_error().is_none().then(|| error.to_string());
        Self { says, ..Self::new("talk to the kernel", errno) }
    }
}

/// Deleting what is already gone is no error.
///
/// # Errors
/// Any other refusal.
pub fn absent_ok(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(refusal) if matches!(refusal.errno, Errno::ENODEV | Errno::ENOENT | Errno::ESRCH) => Ok(()),
        other => other,
    }
}

/// Deleting what is in use is not meant, and what is already gone is no error.
///
/// # Errors
/// Any other refusal.
pub fn unused_ok(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(refusal) if refusal.errno == Errno::EBUSY => Ok(()),
        other => absent_ok(other),
    }
}
