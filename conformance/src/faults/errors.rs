//! Which errors a system call can return, of those that are tried.

/// Those of `EINTR`, `EAGAIN`, `ENOMEM`, `ENOSPC`, `EIO`, `EPERM` and `ENOBUFS` that the call `name` can
/// return, by its manual page and the kernel's code. Empty for calls that never fail, and for those whose
/// failure would only show the C library's own end: threads and signals are its business, and memory given
/// back. Nor is the standard library's wait for a child's start failed (see `Point::awaits_exec`).
pub fn of(name: &str) -> &'static [&'static str] {
    match name {
        "read" | "pread64" | "readv" => &["EINTR", "EAGAIN", "EIO"],
        "write" | "pwrite64" | "writev" | "ftruncate" | "fallocate" => &["EINTR", "ENOSPC", "EIO", "EPERM"],
        "sendto" | "sendmsg" => &["EINTR", "EAGAIN", "ENOMEM", "EPERM", "ENOBUFS"],
        "recvfrom" | "recvmsg" => &["EINTR", "EAGAIN", "ENOMEM", "ENOBUFS"],
        "connect" => &["EINTR", "EAGAIN", "ENOMEM", "EPERM"],
        "socket" => &["ENOMEM", "EPERM", "ENOBUFS"],
        "bind" | "getsockname" | "setsockopt" | "getsockopt" => &["ENOMEM", "ENOBUFS"],
        "open" | "openat" | "openat2" => &["EINTR", "ENOMEM", "ENOSPC", "EIO", "EPERM"],
        "mkdir" | "mkdirat" | "rename" | "renameat" | "renameat2" | "link" | "linkat" | "symlink"
        | "symlinkat" => &["ENOMEM", "ENOSPC", "EIO", "EPERM"],
        "unlink" | "unlinkat" | "rmdir" | "chmod" | "fchmod" | "fchmodat" | "ioctl" => {
            &["ENOMEM", "EIO", "EPERM"]
        }
        "stat" | "fstat" | "lstat" | "newfstatat" | "statx" | "readlink" | "readlinkat" | "access"
        | "faccessat" | "faccessat2" | "getdents64" | "chdir" | "getcwd" => &["ENOMEM", "EIO"],
        "fsync" | "fdatasync" => &["EINTR", "ENOSPC", "EIO"],
        "lseek" => &["EIO"],
        "fcntl" => &["EINTR", "EAGAIN", "EPERM"],
        "mmap" => &["EAGAIN", "ENOMEM", "EPERM"],
        "mprotect" | "mremap" | "memfd_create" | "epoll_create1" | "eventfd2" => &["ENOMEM"],
        // Of a process that the plugin starts.
        "execve" => &["EAGAIN", "ENOMEM", "EIO", "EPERM"],
        "clone" | "clone3" | "fork" | "vfork" => &["EAGAIN", "ENOMEM"],
        "epoll_wait" | "epoll_pwait" | "wait4" | "waitid" | "nanosleep" | "clock_nanosleep" | "pause" => {
            &["EINTR"]
        }
        "flock" | "poll" | "ppoll" | "select" | "pselect6" => &["EINTR", "ENOMEM"],
        "getrandom" => &["EINTR", "EAGAIN"],
        "setns" | "unshare" | "mount" | "umount2" => &["ENOMEM", "EPERM"],
        "prctl" | "kill" | "pidfd_open" | "pidfd_send_signal" => &["EPERM"],
        _ => &[],
    }
}
