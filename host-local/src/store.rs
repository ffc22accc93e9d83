//! Leases on disk: one folder a network, one file an address, the file says who holds it.
//!
//! ```text
//! <dataDir>/<network>/10.1.0.2             containerID CR LF ifname     0600
//! <dataDir>/<network>/last_reserved_ip.0   10.1.0.2                     0600   a hint: where to look on
//! <dataDir>/<network>/lock                 empty; flock(2)
//! ```
//!
//! These are the reference plugin's bytes, so that both may work on one folder. A lease appears whole: it is written
//! to `.lease.new` and then linked to its address. Old releases wrote the container ID alone; such a lease is held
//! by any interface of that container.
//!
//! Read [`Store::lock`], then [`Locked::reserve`]; [`Locked::release`] forgives what is absent.

use cni_common::disk::{FileLock, create_whole, overwrite};
use cni_common::spec::{Attachment, Coded, Result};
use nix::libc;
use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const ASIDE: &str = ".lease.new";
/// No lease is longer: an ID and an interface name. What is, is not read further.
const MAX_LEASE: u64 = 1024;

/// Who a lease file says holds its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// An interface of a container.
    Attachment {
        /// The container's ID.
        container_id: String,
        /// The interface's name inside it.
        ifname: String,
    },
    /// A container, as old releases wrote it.
    Container(String),
    /// Nobody that can be made out: the file is empty, torn, foreign, or can't be read. Why, for people.
    Unknown(String),
}

impl Holder {
    fn parse(text: &str) -> Self {
        let text = text.trim();
        match text.split_once("\r\n") {
            Some((container_id, ifname)) => {
                Self::Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() }
            }
            None if text.is_empty() => Self::Unknown("the file is empty".to_owned()),
            None if text.contains(char::is_whitespace) => Self::Unknown("its text is not a lease".to_owned()),
            None => Self::Container(text.to_owned()),
        }
    }

    /// Whether it is exactly `attachment`.
    #[must_use]
    pub fn is(&self, attachment: &Attachment) -> bool {
        matches!(self, Self::Attachment { container_id, ifname }
            if container_id == attachment.container_id.as_str() && ifname == attachment.ifname.as_str())
    }

    /// Whether it is `attachment`'s container, written by an old release.
    #[must_use]
    pub fn is_old_form_of(&self, attachment: &Attachment) -> bool {
        matches!(self, Self::Container(id) if id == attachment.container_id.as_str())
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attachment { container_id, ifname } => write!(f, "{ifname} of container {container_id}"),
            Self::Container(id) => write!(f, "container {id}"),
            Self::Unknown(why) => write!(f, "nobody known ({why})"),
        }
    }
}

/// An address that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub ip: IpAddr,
    /// Who holds it.
    pub holder: Holder,
}

/// The folder of one network's leases.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// The folder, while nobody else changes it.
#[derive(Debug)]
pub struct Locked<'a> {
    store: &'a Store,
    _lock: FileLock,
}

impl Store {
    /// The folder of `network` in `data_dir`. Nothing is touched.
    #[must_use]
    pub fn new(data_dir: &Path, network: &cni_common::spec::NetworkName) -> Self {
        Self { dir: data_dir.join(network.as_str()) }
    }

