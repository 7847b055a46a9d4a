//! What a file system is.

use std::{ffi::CString, io, mem::MaybeUninit, os::unix::ffi::OsStrExt as _, path::Path};

/// Whether what is written at `path` stays in memory.
pub fn is_memory(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends with a NUL byte, and the structure is as large as the call writes.
    if unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled the structure.
    let stat = unsafe { stat.assume_init() };
    Ok([libc::TMPFS_MAGIC, RAMFS_MAGIC].contains(&stat.f_type))
}

/// `include/uapi/linux/magic.h`
const RAMFS_MAGIC: libc::__fsword_t = 0x8584_58f6;
