//! Network namespaces: opening a pod's, working inside it, knowing it again.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    rc::Rc,
};

use super::check;

/// An open network namespace. It stays alive as long as this value does.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    inode: u64,
    cookie: u64,
}

impl NetNs {
    /// Opens a namespace by path, for example `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let mut ns = Self { file, inode, cookie: 0 };
        ns.cookie = ns.run(own_cookie)??;
        Ok(ns)
    }

    /// The namespace of the calling thread.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// What the kernel programs know the namespace by; unique until reboot and never reused.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Inode of the namespace, as `ls -l /proc/PID/ns/net` shows it.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `f` with the calling thread inside the namespace. Sockets that `f` creates stay in it for good. Not to be
    /// nested: the way back leads to the namespace that the thread was in at its first call.
    ///
    /// The process ends if the way back fails: a thread left in a pod's namespace would serve other pods there.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> io::Result<R> {
        let home = home()?;
        enter(self.file.as_fd())?;
        let back = Back(&home);
        let result = f();
        drop(back);
        Ok(result)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Returns to the thread's own namespace, also when `f` panics.
struct Back<'a>(&'a File);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        if enter(self.0.as_fd()).is_err() {
            std::process::abort();
        }
    }
}

fn enter(ns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes a descriptor and flags only, and changes nothing but the calling thread.
    check(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// The namespace of the calling thread, opened once: this is asked for every connection.
fn home() -> io::Result<Rc<File>> {
    HOME.with_borrow_mut(|home| {
        if let Some(home) = home {
            return Ok(home.clone());
        }
        let opened = Rc::new(File::open("/proc/thread-self/ns/net")?);
        *home = Some(opened.clone());
        Ok(opened)
    })
}

thread_local! {
    static HOME: RefCell<Option<Rc<File>>> = const { RefCell::new(None) };
}

fn own_cookie() -> io::Result<u64> {
    // Not at a loopback address: a namespace that was just made has that interface down.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("eight fits");
    // SAFETY: value and length outlive the call and agree.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    })?;
    Ok(cookie)
}

const SO_NETNS_COOKIE: libc::c_int = 71;
