//! Leases on disk: one folder a network, one file an address, the file says who holds it.
//!
//! ```text
//! <dataDir>/<network>/10.1.0.2             containerID CR LF ifname     0600
//! <dataDir>/<network>/last_reserved_ip.0   10.1.0.2                     0600   a hint: where to look on
//! <dataDir>/<network>/lock                 empty; flock(2)
//! <dataDir>/<network>/.index               all leases again, for speed; see [`crate::index`]
//! <dataDir>/<network>/.freed               when addresses were freed, with quarantineSeconds
//! <dataDir>/<network>/.boot                the boot that leases were last looked through in, with reclaimAfterReboot
//! ```
//!
//! These are the reference plugin's bytes, so that both may work on one folder. A lease appears whole: it is written
//! to `.lease.new` and then linked to its address. Old releases wrote the container ID alone; such a lease is held
//! by any interface of that container.
//!
//! Read [`Store::lock`], then [`Locked::reserve`]; [`Locked::release`] forgives what is absent; [`Locked::finish`] brings
//! the index up to date.

use crate::contents::{Contents, Sorted};
use crate::index::Index;
use crate::lease::{Holder, Lease, parse_name, read_holder};
use crate::record::{Change, HolderHash, key};
use cni_common::disk::{self, FileLock, Patience, create_whole, overwrite};
use cni_common::spec::{Attachment, Code, Coded, Error, Result};
use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const LOCK: &str = "lock";
const ASIDE: &str = ".lease.new";
/// An address, in bytes, with a line's end.
const MAX_HINT: u64 = 64;

/// The folder of one network's leases.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) dir: PathBuf,
}

