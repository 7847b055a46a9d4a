//! The express path: what the policy engine has already said about connections between pods of this node is enough for
//! the kernel to make or refuse them by itself. Whatever it has not said goes to the node's proxy.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_addr},
    helpers::generated as helpers,
};
use mesh_common::{
    Backends, Endpoint, ExpressEvent, ExpressFlow, Flow, INBOUND_PLAINTEXT_PORT, Mark, OUTBOUND_PORT,
    Question, Stat, TUNNEL_PORT, Verdict, maps,
};

use crate::maps::{
    BACKENDS, EVENTS, EXPRESS_FLOWS, EXPRESS_MARKS, EXPRESS_OPEN, VERDICTS, WANTED_DST, count, forget, stored,
};

/// What becomes of a connect.
pub enum Way {
    /// The proxy's business.
    Proxy,
    /// Straight to where it wants to go, or to this backend.
    Direct(Option<Endpoint>),
    /// Refused.
    Refused,
}

/// Decides about a connect of a captured pod, and marks its socket.
#[inline(always)]
pub fn way(addr: *mut bpf_sock_addr, wanted: &Endpoint) -> Way {
    // SAFETY: the context is valid for the run of the program.
    let (protocol, netns) = unsafe { ((*addr).protocol, helpers::bpf_get_netns_cookie(addr.cast())) };
    let ours =
        wanted.port == TUNNEL_PORT || wanted.port == OUTBOUND_PORT || wanted.port == INBOUND_PLAINTEXT_PORT;
    if protocol != IPPROTO_TCP || ours {
        return unmarked(addr);
    }
    // SAFETY: no arguments.
    let started_ns = unsafe { helpers::bpf_ktime_get_ns() };
    let nothing = Endpoint::new([0; 16], 0);
    let mut mark = Mark { started_ns, netns, wanted: nothing, source: 0, destination: 0, side: Mark::CLIENT };
    if let Some(verdict) = verdict(netns, wanted) {
        (mark.source, mark.destination) = (verdict.source, verdict.destination);
        if verdict.action != Verdict::ALLOW {
            refuse(mark, wanted);
            return Way::Refused;
        }
        return if !is_full() && bear(addr, mark) { Way::Direct(None) } else { unmarked(addr) };
    }
    // SAFETY: read at once.
    let Some(backends) = (unsafe { BACKENDS.get(Question::new(netns, wanted.ip, wanted.port)) }) else {
        return unmarked(addr);
    };
    let Some((at, identity)) = choose(backends) else { return unmarked(addr) };
    (mark.source, mark.destination, mark.wanted) = (backends.source, identity, *wanted);
    if !is_full() && bear(addr, mark) { Way::Direct(Some(at)) } else { unmarked(addr) }
}

#[inline(always)]
fn verdict(netns: u64, wanted: &Endpoint) -> Option<&'static Verdict> {
    // SAFETY: entries are replaced, never freed under a running program.
    unsafe {
        VERDICTS
            .get(Question::new(netns, wanted.ip, wanted.port))
            .or_else(|| VERDICTS.get(Question::new(netns, wanted.ip, Question::ANY_PORT)))
    }
}

/// Whether as many flows are open as may be.
#[inline(always)]
fn is_full() -> bool {
    let full = EXPRESS_OPEN.get(0).is_some_and(|open| *open >= maps::MAX_EXPRESS_FLOWS);
    if full {
        count(Stat::ExpressFull);
    }
    full
}

/// A flow is open from now on.
#[inline(always)]
pub fn open(flow: Flow, entry: ExpressFlow) {
    if EXPRESS_FLOWS.insert(flow, entry, u64::from(BPF_NOEXIST)).is_ok() {
        add_open(1);
    } else {
        // One whose end was missed has left its entry.
        let _ = EXPRESS_FLOWS.insert(flow, entry, 0);
    }
}

/// A flow is over.
#[inline(always)]
pub fn close(flow: Flow) {
    if EXPRESS_FLOWS.remove(flow).is_ok() {
        add_open(u64::MAX);
    }
}

#[inline(always)]
fn add_open(more: u64) {
    if let Some(open) = EXPRESS_OPEN.get_ptr_mut(0) {
        // In assembly because the compiler has no atomic addition for a target that cannot compare and swap.
        // SAFETY: the entry of an array, which all CPUs change in this way alone.
        unsafe {
            core::arch::asm!("lock *(u64 *)({open} + 0) += {more}", open = in(reg) open, more = in(reg) more, options(nostack));
        }
    }
}

#[inline(always)]
fn choose(backends: &'static Backends) -> Option<(Endpoint, u32)> {
    if backends.count == 0 {
        return None;
    }
    // SAFETY: no arguments.
    let drawn = unsafe { helpers::bpf_get_prandom_u32() } % backends.count;
    // The verifier wants to see the bound; the array has as many places.
    let index = (drawn as usize) & (Backends::MAX - 1);
    // SAFETY: bounded above.
    let backend = unsafe { backends.all.get_unchecked(index) };
    Some((backend.at, backend.identity))
}

/// Notes on the socket that it is express, and no longer that it was captured.
#[inline(always)]
fn bear(addr: *mut bpf_sock_addr, mut mark: Mark) -> bool {
    // SAFETY: the storage calls get the socket of this very context.
    unsafe {
        let socket: *mut c_void = (*addr).__bindgen_anon_1.sk.cast();
        let map: *mut c_void = core::ptr::from_ref(&EXPRESS_MARKS).cast_mut().cast();
        let value = (&raw mut mark).cast();
        let slot: *mut Mark =
            helpers::bpf_sk_storage_get(map, socket, value, u64::from(BPF_SK_STORAGE_GET_F_CREATE)).cast();
        if slot.is_null() {
            return false;
        }
        *slot = mark;
        forget(&WANTED_DST, socket);
    }
    count(Stat::Express);
    true
}

/// A socket may have been express before, and gone elsewhere since.
#[inline(always)]
fn unmarked(addr: *mut bpf_sock_addr) -> Way {
    // SAFETY: the storage call gets the socket of this very context.
    unsafe { forget(&EXPRESS_MARKS, (*addr).__bindgen_anon_1.sk.cast()) };
    Way::Proxy
}

/// Tells the node who was refused.
#[inline(always)]
fn refuse(mark: Mark, wanted: &Endpoint) {
    count(Stat::ExpressRefused);
    let flow =
        Flow { source: [0; 16], destination: wanted.ip, source_port: 0, destination_port: wanted.port };
    let at_ns = mark.started_ns;
    tell(ExpressEvent { mark, at_ns, sent: 0, received: 0, flow, kind: ExpressEvent::REFUSED });
    // SAFETY: the hooks of connect may set the error that their caller sees.
    unsafe { helpers::bpf_set_retval(-ECONNREFUSED) };
}

/// Sends an event to the node; one that finds no room is counted.
#[inline(always)]
pub fn tell(event: ExpressEvent) {
    if EVENTS.output(event, 0).is_err() {
        count(Stat::ExpressEventsLost);
    }
}

/// Whether the packet comes from a socket of an express flow.
#[inline(always)]
pub fn bears(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context is valid for the run of the program; null is checked before each use.
    unsafe {
        let socket = (*skb).__bindgen_anon_2.sk;
        if socket.is_null() {
            return false;
        }
        let full = helpers::bpf_sk_fullsock(socket);
        !full.is_null() && !stored(&EXPRESS_MARKS, full.cast()).is_null()
    }
}

const IPPROTO_TCP: u32 = 6;
const ECONNREFUSED: i32 = 111;
