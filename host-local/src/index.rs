//! The index: all leases of a network in one file, so that nobody has to read a file a lease.
//!
//! It is a cache. The leases alone are the truth; an index that is missing, torn, of another boot or another version is
//! made anew from them. It lies beside the leases as `.index`, and the reference plugin passes over it.
//!
//! ```text
//! header    magic, boot ID, token, numbers of leases and changes, ctime     64 bytes
//! table     every lease, in the order of addresses                         24 bytes each
//! table     the same, in the order of the holders' hashes
//! changes   made since, appended
//! ```
//!
//! A lease is 16 bytes of address (IPv4 as `::ffff:a.b.c.d`) and 8 of the holder's hash, 0 for "freed". The tables are
//! searched where they lie; the changes are read whole, and when they grow many, the tables are made anew.
//!
//! **How it knows that it is right.** Whoever makes or deletes a lease changes the folder's modification time. So after
//! each change we set that time to a token of our own, a moment now with random nanoseconds, and note it in the header:
//! as long as the folder shows the token, nobody has made or deleted a file since. Comparing plain times would not do:
//! they tick every few milliseconds, and a change within the tick would be missed. But whoever lays a backup over the folder
//! gives it an old token and the index of that time; so the header notes, too, the folder's change time (`st_ctime`) once
//! the token was set, which nobody can set. The header is written last, so a process killed anywhere leaves an index that
//! nobody trusts. Nor does anybody trust one that others may write to, or that says to be larger than we ever make one.
//!
//! **What it may be used for.** To find where to look. A lease that it names is read before it is freed, and a lease is
//! made by link(2), which fails where one exists.

use crate::contents::{Contents, Sorted, Tables};
use crate::record::{Change, HolderHash, Record, address, key};
use cni_common::disk::{open_own, overwrite};
use std::fs::{File, FileTimes, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

const FILE: &str = ".index";
pub(crate) const ASIDE: &str = ".index.new";
const MAGIC: &[u8; 8] = b"CNIidx\x00\x03";
const HEADER: usize = 64;
const RECORD: usize = 24;
/// So many changes are read each time; more are sorted into the tables.
const MOST_CHANGES: u64 = 1024;
/// An index of more is not made: no network of one host has so many.
const MOST_LEASES: u64 = 1 << 20;
/// So many leases are read at once.
const CHUNK: usize = 1024;

fn to_bytes((key, holder): Record) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let (address, hash) = bytes.split_at_mut(16);
    address.copy_from_slice(&key.to_ne_bytes());
    hash.copy_from_slice(&holder.0.to_ne_bytes());
    bytes
}

fn from_bytes(bytes: &[u8]) -> io::Result<Record> {
    let parts = bytes.split_first_chunk().and_then(|(key, hash)| Some((key, hash.first_chunk()?)));
    let (key, hash) = parts.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((u128::from_ne_bytes(*key), HolderHash(u64::from_ne_bytes(*hash))))
}

/// What a folder shows as long as nobody changes what is in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Token {
    /// The folder's modification time, as we set it: seconds and nanoseconds.
    mtime: (i64, i64),
    /// When the folder itself was changed last, which was when we set the other: nanoseconds since 1970.
    ctime: i64,
}

fn token_of(dir: &File) -> io::Result<Token> {
    let meta = dir.metadata()?;
    let ctime = meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec());
    Ok(Token { mtime: (meta.mtime(), meta.mtime_nsec()), ctime })
}

/// An index that was right when it was opened, and stays so as long as the store's lock is held.
#[derive(Debug)]
pub struct Index {
    dir: File,
    file: File,
    token: Token,
    leases: u64,
    changes: u64,
}

impl Index {
    /// The index of the leases in `dir`; `None` when there is none that can be trusted.
    #[must_use]
    pub fn open(dir: &Path, writable: bool) -> Option<Self> {
        let (file, meta) = open_own(&dir.join(FILE), OpenOptions::new().read(true).write(writable)).ok()?;
        let dir = File::open(dir).ok()?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let token = token_of(&dir).ok()?;
        let mut fields = header.chunks_exact(8);
        let mut number =
            || fields.next().and_then(|field| field.first_chunk().copied()).map(u64::from_ne_bytes);
        let (magic, boot) = (number()?, (number()?, number()?));
        let mtime = (number()?.cast_signed(), number()?.cast_signed());
        let (leases, changes) = (number()?, number()?);
        let noted = Token { mtime, ctime: number()?.cast_signed() };
        let is_of_bounded_size = leases <= MOST_LEASES && changes <= MOST_CHANGES;
        let whole = is_of_bounded_size && meta.len() >= offset(2 * leases + changes);
        let trusted =
            whole && magic == u64::from_ne_bytes(*MAGIC) && noted == token && Some(boot) == boot_id();
        trusted.then_some(Self { dir, file, token, leases, changes })
    }

