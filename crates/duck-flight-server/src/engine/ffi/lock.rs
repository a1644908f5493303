//! A lock on the database file that nothing done with the file in this process gives up.
//!
//! DuckDB's own lock is one of POSIX: it belongs to the process, and goes with the first of its handles on the file that is
//! closed, whoever had opened it. A lock of Linux's that belongs to an open file goes with that file only. The two keep each
//! other out, also in one process, so ours has a byte far behind the end, taken out of DuckDB's, which has all of them.

use std::fs::File;
use std::io::Result;

/// Locks the file for as long as it is open, against any other DuckDB. DuckDB has it locked.
///
/// # Errors
/// When the file system does not have such locks.
#[cfg(target_os = "linux")]
pub(crate) fn keep_locked(file: &File) -> Result<()> {
    set(file, libc::F_SETLK, libc::F_UNLCK)?;
    set(file, libc::F_OFD_SETLK, libc::F_WRLCK)
}

/// Does nothing where there are no such locks.
///
/// # Errors
/// Never.
#[cfg(not(target_os = "linux"))]
pub(crate) fn keep_locked(_: &File) -> Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn set(file: &File, command: libc::c_int, kind: libc::c_int) -> Result<()> {
    use std::io::Error;
    use std::os::fd::AsRawFd;

    let short = |value| libc::c_short::try_from(value).map_err(Error::other);
    let lock = libc::flock {
        l_type: short(kind)?,
        l_whence: short(libc::SEEK_SET)?,
        l_start: libc::off_t::MAX - 1,
        l_len: 1,
        l_pid: 0,
    };
    // SAFETY: the file is open, and the command reads a lock, which lives during the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}
