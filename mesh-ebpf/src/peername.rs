//! cgroup/getpeername4 and getpeername6, recvmsg4 and recvmsg6: capture stays invisible. A client sees the destination it
//! asked for, also as the sender of what it is told; a server sees the client that the node connects for, already in
//! `accept`.

use aya_ebpf::{bindings::bpf_sock_addr, helpers::generated as helpers, programs::SockAddrContext};
use mesh_common::{Address, Endpoint, LocalSocket};

use crate::{
    maps::{EXPRESS_MARKS, PODS, REAL_PEERS, WANTED_DST, stored},
    packet::{from_words, ipv4_mapped, is_mapped, is_unspecified_or_loopback},
};

/// Peer name of an `AF_INET` socket, or the sender of a message.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid for the run of the program.
    let shown = unsafe { ipv4_mapped((*addr).user_ip4) };
    if let Some(real) = real_peer(addr, shown)
        && is_mapped(&real.ip)
    {
        // SAFETY: as above; the hook may write both fields.
        unsafe {
            (*addr).user_ip4 = u32::from_ne_bytes([real.ip[12], real.ip[13], real.ip[14], real.ip[15]]);
            (*addr).user_port = u32::from(real.port.to_be());
        }
    }
    KEEP
}

/// The same of an `AF_INET6` socket, whose IPv4 peers appear in mapped form.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid for the run of the program; the verifier wants whole words, one at a time.
    let shown = unsafe {
        let word = |i: usize| core::ptr::read_volatile((&raw const (*addr).user_ip6).cast::<u32>().add(i));
        from_words([word(0), word(1), word(2), word(3)])
    };
    if let Some(real) = real_peer(addr, shown) {
        // SAFETY: sixteen bytes either way; the hook may write these fields.
        unsafe {
            let words: [u32; 4] = core::mem::transmute(real.ip);
            let out = (&raw mut (*addr).user_ip6).cast::<u32>();
            core::ptr::write_volatile(out, words[0]);
            core::ptr::write_volatile(out.add(1), words[1]);
            core::ptr::write_volatile(out.add(2), words[2]);
            core::ptr::write_volatile(out.add(3), words[3]);
            (*addr).user_port = u32::from(real.port.to_be());
        }
    }
    KEEP
}

#[inline(always)]
fn real_peer(addr: *mut bpf_sock_addr, shown: Address) -> Option<Endpoint> {
    // SAFETY: the context is valid for the run of the program.
    let cookie = unsafe { helpers::bpf_get_netns_cookie(addr.cast()) };
    // SAFETY: the value is not kept.
    let pod = unsafe { PODS.get(cookie) }?;
    // SAFETY: as for `shown`.
    let (port, protocol) = unsafe { (u16::from_be((*addr).user_port as u16), (*addr).protocol) };
    let ours = is_unspecified_or_loopback(&shown) && (port == pod.outbound_port || port == pod.dns_port);
    // SAFETY: the socket comes from this context.
    let wanted = unsafe { stored(&WANTED_DST, (*addr).__bindgen_anon_1.sk.cast()) };
    // A socket may have gone elsewhere since, and one of UDP hears from anybody.
    if !wanted.is_null() && ours {
        // SAFETY: not null, and the socket outlives the program's run.
        return Some(unsafe { *wanted });
    }
    if protocol == IPPROTO_UDP {
        return None;
    }
    // SAFETY: as above.
    let mark = unsafe { stored(&EXPRESS_MARKS, (*addr).__bindgen_anon_1.sk.cast()) };
    if !mark.is_null() {
        // SAFETY: not null, and the socket outlives the program's run.
        let wanted = unsafe { (*mark).wanted };
        return (wanted.port != 0).then_some(wanted);
    }
    // SAFETY: copied at once.
    unsafe { REAL_PEERS.get(LocalSocket::new(cookie, shown, port)) }.copied()
}

const KEEP: i32 = 1;
const IPPROTO_UDP: u32 = 17;
