//! `io_uring`, as far as one socket needs it: one request at a time.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use super::check;

/// A ring of requests and answers that is shared with the kernel.
#[derive(Debug)]
pub(crate) struct Ring {
    fd: OwnedFd,
    rings: Mapping,
    entries: Mapping,
    requests: RequestOffsets,
    answers: AnswerOffsets,
}

#[derive(Debug)]
struct Mapping {
    at: NonNull<c_void>,
    length: usize,
}

impl Ring {
    /// A ring with room for one request.
    pub(crate) fn new() -> io::Result<Self> {
        let mut params = Params::default();
        // SAFETY: the pointer is to a live structure of the size that the kernel expects.
        let fd = check(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut params) })?;
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let Params { request_entries, answer_entries, requests, answers, .. } = params;
        let of_requests = requests.array + request_entries * 4;
        let of_answers = answers.entries + answer_entries * u32::try_from(size_of::<Answer>()).unwrap_or(16);
        let length = usize::try_from(of_requests.max(of_answers)).map_err(io::Error::other)?;
        let rings = Mapping::new(&fd, length, 0)?;
        let entries = usize::try_from(request_entries).map_err(io::Error::other)? * size_of::<Request>();
        let entries = Mapping::new(&fd, entries, REQUESTS_AT)?;
        Ok(Self { fd, rings, entries, requests, answers })
    }

    /// Sends; how many bytes went.
    pub(crate) fn send(&mut self, socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
        let address = bytes.as_ptr() as u64;
        let flags = libc::MSG_NOSIGNAL.cast_unsigned();
        // SAFETY: `bytes` outlives the call, and the kernel only reads it.
        unsafe { self.request(Request::new(SEND, socket, (address, bytes.len()), flags)) }
    }

    /// Receives; how many bytes came, 0 at the end.
    pub(crate) fn receive(&mut self, socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
        let address = buffer.as_mut_ptr() as u64;
        // SAFETY: `buffer` outlives the call and is borrowed for it alone.
        unsafe { self.request(Request::new(RECEIVE, socket, (address, buffer.len()), 0)) }
    }

    /// Hands in a request and waits for its answer.
    ///
    /// # Safety
    /// The memory that the request names has to be valid for what it asks until this returns.
    unsafe fn request(&mut self, request: Request) -> io::Result<usize> {
        // SAFETY: all offsets are the kernel's own and inside of the mapping; the entry at `index` is ours until the tail
        // moves past it.
        unsafe {
            let tail = self.rings.number(self.requests.tail);
            let at = tail.load(Ordering::Relaxed);
            let index = at & self.rings.number(self.requests.mask).load(Ordering::Relaxed);
            let entries: *mut Request = self.entries.at.as_ptr().cast();
            ptr::write(entries.add(index as usize), request);
            let array: *mut u32 = self.rings.number(self.requests.array).as_ptr();
            ptr::write(array.add(index as usize), index);
            tail.store(at.wrapping_add(1), Ordering::Release);
        }
        let mut new = 1;
        loop {
            // SAFETY: no signal mask is passed; the request's memory is valid as promised.
            let entered = check(unsafe {
                libc::syscall(libc::SYS_io_uring_enter, self.fd.as_raw_fd(), new, 1, GET_EVENTS, 0, 0)
            });
            match entered {
                Ok(taken) => new -= taken.min(new),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if let Some(result) = self.answer() {
                return match result {
                    error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
                    count => usize::try_from(count).map_err(io::Error::other),
                };
            }
        }
    }

    fn answer(&mut self) -> Option<i32> {
        // SAFETY: as in `request`; an entry before the tail is complete.
        unsafe {
            let head = self.rings.number(self.answers.head);
            let at = head.load(Ordering::Relaxed);
            if at == self.rings.number(self.answers.tail).load(Ordering::Acquire) {
                return None;
            }
            let index = at & self.rings.number(self.answers.mask).load(Ordering::Relaxed);
            let entries: *const Answer = self.rings.number(self.answers.entries).as_ptr().cast();
            let answer = ptr::read(entries.add(index as usize));
            head.store(at.wrapping_add(1), Ordering::Release);
            Some(answer.result)
        }
    }
}

impl Mapping {
    fn new(fd: &OwnedFd, length: usize, offset: libc::off_t) -> io::Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping of a descriptor that is open, at an address of the kernel's choice.
        let at = unsafe { libc::mmap(ptr::null_mut(), length, access, flags, fd.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { at, length })
    }

    /// A number that is shared with the kernel.
    ///
    /// # Safety
    /// `offset` is one of those that the kernel gave for this mapping.
    unsafe fn number(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: aligned, inside of the mapping, and only ever used as atomics while both sides may write.
        unsafe { AtomicU32::from_ptr(self.at.as_ptr().byte_add(offset as usize).cast()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing points into it any more.
        unsafe { libc::munmap(self.at.as_ptr(), self.length) };
    }
}

/// `struct io_uring_params` of `linux/io_uring.h`.
#[repr(C)]
#[derive(Debug, Default)]
struct Params {
    request_entries: u32,
    answer_entries: u32,
    flags: u32,
    thread: [u32; 2],
    features: u32,
    workers: u32,
    reserved: [u32; 3],
    requests: RequestOffsets,
    answers: AnswerOffsets,
}

/// `struct io_sqring_offsets`.
#[repr(C)]
#[derive(Debug, Default)]
struct RequestOffsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: [u32; 3],
}

/// `struct io_cqring_offsets`.
#[repr(C)]
#[derive(Debug, Default)]
struct AnswerOffsets {
    head: u32,
    tail: u32,
    mask: u32,
    count: u32,
    overflow: u32,
    entries: u32,
    flags: u32,
    reserved: [u32; 3],
}

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Debug, Default)]
struct Request {
    code: u8,
    flags: u8,
    priority: u16,
    fd: RawFd,
    offset: u64,
    address: u64,
    length: u32,
    message_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

impl Request {
    fn new(code: u8, socket: &impl AsFd, (address, length): (u64, usize), message_flags: u32) -> Self {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let fd = socket.as_fd().as_raw_fd();
        Self { code, fd, address, length, message_flags, ..Self::default() }
    }
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Answer {
    user_data: u64,
    result: i32,
    flags: u32,
}

const _: () = {
    assert!(size_of::<Params>() == 120);
    assert!(size_of::<Request>() == 64);
    assert!(size_of::<Answer>() == 16);
};

const SEND: u8 = 26;
const RECEIVE: u8 = 27;
const GET_EVENTS: u32 = 1;
/// Where a ring's descriptor shows its requests.
const REQUESTS_AT: libc::off_t = 0x1000_0000;
