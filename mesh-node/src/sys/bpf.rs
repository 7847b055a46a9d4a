//! `bpf(2)` commands that aya offers only for some types of links and maps: opening a pinned link, replacing its program
//! in place, counting keys.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Opens a pinned object, here always a link.
pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    // `struct { pathname, bpf_fd, file_flags }` of `union bpf_attr`.
    #[repr(C)]
    struct ObjectGet {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = ObjectGet { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: attribute and path outlive the call; the kernel only reads them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attr, size_of::<ObjectGet>()) };
    let Ok(fd @ 0..) = i32::try_from(fd) else { return Err(io::Error::last_os_error()) };
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program behind `link`, atomically: no packet and no connect sees the hook empty.
///
/// # Errors
/// What the kernel says: `EINVAL` where the link's type and the program's do not fit.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // `struct { link_fd, new_prog_fd, flags, old_prog_fd }` of the link_update member of `union bpf_attr`.
    #[repr(C)]
    struct LinkUpdate {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let attr = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: the attribute outlives the call and its size is passed with it; the kernel only reads it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_UPDATE, &raw const attr, size_of::<LinkUpdate>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many keys of so many bytes a map has, of any type that knows an order of keys; at most `most`.
///
/// # Errors
/// What the kernel says: `EPERM` without the right to look, `EOPNOTSUPP` where keys have no order.
pub fn count_keys(map: BorrowedFd<'_>, key_size: usize, most: u32) -> io::Result<u32> {
    // `struct { map_fd, key, next_key }` of `union bpf_attr`.
    #[repr(C)]
    struct NextKey {
        map_fd: u32,
        padding: u32,
        key: u64,
        next: u64,
    }
    let (mut key, mut next) = (vec![0_u8; key_size], vec![0_u8; key_size]);
    for count in 0..most {
        let attr = NextKey {
            map_fd: map.as_raw_fd().cast_unsigned(),
            padding: 0,
            // None asks for the first.
            key: if count == 0 { 0 } else { key.as_ptr() as u64 },
            next: next.as_mut_ptr() as u64,
        };
        // SAFETY: attribute and buffers outlive the call, and the kernel writes one key, for which there is room.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_GET_NEXT_KEY, &raw const attr, size_of::<NextKey>())
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ENOENT) { Ok(count) } else { Err(error) };
        }
        std::mem::swap(&mut key, &mut next);
    }
    Ok(most)
}

/// A value as a kernel program has written it; `None` if there are too few bytes.
pub fn read<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the length is checked, the pointer need not be aligned, and every pattern of bits is a value.
    (bytes.len() >= size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The clock of kernel programs: nanoseconds since boot.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure outlives the call; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let (seconds, nanos) = (now.tv_sec.cast_unsigned(), now.tv_nsec.cast_unsigned());
    seconds * 1_000_000_000 + nanos
}

const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_UPDATE: libc::c_int = 29;
