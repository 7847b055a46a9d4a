//! The system calls that the standard library lacks: namespaces, mounts, packet sockets, process handles.
//!
//! Invariant: this is the only module of the crate with `unsafe`; every function it offers is safe to call.
#![expect(unsafe_code, reason = "namespaces, mounts and packet sockets have no safe interface in std")]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::thread;

pub(crate) mod affinity;
pub(crate) mod bpf;
pub(crate) mod clock;
pub(crate) mod epoll;
pub(crate) mod halt;
pub(crate) mod ring;
pub(crate) mod send;

/// What a child process enters between `fork` and `exec`. Absent parts are inherited.
#[derive(Debug, Default)]
pub(crate) struct Enter {
    /// A network namespace.
    pub(crate) network: Option<File>,
    /// A mount namespace; the working directory becomes its root.
    pub(crate) mounts: Option<File>,
    /// A UTS namespace (the host name).
    pub(crate) hostname: Option<File>,
    /// A `cgroup.procs` file, open for writing.
    pub(crate) cgroup: Option<File>,
    /// New mount and UTS namespaces of its own, instead of `mounts` and `hostname`.
    pub(crate) fresh: Option<Fresh>,
    /// A session of its own, so that no signal of the terminal reaches it.
    pub(crate) session: bool,
}

/// The mount and UTS namespaces that a process makes for itself.
#[derive(Debug)]
pub(crate) struct Fresh {
    hostname: CString,
    binds: Vec<(CString, CString)>,
}

impl Fresh {
    /// A host name, and files to be mounted over others as `(source, target)`.
    pub(crate) fn new(hostname: &str, binds: &[(&Path, &Path)]) -> io::Result<Self> {
        let mut fresh = Self { hostname: CString::new(hostname)?, binds: Vec::new() };
        for (source, target) in binds {
            fresh.binds.push((c_path(source)?, c_path(target)?));
        }
        Ok(fresh)
    }
}

/// Makes the child of `command` enter all that `enter` names before it executes its program.
pub(crate) fn enter(command: &mut Command, enter: Enter) {
    // SAFETY: the closure runs in the forked child and makes only system calls on file descriptors and C strings
    // that were allocated before the fork; it neither allocates nor takes locks.
    unsafe { command.pre_exec(move || enter_all(&enter)) };
}

fn enter_all(enter: &Enter) -> io::Result<()> {
    if enter.session {
        // SAFETY: setsid takes no pointers; failing (already a leader) is harmless and cannot happen after fork.
        unsafe { libc::setsid() };
    }
    if let Some(procs) = &enter.cgroup {
        // SAFETY: the descriptor is open and the buffer is a static one-byte string; "0" means the writer itself.
        check(unsafe { libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) })?;
    }
    set_namespace(enter.network.as_ref(), libc::CLONE_NEWNET)?;
    set_namespace(enter.hostname.as_ref(), libc::CLONE_NEWUTS)?;
    set_namespace(enter.mounts.as_ref(), libc::CLONE_NEWNS)?;
    release_end_signals()?;
    enter.fresh.as_ref().map_or(Ok(()), make_fresh)
}

/// Undoes [`hold_end_signals`] in a child, which inherits the mask: it could never be asked to end.
fn release_end_signals() -> io::Result<()> {
    let set = end_signals();
    // SAFETY: `set` is an initialised set that lives for the call; the old mask is not wanted.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

fn set_namespace(file: Option<&File>, kind: libc::c_int) -> io::Result<()> {
    let Some(file) = file else { return Ok(()) };
    // SAFETY: the descriptor is open for the duration of the call.
    check(unsafe { libc::setns(file.as_raw_fd(), kind) }).map(drop)
}

fn make_fresh(fresh: &Fresh) -> io::Result<()> {
    // SAFETY: unshare takes no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS) })?;
    // SAFETY: all pointers are NUL-terminated strings that live for the call, or null where the kernel ignores them.
    // Slave, not private: a network namespace that the host unmounts must go away here as well.
    check(unsafe {
        libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_SLAVE | libc::MS_REC, ptr::null())
    })?;
    // SAFETY: the pointer and the length describe the host name's bytes.
    check(unsafe { libc::sethostname(fresh.hostname.as_ptr(), fresh.hostname.as_bytes().len()) })?;
    for (source, target) in &fresh.binds {
        // SAFETY: as above; a bind mount ignores file system type and data.
        check(unsafe {
            libc::mount(source.as_ptr(), target.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null())
        })?;
    }
    Ok(())
}