/// The folder, while nobody else changes it.
#[derive(Debug)]
pub struct Locked<'a> {
    pub(crate) store: &'a Store,
    _lock: FileLock,
    /// Right but for `changes`; none when it was not asked for, or can't be had.
    index: Option<Index>,
    changes: Vec<Change>,
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
        self.distrust()?;
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
                self.distrust()?;
                let locked = self.take_lock()?;
                // What somebody who was killed wrote aside; whoever holds the lock now writes nothing there.
                for aside in [ASIDE, crate::index::ASIDE] {
                    let _ = std::fs::remove_file(self.dir.join(aside));
                }
                Ok(Some(locked))
            }
        }
    }

    /// Leases of others' making are none, and say so.
    fn distrust(&self) -> Result<()> {
        for dir in self.dir.parent().into_iter().chain([self.dir.as_path()]) {
            let looked = disk::distrust(dir, disk::HARM, |text| cni_common::log!("{text}"));
            looked.io(format!("look at the folder of leases {}", self.dir.display()))?;
        }
        Ok(())
    }

    fn take_lock(&self) -> Result<Locked<'_>> {
        let path = self.dir.join(LOCK);
        let doing = format!("lock {}", path.display());
        let say = |text: &str| cni_common::log!("{doing}: {text}");
        let lock = FileLock::exclusive(&path, Patience::default(), say);
        let lock = lock.map_err(|error| {
            let passes = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted);
            let code = if passes { Code::TRY_AGAIN } else { Code::IO };
            Error::new(code, &doing).details(error)
        })?;
        Ok(Locked { store: self, _lock: lock, index: None, changes: vec![] })
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

    /// What is leased, read without the lock: from the index if it is right, else from every lease.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn contents(&self) -> Result<Contents> {
        let index = Index::open(&self.dir, false);
        let indexed = index.and_then(|index| index.contents().ok().filter(|_| index.is_current()));
        indexed.map_or_else(|| Ok(contents_of(&self.leases()?)), Ok)
    }

    /// The leases of `attachment`, read without the lock.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn leases_of(&self, attachment: &Attachment) -> Result<Vec<Lease>> {
        let found = self.verified(&self.contents()?, attachment).filter(|leases| !leases.is_empty());
        found.map_or_else(|| self.leases(), Ok).map(|leases| only_of(leases, attachment))
    }

    /// The leases that the contents name for `attachment`, each read; `None` when one is not as they say, or they can't be
    /// read.
    fn verified(&self, contents: &Contents, attachment: &Attachment) -> Option<Vec<Lease>> {
        let (id, ifname) = (attachment.container_id.as_str(), attachment.ifname.as_str());
        let wanted = [HolderHash::attachment(id, ifname), HolderHash::container(id)];
        let read = |ip| {
            let holder = self.holder_of(ip)?;
            wanted.contains(&(&holder).into()).then_some(Lease { ip, holder })
        };
        contents.held_by(wanted).ok()?.into_iter().map(read).collect()
    }

    /// The `count` oldest leases whose address is wanted, and since when they are held. What can't be read is left out.
    #[must_use]
    pub fn oldest(&self, count: usize, wanted: impl Fn(IpAddr) -> bool) -> Vec<(Lease, SystemTime)> {
        let mut ages: Vec<(SystemTime, IpAddr)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let ip = entry.file_name().to_str().and_then(parse_name).filter(|ip| wanted(*ip));
            let since = entry.metadata().and_then(|meta| meta.modified()).ok();
            ages.extend(since.zip(ip));
        }
        ages.sort_unstable();
        let named = |(since, ip)| Some((Lease { ip, holder: self.holder_of(ip)? }, since));
        ages.into_iter().filter_map(named).take(count).collect()
    }

    /// Who holds `ip`; `None` when it is free.
    #[must_use]
    pub fn holder_of(&self, ip: IpAddr) -> Option<Holder> {
        read_holder(&self.lease_path(ip))
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

/// Of all leases those of `attachment`; only when it has none by its full name, those that old releases gave its
/// container.
fn only_of(leases: Vec<Lease>, attachment: &Attachment) -> Vec<Lease> {
    let (exact, others): (Vec<_>, Vec<_>) = leases.into_iter().partition(|lease| lease.holder.is(attachment));
    if !exact.is_empty() {
        return exact;
    }
    others.into_iter().filter(|lease| lease.holder.is_old_form_of(attachment)).collect()
}

fn sorted(leases: &[Lease]) -> Sorted {
    Sorted::new(leases.iter().map(|lease| (key(lease.ip), (&lease.holder).into())).collect())
}

fn contents_of(leases: &[Lease]) -> Contents {
    Contents::new(Box::new(sorted(leases)), &[])
}

impl Locked<'_> {
    /// Every lease, read one by one; the index is made anew from them.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn leases(&mut self) -> Result<Vec<Lease>> {
        let leases = self.store.leases()?;
        self.changes.clear();
        // An index must not tell of a lease that it does not know whose it is: it may be readable again the next time.
        let all_read = leases.iter().all(|lease| !matches!(lease.holder, Holder::Unreadable(_)));
        self.index = None;
        if all_read {
            self.index =
                Index::rebuild(&self.store.dir, &sorted(&leases)).map_err(|error| self.no_index(&error)).ok();
        }
        Ok(leases)
    }

    /// What is leased: from the index if it is right, else from every lease.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn contents(&mut self) -> Result<Contents> {
        let index = Index::open(&self.store.dir, true);
        if let Some((index, contents)) =
            index.and_then(|index| index.contents().ok().map(|contents| (index, contents)))
        {
            self.index = Some(index);
            return Ok(contents);
        }
        Ok(contents_of(&self.leases()?))
    }

    /// What is leased, and the leases of `attachment`.
    ///
    /// # Errors
    /// Code 5: what the file system says; also when there are none among those that can be read.
    pub fn survey(&mut self, attachment: &Attachment) -> Result<(Contents, Vec<Lease>)> {
        let contents = self.contents()?;
        if let Some(leases) = self.store.verified(&contents, attachment) {
            return Ok((contents, only_of(leases, attachment)));
        }
        self.survey_files(attachment)
    }

    /// The leases of `attachment`, to be freed. When the index knows none, every lease is read: somebody may
    /// have written over a lease where it lies, which the index can't see, and what is not freed now nobody
    /// frees.
    ///
    /// # Errors
    /// As [`Locked::survey`].
    pub fn leases_of(&mut self, attachment: &Attachment) -> Result<Vec<Lease>> {
        let (_, mine) = self.survey(attachment)?;
        if !mine.is_empty() {
            return Ok(mine);
        }
        Ok(self.survey_files(attachment)?.1)
    }

    /// As [`Locked::survey`], from every lease.
    fn survey_files(&mut self, attachment: &Attachment) -> Result<(Contents, Vec<Lease>)> {
        let leases = self.leases()?;
        let contents = contents_of(&leases);
        let unreadable = leases.iter().find_map(|lease| match &lease.holder {
            Holder::Unreadable(why) => Some((lease.ip, why.clone())),
            _ => None,
        });
        let mine = only_of(leases, attachment);
        match unreadable {
            Some((ip, why)) if mine.is_empty() => {
                let why = io::Error::other(why);
                Err(why).io(format!(
                    "read the lease {}, which may be of {attachment}",
                    self.store.lease_path(ip).display()
                ))
            }
            _ => Ok((contents, mine)),
        }
    }

    /// What is leased, from every lease, with what was leased since this lock was taken: the index was wrong.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn contents_anew(&mut self) -> Result<Contents> {
        Ok(contents_of(&self.leases()?))
    }

    /// Who holds `ip`; `None` when it is free.
    #[must_use]
    pub fn holder_of(&self, ip: IpAddr) -> Option<Holder> {
        self.store.holder_of(ip)
    }

    /// Leases `ip` to `attachment`; false when somebody has it.
    ///
    /// # Errors
    /// Code 5: what the file system says; then nothing was leased.
    pub fn reserve(&mut self, ip: IpAddr, attachment: &Attachment) -> Result<bool> {
        let (id, ifname) = (attachment.container_id.as_str(), attachment.ifname.as_str());
        let text = format!("{id}\r\n{ifname}");
        let path = self.store.lease_path(ip);
        match create_whole(&path, &self.store.dir.join(ASIDE), text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            other => other.io(format!("write the lease {}", path.display()))?,
        }
        self.changes.push(Change::leased(ip, HolderHash::attachment(id, ifname)));
        Ok(true)
    }

    /// Frees `ip`.
    ///
    /// # Errors
    /// Code 5: what the file system says.
    pub fn release(&mut self, ip: IpAddr) -> Result<()> {
        let path = self.store.lease_path(ip);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.io(format!("remove the lease {}", path.display()))?,
        }
        self.changes.push(Change::freed(ip));
        Ok(())
    }

    /// Brings the index up to date and lets go of the lock. Without this the index is left for the next to make anew.
    pub fn finish(mut self) {
        let Some(index) = self.index.take() else { return };
        if self.changes.is_empty() && index.is_current() {
            return;
        }
        if let Err(error) = index.seal(&self.store.dir, &self.changes) {
            self.no_index(&error);
        }
    }

    /// Nobody needs the index to be right, only to be quick.
    fn no_index(&self, error: &io::Error) {
        cni_common::log!("the index in {} could not be written: {error}", self.store.dir.display());
    }

    /// The address that was handed out last from the set with that number; a hint that may be wrong or missing.
    #[must_use]
    pub fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        disk::read_own_text(&self.store.hint_path(set), MAX_HINT).ok()?.trim().parse().ok()
    }

    /// Notes the address that was handed out last. That it can't be noted costs nobody an address.
    pub fn note_last_reserved(&self, set: usize, ip: IpAddr) {
        let path = self.store.hint_path(set);
        if let Err(error) = overwrite(&path, ip.to_string().as_bytes()) {
            cni_common::log!("{} could not be written: {error}", path.display());
        }
    }
}
