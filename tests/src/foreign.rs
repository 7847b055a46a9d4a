//! Programs of somebody else on the hooks that the mesh uses, as CNIs have them: the mesh must work beside them,
//! whichever came first.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::sys::{
    self,
    bpf::{self, Instruction, Kind},
};

/// An attached program; detached when dropped.
#[derive(Debug)]
pub struct Foreign {
    #[expect(dead_code, reason = "held for its Drop, which detaches the program")]
    link: OwnedFd,
}

/// Where in a chain of programs to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into the namespace.
    In,
    /// Out of it.
    Out,
}

/// Puts verdicts of namespaces that do not exist into a node's pinned map, until there is no room for one more; how many.
pub fn fill_verdicts(map: &Path) -> io::Result<u64> {
    let map = bpf::open_map(map)?;
    let mut filled = 0;
    loop {
        let mut key = [0; size_of::<mesh_common::Question>()];
        // Cookies are given from below.
        key[..8].copy_from_slice(&(u64::MAX - filled).to_ne_bytes());
        match bpf::update(&map, &key, &[0; size_of::<mesh_common::Verdict>()]) {
            Ok(()) => filled += 1,
            Err(e) if e.raw_os_error() == Some(libc::E2BIG) => return Ok(filled),
            Err(e) => return Err(e),
        }
    }
}

/// The number that a pinned array of one number holds.
pub fn counter(map: &Path) -> io::Result<u64> {
    let mut value = [0; size_of::<u64>()];
    bpf::lookup(&bpf::open_map(map)?, &0_u32.to_ne_bytes(), &mut value)?;
    Ok(u64::from_ne_bytes(value))
}

/// Has it hold another.
pub fn set_counter(map: &Path, value: u64) -> io::Result<()> {
    bpf::update(&bpf::open_map(map)?, &0_u32.to_ne_bytes(), &value.to_ne_bytes())
}

impl Foreign {
    /// A connect hook at a cgroup that sends connects for one address elsewhere, as a socket load balancer does.
    pub fn rewrite_connects(cgroup: &Path, from: SocketAddrV4, to: SocketAddrV4) -> io::Result<Self> {
        let kind = Kind { program: CGROUP_SOCK_ADDR, attach: CGROUP_INET4_CONNECT };
        let word = |ip: SocketAddrV4| i32::from_ne_bytes(ip.ip().octets());
        let port = |at: SocketAddrV4| i32::from(at.port().to_be());
        let program = bpf::load(
            kind,
            &[
                op(MOVE, 6, 1, 0, 0),
                op(LOAD, 2, 6, USER_IP4, 0),
                op(JUMP_IF_NOT, 2, 0, 6, word(from)),
                op(LOAD, 2, 6, USER_PORT, 0),
                op(JUMP_IF_NOT, 2, 0, 4, port(from)),
                op(SET32, 2, 0, 0, word(to)),
                op(STORE, 6, 2, USER_IP4, 0),
                op(SET32, 2, 0, 0, port(to)),
                op(STORE, 6, 2, USER_PORT, 0),
                op(SET, 0, 0, 0, 1),
                op(EXIT, 0, 0, 0, 0),
            ],
        )?;
        let directory = File::open(cgroup)?;
        let target = u32::try_from(directory.as_raw_fd()).map_err(io::Error::other)?;
        Ok(Self { link: bpf::link(&program, kind, target, 0)? })
    }

    /// A TCX program on an interface of a network namespace that lets every packet pass and ends the chain.
    pub fn pass_packets(netns: &Path, interface: &str, way: Way, place: Place) -> io::Result<Self> {
        let attach = if way == Way::In { TCX_INGRESS } else { TCX_EGRESS };
        let kind = Kind { program: SCHED_CLS, attach };
        let program = bpf::load(kind, &[op(SET, 0, 0, 0, TCX_PASS), op(EXIT, 0, 0, 0, 0)])?;
        let flags = if place == Place::First { BPF_F_BEFORE } else { BPF_F_AFTER };
        let link =
            sys::in_network(netns, || bpf::link(&program, kind, bpf::interface_index(interface)?, flags))??;
        Ok(Self { link })
    }
}

fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | (source << 4), offset, immediate }
}

// Numbers of linux/bpf.h.
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_INET4_CONNECT: u32 = 10;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const TCX_PASS: i32 = 0;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;
const USER_IP4: i16 = 4;
const USER_PORT: i16 = 24;
const MOVE: u8 = 0xbf;
const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const SET: u8 = 0xb7;
const SET32: u8 = 0xb4;
const JUMP_IF_NOT: u8 = 0x56;
const EXIT: u8 = 0x95;