    /// Makes the index anew. It is trusted only once it is sealed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn rebuild(dir: &Path, leases: &Sorted) -> io::Result<Self> {
        let count = leases.count() as u64;
        if count > MOST_LEASES {
            return Err(io::Error::other(format!("{count} leases are too many for one")));
        }
        let aside = dir.join(ASIDE);
        let mut bytes = vec![0; HEADER];
        for table in leases.tables() {
            bytes.extend(table.iter().flat_map(|record| to_bytes(*record)));
        }
        let file = overwrite(&aside, &bytes)?;
        std::fs::rename(&aside, dir.join(FILE))?;
        Ok(Self { dir: File::open(dir)?, file, token: Token::default(), leases: count, changes: 0 })
    }

    /// All leases.
    ///
    /// # Errors
    /// What the file system says; `UnexpectedEof` when records are missing.
    pub fn contents(&self) -> io::Result<Contents> {
        let count = usize::try_from(self.changes).unwrap_or_default();
        let mut bytes = vec![0; count * RECORD];
        self.file.read_exact_at(&mut bytes, offset(2 * self.leases))?;
        let changes = bytes
            .chunks_exact(RECORD)
            .map(|bytes| from_bytes(bytes).map(|(key, holder)| Change { ip: address(key), holder }));
        let tables = OnDisk { file: self.file.try_clone()?, leases: self.leases };
        Ok(Contents::new(Box::new(tables), &changes.collect::<io::Result<Vec<_>>>()?))
    }

    /// Whether the folder has not changed since the index was opened: for readers without the lock, asked after reading.
    #[must_use]
    pub fn is_current(&self) -> bool {
        token_of(&self.dir).is_ok_and(|token| token == self.token)
    }

    /// Notes changes that were made to the leases, and makes the index trusted again.
    ///
    /// # Errors
    /// What the file system says; then nobody trusts the index, and the next who needs one makes it anew.
    pub fn seal(mut self, path: &Path, changes: &[Change]) -> io::Result<()> {
        if self.changes + changes.len() as u64 > MOST_CHANGES {
            self = Self::rebuild(path, &self.contents()?.sorted()?)?;
        }
        let bytes: Vec<u8> =
            changes.iter().flat_map(|change| to_bytes((key(change.ip), change.holder))).collect();
        self.file.write_all_at(&bytes, offset(2 * self.leases + self.changes))?;
        self.changes += changes.len() as u64;
        let token = SystemTime::now() - Duration::from_nanos(RandomState::new().hash_one(0) % 1_000_000_000);
        self.dir.set_times(FileTimes::new().set_modified(token))?;
        let Token { mtime, ctime } = token_of(&self.dir)?;
        let (boot_high, boot_low) = boot_id().ok_or_else(|| io::Error::other("no boot ID"))?;
        let fields = [
            u64::from_ne_bytes(*MAGIC),
            boot_high,
            boot_low,
            mtime.0.cast_unsigned(),
            mtime.1.cast_unsigned(),
            self.leases,
            self.changes,
            ctime.cast_unsigned(),
        ];
        let header: Vec<u8> = fields.iter().flat_map(|field| field.to_ne_bytes()).collect();
        self.file.write_all_at(&header, 0)
    }
}

/// Where the record with that number lies in the file.
fn offset(record: u64) -> u64 {
    HEADER as u64 + record * RECORD as u64
}

/// The tables where they lie.
struct OnDisk {
    file: File,
    leases: u64,
}

impl OnDisk {
    fn read(&self, at: u64) -> io::Result<Record> {
        let mut bytes = [0; RECORD];
        self.file.read_exact_at(&mut bytes, offset(at))?;
        from_bytes(&bytes)
    }
}

impl Tables for OnDisk {
    fn count(&self) -> usize {
        usize::try_from(self.leases).unwrap_or(usize::MAX)
    }

    fn by_address(&self, at: usize) -> io::Result<Record> {
        self.read(at as u64)
    }

    fn by_holder(&self, at: usize) -> io::Result<Record> {
        self.read(self.leases + at as u64)
    }

    fn all(&self) -> io::Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = vec![0; CHUNK * RECORD];
        while records.len() < self.count() {
            let chunk = &mut bytes[..(self.count() - records.len()).min(CHUNK) * RECORD];
            self.file.read_exact_at(chunk, offset(records.len() as u64))?;
            for bytes in chunk.chunks_exact(RECORD) {
                let record = from_bytes(bytes)?;
                if records.last().is_some_and(|(last, _)| *last >= record.0) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "its addresses are in no order"));
                }
                records.push(record);
            }
        }
        Ok(records)
    }
}

/// The kernel's name for this boot (random(4)), which no process outlives: it is read once.
///
/// # Errors
/// When /proc is not there.
pub fn boot_id_text() -> io::Result<&'static str> {
    static TEXT: OnceLock<String> = OnceLock::new();
    if let Some(text) = TEXT.get() {
        return Ok(text);
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(TEXT.get_or_init(|| text))
}

/// After a crash the disk may hold an old index and a new folder; leases outlive a boot, the index does not.
fn boot_id() -> Option<(u64, u64)> {
    let text = boot_id_text().ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range| u64::from_str_radix(digits.get(range)?, 16).ok();
    Some((half(0..16)?, half(16..32)?))
}
