//! TCX at the host's end of a pod's interface: packets of an established express flow go straight into the other pod's
//! interface. Handshakes, and the beginning of every flow, keep the way that the CNI gave them, so that a
//! `NetworkPolicy` has its say and short flows look to connection tracking as they always did.

use aya_ebpf::{
    EbpfContext as _, bindings::TC_ACT_UNSPEC, helpers::generated as helpers, programs::TcContext,
};
use mesh_common::{ExpressFlow, Flow};

use crate::{
    maps::{EXPRESS_FLOWS, SHORTCUTS, node},
    packet::{Packet, parse, reversed},
};

/// One packet that a pod has sent.
#[inline(always)]
pub fn forward(ctx: &TcContext) -> i32 {
    let Packet::Tcp(segment) = parse(ctx) else { return PASS_ON };
    if segment.syn() {
        return PASS_ON;
    }
    let Some(state) = account(&segment.flow, segment.length) else { return PASS_ON };
    if state & ExpressFlow::SHORTCUT == 0 {
        return PASS_ON;
    }
    // SAFETY: read at once.
    let Some(to) = (unsafe { SHORTCUTS.get(segment.flow.destination) }) else { return PASS_ON };
    let (interface, hardware) = (to.interface, to.hardware);
    // Where pods are routed, the frame is for the host's end; where they are bridged, it is for the pod already.
    if ctx.store(0, &hardware, 0).is_err() {
        return PASS_ON;
    }
    // SAFETY: the context is valid for the run of the program.
    unsafe {
        helpers::bpf_skb_change_type(ctx.as_ptr().cast(), PACKET_HOST);
        helpers::bpf_redirect_peer(interface, 0) as i32
    }
}

/// Counts payload, and says how the flow stands.
#[inline(always)]
fn account(flow: &Flow, length: u32) -> Option<u32> {
    if let Some(entry) = EXPRESS_FLOWS.get_ptr_mut(flow) {
        // SAFETY: not null; a count that two processors write at once may miss a packet, and no decision hangs on it.
        return Some(unsafe {
            (*entry).sent += u64::from(length);
            stand(entry)
        });
    }
    let entry = EXPRESS_FLOWS.get_ptr_mut(reversed(flow))?;
    // SAFETY: as above.
    Some(unsafe {
        (*entry).received += u64::from(length);
        stand(entry)
    })
}

/// # Safety
/// `entry` is an entry of the map.
#[inline(always)]
unsafe fn stand(entry: *mut ExpressFlow) -> u32 {
    // SAFETY: see above.
    unsafe {
        let lasting = (*entry).sent + (*entry).received >= LASTING;
        let wanted = node().is_some_and(|node| node.shortcut != 0);
        if wanted && lasting && (*entry).state == ExpressFlow::ESTABLISHED {
            (*entry).state = ExpressFlow::ESTABLISHED | ExpressFlow::SHORTCUT;
        }
        (*entry).state
    }
}

/// Payload after which a flow takes the shortcut. Up to here its end fits into the windows that connection tracking has
/// seen; beyond, the node makes connection tracking forget the flow.
const LASTING: u64 = 32 << 10;
const PACKET_HOST: u32 = 0;
const PASS_ON: i32 = TC_ACT_UNSPEC;