/// Runs `f` on a thread of its own inside a network namespace and returns its answer. Sockets that `f` opens stay in
/// that namespace; the thread's cgroup is the process's, because cgroup v2 knows processes, not threads.
pub(crate) fn in_network<T: Send>(namespace: &Path, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = File::open(namespace)?;
    thread::scope(|scope| {
        let task = scope.spawn(|| {
            set_namespace(Some(&file), libc::CLONE_NEWNET)?;
            Ok(f())
        });
        task.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A process that can be signalled without ever reaching another one that inherited its number.
#[derive(Debug)]
pub(crate) struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// A handle of the process with this number, which must be a child that has not been waited for.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        // SAFETY: pidfd_open takes a number and flags and returns a new descriptor.
        let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal; a process that has ended already is not an error.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the descriptor is open; a null siginfo asks for the defaults.
        let sent = check(unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        });
        match sent {
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Makes the end of a connection a reset instead of an orderly close.
pub(crate) fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    set_option(stream.as_raw_fd(), libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 })
}

/// Connects from a given local address.
pub(crate) fn connect_from(local: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let family = if remote.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: socket takes no pointers and returns a new descriptor.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(fd, libc::SO_REUSEADDR, &1_i32)?;
    let (address, length) = c_address(local)?;
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), length) })?;
    let (address, length) = c_address(remote)?;
    // SAFETY: as above.
    check(unsafe { libc::connect(fd, (&raw const address).cast(), length) })?;
    Ok(socket.into())
}

/// A socket address as the kernel takes it; the storage begins with the right structure.
fn c_address(addr: SocketAddr) -> io::Result<(libc::sockaddr_storage, libc::socklen_t)> {
    // SAFETY: sockaddr_storage is plain data for which all zeroes is a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let size = match addr {
        SocketAddr::V4(v4) => {
            let address = libc::sockaddr_in {
                sin_family: libc::sa_family_t::try_from(libc::AF_INET).map_err(io::Error::other)?,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is larger and more strictly aligned than any socket address.
            unsafe { ptr::write((&raw mut storage).cast(), address) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let address = libc::sockaddr_in6 {
                sin6_family: libc::sa_family_t::try_from(libc::AF_INET6).map_err(io::Error::other)?,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::write((&raw mut storage).cast(), address) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    Ok((storage, libc::socklen_t::try_from(size).map_err(io::Error::other)?))
}

fn set_option<T>(fd: RawFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the size describe `value`, a plain C type that all callers match to the option.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, ptr::from_ref(value).cast(), size) })
        .map(drop)
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Keeps SIGTERM, SIGINT and SIGHUP from ending this process, so that [`wait_for_end`] can see them. To be called
/// before the first thread starts. Processes that are started through [`enter`] are not affected.
pub(crate) fn hold_end_signals() -> io::Result<()> {
    let set = end_signals();
    // SAFETY: `set` is an initialised set that lives for the call; the old mask is not wanted.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Waits until somebody wants this process to end.
pub(crate) fn wait_for_end() {
    let set = end_signals();
    let mut signal = 0;
    // SAFETY: both pointers are to live locals; it fails only for a set that is none.
    unsafe { libc::sigwait(&raw const set, &raw mut signal) };
}

fn end_signals() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset then makes it a valid set, and the signals exist.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Signals a process. The caller has made sure that the number still means the process it wants.
pub(crate) fn signal(pid: libc::pid_t, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill takes two numbers.
    match check(unsafe { libc::kill(pid, signal) }) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// Detaches a mount at once; a path that is no mount point is not an error.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path is a NUL-terminated string that lives for the call.
    match check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        other => other.map(drop),
    }
}

/// Mounts the BPF file system at `path`.
pub(crate) fn mount_bpf(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: all strings are NUL-terminated and live for the call; no data is passed.
    check(unsafe { libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, ptr::null()) }).map(drop)
}

/// A raw packet socket that sees every frame of every interface of the current network namespace.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

/// One received frame's place in the buffer.
pub(crate) struct Frame {
    /// Bytes of the buffer that the frame fills.
    pub(crate) length: usize,
    /// It crossed the loopback interface.
    pub(crate) loopback: bool,
}

impl PacketSocket {
    /// Opens the socket in the calling thread's network namespace. Reads wait 50 ms at most.
    pub(crate) fn open() -> io::Result<Self> {
        let everything = libc::c_int::from(ETH_P_ALL.to_be());
        // SAFETY: socket takes no pointers and returns a new descriptor.
        let fd =
            check(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, everything) })?;
        // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        set_option(fd, libc::SO_RCVBUFFORCE, &CAPTURE_BUFFER)?;
        set_option(fd, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 50_000 })?;
        Ok(socket)
    }

    /// The next frame, or `None` when none came in time.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Frame>> {
        // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut size = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
        // SAFETY: the pointers and lengths describe `buffer`, `from` and `size`, all of which outlive the call.
        let got = check(unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                ptr::from_mut(&mut from).cast(),
                &raw mut size,
            )
        });
        match got {
            Ok(length) => Ok(Some(Frame {
                length: usize::try_from(length).unwrap_or(0),
                loopback: from.sll_hatype == libc::ARPHRD_LOOPBACK,
            })),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    let path: &OsStr = path.as_ref();
    Ok(CString::new(path.as_bytes())?)
}

fn check<T: PartialOrd + Default>(result: T) -> io::Result<T> {
    if result < T::default() { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// All protocols (`linux/if_ether.h`).
const ETH_P_ALL: u16 = 3;

/// Receive buffer of a capture, in bytes: enough for a burst while the reading thread has no processor.
const CAPTURE_BUFFER: libc::c_int = 64 << 20;
