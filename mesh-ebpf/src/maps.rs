//! The maps; names and capacities come from `mesh_common::maps`.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockHash},
    helpers::generated as helpers,
    macros::btf_map,
};
use mesh_common::{
    Address, Backends, Endpoint, ExpressEvent, ExpressFlow, Flow, ListenerKey, LocalSocket, Mark, NodeConfig,
    OriginalDestination, Pod, Question, RealPeer, Resolvers, Seen, Shortcut, Stat, Verdict, maps,
};

/// A declared port: presence is the answer.
pub type Declared = u32;

#[btf_map]
pub static PODS: HashMap<u64, Pod, { maps::MAX_PODS }> = HashMap::new();
#[btf_map]
pub static NODE: Array<NodeConfig, 1> = Array::new();
#[btf_map]
pub static WANTED_DST: SkStorage<OriginalDestination> = SkStorage::new();
#[btf_map]
pub static ORIGINAL_DST: LruHashMap<LocalSocket, OriginalDestination, { maps::MAX_FLOWS }> =
    LruHashMap::new();
#[btf_map]
pub static RESOLVERS: LruHashMap<u64, Resolvers, { maps::MAX_FLOWS }> = LruHashMap::new();
#[btf_map]
pub static ACTING_FOR: SkStorage<RealPeer> = SkStorage::new();
#[btf_map]
pub static REAL_PEERS: LruHashMap<LocalSocket, RealPeer, { maps::MAX_FLOWS }> = LruHashMap::new();
#[btf_map]
pub static OWN_SOCKETS: InheritedStorage<u32> = InheritedStorage::new();
#[btf_map]
pub static PROBE_PORTS: HashMap<Endpoint, Declared, { maps::MAX_PROBE_PORTS }> = HashMap::new();
#[btf_map]
pub static HOST_PORTS: HashMap<Endpoint, Declared, { maps::MAX_HOST_PORTS }> = HashMap::new();
#[btf_map]
pub static NODE_FLOWS: LruHashMap<Flow, Seen, { maps::MAX_FLOWS }> = LruHashMap::new();
#[btf_map]
pub static LISTENERS: SockHash<ListenerKey, { maps::MAX_LISTENERS }> = SockHash::new();
#[btf_map]
pub static VERDICTS: HashMap<Question, Verdict, { maps::MAX_VERDICTS }> = HashMap::new();
#[btf_map]
pub static BACKENDS: HashMap<Question, Backends, { maps::MAX_BACKENDS }> = HashMap::new();
#[btf_map]
pub static EXPRESS_MARKS: SkStorage<Mark> = SkStorage::new();
#[btf_map]
pub static EXPRESS_FLOWS: LruHashMap<Flow, ExpressFlow, { maps::MAX_FLOWS }> = LruHashMap::new();
#[btf_map]
pub static EXPRESS_OPEN: Array<u64, 1> = Array::new();
#[btf_map]
pub static EVENTS: RingBuf<ExpressEvent, { maps::MAX_EVENT_BYTES }> = RingBuf::new();
#[btf_map]
pub static SHORTCUTS: HashMap<Address, Shortcut, { maps::MAX_LISTENERS }> = HashMap::new();
#[btf_map]
pub static STATS: PerCpuArray<u64, { Stat::COUNT }> = PerCpuArray::new();

/// Socket storage that accepted sockets inherit from their listener; aya offers the flag for it on no map.
#[repr(C)]
pub struct InheritedStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields only describe the map to the loader; nothing ever reads through them.
unsafe impl<T> Sync for InheritedStorage<T> {}

impl<T> InheritedStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

/// Counts one event.
#[inline(always)]
pub fn count(stat: Stat) {
    if let Some(counter) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: the slot belongs to this CPU, and programs of one CPU do not run inside each other here.
        unsafe { *counter += 1 }
    }
}

/// What holds for the node; `None` only before the node has written it.
#[inline(always)]
pub fn node() -> Option<&'static NodeConfig> {
    NODE.get(0)
}

/// Whether the namespace with this cookie is the machine's own. Only where the node serves processes of the machine
/// itself is it among [`PODS`].
#[inline(always)]
pub fn is_host(cookie: u64) -> bool {
    node().is_some_and(|n| n.host_netns == cookie)
}

/// Whether messages of this level are wanted.
#[inline(always)]
pub fn logs(level: u32) -> bool {
    node().is_some_and(|n| n.log_level >= level)
}

/// The value that `storage` holds for `socket`, or null.
///
/// # Safety
/// `socket` comes from the context of the running program.
#[inline(always)]
pub unsafe fn stored<T>(storage: &'static SkStorage<T>, socket: *mut c_void) -> *mut T {
    let map: *mut c_void = core::ptr::from_ref(storage).cast_mut().cast();
    // SAFETY: map and socket are what the helper expects; a null value means "do not create".
    unsafe { helpers::bpf_sk_storage_get(map, socket, core::ptr::null_mut(), 0).cast() }
}

/// Makes `storage` hold nothing for `socket`.
///
/// # Safety
/// `socket` comes from the context of the running program.
#[inline(always)]
pub unsafe fn forget<T>(storage: &'static SkStorage<T>, socket: *mut c_void) {
    let map: *mut c_void = core::ptr::from_ref(storage).cast_mut().cast();
    // SAFETY: map and socket are what the helper expects; that there was nothing is fine.
    unsafe { helpers::bpf_sk_storage_delete(map, socket) };
}

/// Whether a full socket is the node's own.
///
/// # Safety
/// `socket` is a full socket that the running program holds a reference to.
#[inline(always)]
pub unsafe fn is_own(socket: *mut c_void) -> bool {
    let map: *mut c_void = core::ptr::from_ref(&OWN_SOCKETS).cast_mut().cast();
    // SAFETY: map and socket are what the helper expects; a null value means "do not create".
    !unsafe { helpers::bpf_sk_storage_get(map, socket, core::ptr::null_mut(), 0) }.is_null()
}
