//! Loading and attaching a few hand-made BPF programs, as a CNI on the same machine would have them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// One instruction: operation, registers (source in the high half), offset, immediate.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

/// What a program is and where it attaches, as numbers of `linux/bpf.h`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) program: u32,
    pub(crate) attach: u32,
}

/// Loads a program.
pub(crate) fn load(kind: Kind, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u32; 4],
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let attr = Attr {
        program_type: kind.program,
        count: u32::try_from(instructions.len()).expect("hand-made programs are short"),
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        name: *b"foreign\0\0\0\0\0\0\0\0\0",
        attach_type: kind.attach,
        ..Attr::default()
    };
    command(BPF_PROG_LOAD, &attr)
}

/// Attaches a program; it stays attached as long as the result lives. `target` is a descriptor or an interface.
pub(crate) fn link(program: &OwnedFd, kind: Kind, target: u32, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        relative: [u64; 2],
    }
    let program = u32::try_from(program.as_raw_fd()).expect("descriptors are not negative");
    command(BPF_LINK_CREATE, &Attr { program, target, attach_type: kind.attach, flags, relative: [0; 2] })
}

/// Index of an interface of the calling thread's network namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name is a C string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Opens a map that is pinned in the BPF file system.
pub(crate) fn open_map(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let path = super::c_path(path)?;
    command(BPF_OBJ_GET, &Attr { path: path.as_ptr() as u64, descriptor: 0, flags: 0 })
}

/// Puts an entry into a map. The lengths of key and value have to be the map's.
pub(crate) fn update(map: &OwnedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    element(BPF_MAP_UPDATE_ELEM, map, key, value.as_ptr() as u64)
}

/// Reads an entry of a map. The lengths of key and value have to be the map's.
pub(crate) fn lookup(map: &OwnedFd, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    element(BPF_MAP_LOOKUP_ELEM, map, key, value.as_mut_ptr() as u64)
}

fn element(command: libc::c_int, map: &OwnedFd, key: &[u8], value: u64) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let map = u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?;
    let attr = Attr { map, padding: 0, key: key.as_ptr() as u64, value, flags: 0 };
    let attr = std::ptr::from_ref(&attr);
    // SAFETY: the attribute outlives the call, its size is passed with it, and what it points to lives as long.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<Attr>()) };
    super::check(result).map(drop)
}

fn command<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attribute outlives the call, its size is passed with it, and what it points to lives as long.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    match RawFd::try_from(fd) {
        // SAFETY: a fresh descriptor that nothing else owns.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_CREATE: libc::c_int = 28;
