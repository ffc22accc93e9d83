//! The door for files that others may have made: a file is opened without being waited for, and what it is,
//! whose it is and how large is known before anything is done with it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The bits of a mode that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// Opens the file at `path` as `options` say. A symbolic link is not followed, a FIFO not waited for.
///
/// # Errors
/// What open(2) says: `ELOOP` for a link.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Metadata)> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = options.custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    Ok((file, meta))
}

/// As [`open`], but only a regular file that is root's or our user's, into which nobody else can write.
///
/// # Errors
/// As [`open`]; `InvalidInput` for what is no regular file, `PermissionDenied` for what is somebody else's.
pub fn open_own(path: &Path, options: &mut OpenOptions) -> io::Result<(File, Metadata)> {
    let (file, meta) = open(path, options)?;
    regular(path, &meta)?;
    own(path, &meta)?;
    let (path, mode) = (path.display(), meta.mode() & 0o7777);
    if mode & OTHERS_WRITE != 0 {
        let why = format!("others may write to {path} (mode {mode:04o}): look at it, then chmod go-w it");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok((file, meta))
}

fn regular(path: &Path, meta: &Metadata) -> io::Result<()> {
    if meta.is_file() {
        return Ok(());
    }
    let why = format!("{} is no regular file; remove it", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

pub(super) fn own(path: &Path, meta: &Metadata) -> io::Result<()> {
    let owner = meta.uid();
    if owner == 0 || owner == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    let why = format!("{} belongs to user {owner}: remove it, or chown it to root", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Reads a file that this suite keeps, if it is our own ([`open_own`]) and has at most `most` bytes.
///
/// # Errors
/// As [`open_own`]; `FileTooLarge`.
pub fn read_own(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, _) = open_own(path, OpenOptions::new().read(true))?;
    read_to_end(path, &file, most)
}

/// As [`read_own`], as text.
///
/// # Errors
/// As [`read_own`]; `InvalidData` when it is not UTF-8.
pub fn read_own_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read_own(path, most)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads a file that somebody named to us: links are followed, but only to a regular file of at most `most` bytes.
///
/// # Errors
/// What open(2) says; `InvalidInput`, `FileTooLarge`.
pub fn read_given(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    regular(path, &file.metadata()?)?;
    read_to_end(path, &file, most)
}

/// The size that is looked at is what comes, not what the file says: it may grow meanwhile.
fn read_to_end(path: &Path, file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let why = format!("{} has more than {most} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

/// Writes `content` over the file at `path`, mode 0600, and gives the file. For hints whose loss harms
/// nobody: a reader may find it torn.
///
/// # Errors
/// What the file system says. What is somebody else's, or has another name elsewhere, is not written to:
/// `PermissionDenied`.
pub fn overwrite(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let (mut file, meta) =
        open_own(path, options.read(true).write(true).create(true).truncate(false).mode(0o600))?;
    if meta.nlink() > 1 {
        let why = format!("{} has another name elsewhere; remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if meta.len() > 0 {
        file.set_len(0)?;
    }
    file.write_all(content)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    struct Bed(tempfile::TempDir);

    impl Bed {
        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            cni_harness::write_file(&self.path(name), text, mode);
            // Whatever the umask is.
            std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(mode)).unwrap();
            self.path(name)
        }
    }

    fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn only_small_regular_files_are_read_and_nothing_is_waited_for() {
        let bed = Bed(tempfile::tempdir().unwrap());
        let small = bed.file("small", "text", 0o600);
        assert_eq!(read_own(&small, 4).unwrap(), b"text");
        assert_eq!(kind(read_own(&small, 3)), Some(ErrorKind::FileTooLarge));
        assert_eq!(kind(read_own(&bed.path("absent"), 3)), Some(ErrorKind::NotFound));

        let fifo = bed.path("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (link, to) in
            [("to-small", small.as_path()), ("to-fifo", &fifo), ("to-zero", Path::new("/dev/zero"))]
        {
            symlink(to, bed.path(link)).unwrap();
        }
        assert_eq!(kind(read_own(&fifo, 4)), Some(ErrorKind::InvalidInput));
        assert!(overwrite(&fifo, b"x").is_err());
        for link in ["to-small", "to-fifo", "to-zero"] {
            assert!(read_own(&bed.path(link), 4).is_err(), "{link}");
            assert!(overwrite(&bed.path(link), b"x").is_err(), "{link}");
        }
        assert_eq!(read_given(&bed.path("to-small"), 4).unwrap(), b"text");
        for link in ["to-fifo", "to-zero"] {
            assert_eq!(kind(read_given(&bed.path(link), 4)), Some(ErrorKind::InvalidInput), "{link}");
        }
        assert_eq!(std::fs::read_to_string(&small).unwrap(), "text");
    }

    #[test]
    fn what_others_may_write_to_is_neither_read_nor_written() {
        let bed = Bed(tempfile::tempdir().unwrap());
        for mode in [0o620, 0o602, 0o666] {
            let file = bed.file("open", "text", mode);
            assert_eq!(kind(read_own(&file, 9)), Some(ErrorKind::PermissionDenied), "{mode:o}");
            assert_eq!(kind(overwrite(&file, b"x")), Some(ErrorKind::PermissionDenied), "{mode:o}");
        }
        let file = bed.file("linked", "text", 0o644);
        std::fs::hard_link(&file, bed.path("other-name")).unwrap();
        assert_eq!(kind(overwrite(&file, b"x")), Some(ErrorKind::PermissionDenied));
        std::fs::remove_file(bed.path("other-name")).unwrap();
        overwrite(&file, b"x").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "x");
        // Who is root in a namespace of his own may have no second user.
        if std::os::unix::fs::chown(&file, Some(1), Some(1)).is_ok() && nix::unistd::geteuid().is_root() {
            assert_eq!(kind(read_own(&file, 9)), Some(ErrorKind::PermissionDenied));
            assert_eq!(kind(overwrite(&file, b"x")), Some(ErrorKind::PermissionDenied));
        }
    }
}