    /// Makes the folder where it is missing and waits for its lock.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn lock(&self) -> Result<Locked<'_>> {
        let doing = || format!("make the folder of leases {}", self.dir.display());
        DirBuilder::new().recursive(true).mode(0o755).create(&self.dir).io(doing())?;
        self.take_lock()
    }

    /// As [`Store::lock`], but `None` where there is no folder: then there is nothing to free either.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn lock_existing(&self) -> Result<Option<Locked<'_>>> {
        match std::fs::metadata(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => {
                other.io(format!("look at the folder of leases {}", self.dir.display()))?;
                self.take_lock().map(Some)
            }
        }
    }

    fn take_lock(&self) -> Result<Locked<'_>> {
        let path = self.dir.join(LOCK);
        let lock = FileLock::exclusive(&path, 0o750).io(format!("lock {}", path.display()))?;
        Ok(Locked { store: self, _lock: lock })
    }

    /// Every lease. Files that are not named like an address are somebody else's.
    ///
    /// # Errors
    /// Code 5: what the file system says. No folder, no leases.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        let doing = format!("list the leases in {}", self.dir.display());
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            other => other.io(&doing)?,
        };
        let mut leases = Vec::new();
        for entry in entries {
            let entry = entry.io(&doing)?;
            let Some(ip) = entry.file_name().to_str().and_then(parse_name) else { continue };
            // Released by somebody between the listing and now.
            let Some(holder) = read_holder(&entry.path()) else { continue };
            leases.push(Lease { ip, holder });
        }
        Ok(leases)
    }

    fn lease_path(&self, ip: IpAddr) -> PathBuf {
        self.dir.join(ip.to_string())
    }

    fn hint_path(&self, set: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{set}"))
    }

    /// Whether leases can be made here, without making one.
    ///
    /// # Errors
    /// Code 5: what the file system says of the folder, or of the nearest one above it that exists.
    pub fn check_writable(&self) -> Result<()> {
        let existing = self.dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
        let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
        let writable = nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK);
        writable.io(format!("write leases to {} (at {})", self.dir.display(), existing.display()))?;
        if existing.is_dir() {
            return Ok(());
        }
        Err(io::Error::from(io::ErrorKind::NotADirectory))
            .io(format!("write leases to {}", existing.display()))
    }
}

/// An address, when `name` is written exactly as a lease's file is.
fn parse_name(name: &str) -> Option<IpAddr> {
    name.parse().ok().filter(|ip: &IpAddr| ip.to_string() == name)
}

/// `None` when the file is gone.
fn read_holder(path: &Path) -> Option<Holder> {
    // A link planted there is not followed, a FIFO does not hold us.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let read = OpenOptions::new().read(true).custom_flags(flags).open(path).and_then(|file| {
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_LEASE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    match read {
        Ok(text) => Some(Holder::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Holder::Unknown(error.to_string())),
    }
}

impl Locked<'_> {
    /// Every lease.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        self.store.leases()
    }

    /// Leases `ip` to `attachment`; false when somebody has it.
    ///
    /// # Errors
    /// Code 5: what the file system says; then nothing was leased.
    pub fn reserve(&self, ip: IpAddr, attachment: &Attachment) -> Result<bool> {
        let text = format!("{}\r\n{}", attachment.container_id, attachment.ifname);
        let path = self.store.lease_path(ip);
        match create_whole(&path, &self.store.dir.join(ASIDE), text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true).io(format!("write the lease {}", path.display())),
        }
    }

    /// Frees `ip`.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn release(&self, ip: IpAddr) -> Result<()> {
        let path = self.store.lease_path(ip);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.io(format!("remove the lease {}", path.display())),
        }
    }

    /// The address that was handed out last from the set with that number; a hint that may be wrong or missing.
    #[must_use]
    pub fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        std::fs::read_to_string(self.store.hint_path(set)).ok()?.trim().parse().ok()
    }

    /// Notes the address that was handed out last. That it can't be noted costs nobody an address.
    pub fn note_last_reserved(&self, set: usize, ip: IpAddr) {
        let path = self.store.hint_path(set);
        if let Err(error) = overwrite(&path, ip.to_string().as_bytes()) {
            eprintln!("host-local: {} could not be written: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_says_who_holds_it() {
        let attachment = |id: &str, ifname: &str| Holder::Attachment {
            container_id: id.to_owned(),
            ifname: ifname.to_owned(),
        };
        for (text, want) in [
            ("c1\r\neth0", attachment("c1", "eth0")),
            (" c1\r\neth0 \n", attachment("c1", "eth0")),
            ("c1", Holder::Container("c1".to_owned())),
            ("c1\n", Holder::Container("c1".to_owned())),
        ] {
            assert_eq!(Holder::parse(text), want, "{text:?}");
        }
        for text in ["", " \r\n", "c1\neth0", "not a lease"] {
            assert!(matches!(Holder::parse(text), Holder::Unknown(_)), "{text:?}");
        }
    }

    #[test]
    fn only_an_address_in_its_own_spelling_names_a_lease() {
        for (name, is) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("FD00::1", false),
            ("fd00:0::1", false),
            ("lock", false),
            ("last_reserved_ip.0", false),
            ("10.0.0.1.new", false),
            (".lease.new", false),
        ] {
            assert_eq!(parse_name(name).is_some(), is, "{name}");
        }
    }
}
