//! Loads the kernel programs over the pinned maps and attaches them; a predecessor's links are taken over by
//! replacing their programs in place, so that no hook is ever empty.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, LinkOrder, SchedClassifier,
        SkLookup, SockOps, TcAttachType,
        links::FdLink,
        tc::{self, NlOptions, TcAttachOptions, TcHandle},
    },
    util::KernelVersion,
};
use mesh_common::maps;

use super::{
    Inbound, RedirectError,
    pins::{PinnedPod, Pins},
    shortcut,
};
use crate::sys::{bpf, links, netns::NetNs};

/// The loaded programs of this node.
pub struct Programs {
    ebpf: Ebpf,
    pins: Pins,
    inbound: Inbound,
    tcx: bool,
}

/// How the guard is attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum TcHook {
    /// TCX where the kernel has it (6.6), else clsact.
    #[default]
    Auto,
    /// TCX or nothing.
    Tcx,
    /// The clsact qdisc, as before 6.6.
    Clsact,
}

impl Programs {
    /// Loads every program; maps that are pinned already are adopted with what they hold.
    pub fn load(pins: &Pins, inbound: Inbound, hook: TcHook) -> Result<Self, RedirectError> {
        pins.create().map_err(|source| RedirectError::Pins { path: pins.map(""), source })?;
        let mut loader = EbpfLoader::new();
        for name in PINNED_MAPS {
            loader.map_pin_path(name, pins.map(name));
        }
        let ebpf = loader.load(OBJECT).map_err(|source| RedirectError::Load { source: Box::new(source) })?;
        let tcx = match hook {
            TcHook::Auto => KernelVersion::current().is_ok_and(|kernel| kernel >= TCX_SINCE),
            TcHook::Tcx => true,
            TcHook::Clsact => false,
        };
        let mut programs = Self { ebpf, pins: pins.clone(), inbound, tcx };
        programs.load_all()?;
        Ok(programs)
    }

    /// Has the kernel judge every program, without attaching or pinning anything.
    ///
    /// # Errors
    /// What the kernel refuses, or this process may not do.
    pub fn rehearse() -> Result<(), RedirectError> {
        let mut loader = EbpfLoader::new();
        for name in LARGE_MAPS {
            loader.map_max_entries(name, FEW);
        }
        let mut ebpf =
            loader.load(OBJECT).map_err(|source| RedirectError::Load { source: Box::new(source) })?;
        load_programs(&mut ebpf)
    }

    /// The object, for the log reader.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Attaches what serves the whole node: socket events at `scope`, where host processes live as well, and the
    /// hooks of sockets at the pods' cgroup.
    pub fn attach_node(&mut self, scope: &Path, pods: &Path) -> Result<(), RedirectError> {
        let (scope, pods) = (open_group(scope)?, open_group(pods)?);
        self.attach_events(&scope, &self.pins.node_link("sockops"))?;
        let pins = self.pins.clone();
        self.attach_hooks(&pods, |hook| pins.node_link(hook))
    }

    /// Attaches what the sockets of enrolled processes of a machine go through, to their control group; `pinned` names that.
    pub(super) fn attach_unit(&mut self, group: &Path, pinned: &PinnedPod) -> Result<(), RedirectError> {
        let (group, pins) = (open_group(group)?, self.pins.clone());
        self.attach_events(&group, &pins.pod_link("sockops", pinned))?;
        self.attach_hooks(&group, |hook| pins.pod_link(hook, pinned))
    }

    /// Attaches the guard to a control group of a machine.
    pub(super) fn attach_unit_guard(
        &mut self,
        group: &Path,
        pinned: &PinnedPod,
    ) -> Result<(), RedirectError> {
        let (group, pins) = (open_group(group)?, self.pins.clone());
        for (name, direction, kind) in [
            ("mesh_unit_in", "guard-in", CgroupSkbAttachType::Ingress),
            ("mesh_unit_out", "guard-out", CgroupSkbAttachType::Egress),
        ] {
            let program: &mut CgroupSkb = program(&mut self.ebpf, name)?;
            let fd = program.fd()?.try_clone()?;
            hold(&pins.pod_link(direction, pinned), fd.as_fd(), || {
                let id = program.attach(&group, kind, CgroupAttachMode::Single)?;
                Ok(FdLink::try_from(program.take_link(id)?)?)
            })?;
        }
        Ok(())
    }

    /// Has the kernel tell of sockets of the node's own, where it serves the machine that it runs on.
    pub(super) fn attach_agent(&mut self, group: &Path, pinned: &PinnedPod) -> Result<(), RedirectError> {
        let pin = self.pins.pod_link("sockops", pinned);
        self.attach_events(&open_group(group)?, &pin)
    }

    /// Steers what comes to the ports of the machine itself that are in the mesh.
    pub(super) fn attach_host_lookup(&mut self, pinned: &PinnedPod, ns: &NetNs) -> Result<(), RedirectError> {
        let pin = self.pins.pod_link("lookup", pinned);
        self.attach_lookup_program("mesh_lookup_host", &pin, ns)
    }

    fn attach_events(&mut self, group: &File, pin: &PathBuf) -> Result<(), RedirectError> {
        let program: &mut SockOps = program(&mut self.ebpf, "mesh_sockops")?;
        let fd = program.fd()?.try_clone()?;
        hold(pin, fd.as_fd(), || {
            let id = program.attach(group, CgroupAttachMode::Single)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        })
    }

    fn attach_hooks(&mut self, group: &File, pin: impl Fn(&str) -> PathBuf) -> Result<(), RedirectError> {
        for (hook, name) in SOCKET_HOOKS {
            let program: &mut CgroupSockAddr = program(&mut self.ebpf, name)?;
            let fd = program.fd()?.try_clone()?;
            hold(&pin(hook), fd.as_fd(), || {
                let id = program.attach(group, CgroupAttachMode::Single)?;
                Ok(FdLink::try_from(program.take_link(id)?)?)
            })?;
        }
        Ok(())
    }

    /// Steers the pod's inbound connections, where `sk_lookup` does that.
    pub fn attach_lookup(&mut self, pod: &PinnedPod, ns: &NetNs) -> Result<(), RedirectError> {
        let pin = self.pins.pod_link("lookup", pod);
        if self.inbound == Inbound::Tc {
            let _ = fs::remove_file(pin);
            return Ok(());
        }
        self.attach_lookup_program("mesh_lookup", &pin, ns)
    }

    fn attach_lookup_program(&mut self, name: &str, pin: &PathBuf, ns: &NetNs) -> Result<(), RedirectError> {
        let program: &mut SkLookup = program(&mut self.ebpf, name)?;
        let fd = program.fd()?.try_clone()?;
        hold(pin, fd.as_fd(), || {
            let id = program.attach(ns)?;
            Ok(FdLink::from(program.take_link(id)?))
        })
    }

    /// Puts the guard on every interface of the pod.
    pub fn attach_guard(&mut self, pod: &PinnedPod, ns: &NetNs) -> Result<(), RedirectError> {
        let inside = |source| RedirectError::Namespace { uid: pod.uid.clone(), source };
        let interfaces = ns.run(links::names).and_then(|found| found).map_err(inside)?;
        let inbound = if self.inbound == Inbound::Tc { "mesh_steer_in" } else { "mesh_guard_in" };
        for interface in interfaces {
            for (direction, name, kind) in
                [("in", inbound, TcAttachType::Ingress), ("out", "mesh_guard_out", TcAttachType::Egress)]
            {
                let pin = self.pins.pod_link(&format!("guard-{direction}-{interface}"), pod);
                let program: &mut SchedClassifier = program(&mut self.ebpf, name)?;
                let tcx = self.tcx;
                ns.run(|| attach_classifier(program, &interface, kind, &pin, tcx)).map_err(inside)??;
            }
        }
        Ok(())
    }

    /// Attaches the shortcut at the host's end of a pod's interface, in the calling thread's namespace.
    ///
    /// # Errors
    /// Without TCX, whose links go with whoever holds them; and what the kernel says.
    pub(super) fn attach_shortcut(&mut self, pod: &PinnedPod, interface: &str) -> Result<(), RedirectError> {
        if !self.tcx {
            return Err(RedirectError::Shortcut("the kernel has no TCX (6.6)".to_owned()));
        }
        let pin = self.pins.pod_link("shortcut", pod);
        let program: &mut SchedClassifier = program(&mut self.ebpf, shortcut::PROGRAM)?;
        attach_classifier(program, interface, TcAttachType::Ingress, &pin, true)
    }

    /// Takes it off again; absent is fine.
    pub(super) fn detach_shortcut(&self, pod: &PinnedPod) -> std::io::Result<()> {
        match fs::remove_file(self.pins.pod_link("shortcut", pod)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn load_all(&mut self) -> Result<(), RedirectError> {
        load_programs(&mut self.ebpf)?;
        for (name, program) in self.ebpf.programs_mut() {
            let path = self.pins.program(name);
            let _ = fs::remove_file(&path);
            program.pin(&path).map_err(|source| RedirectError::Pin { path, source: Box::new(source) })?;
        }
        Ok(())
    }
}

/// Takes a pod's guard off its interfaces where it was attached by netlink; links go with their pins.
pub fn detach_clsact(ns: &NetNs) -> std::io::Result<()> {
    ns.run(|| {
        for interface in links::names()? {
            for name in ["mesh_guard_in", "mesh_steer_in"] {
                let _ = tc::qdisc_detach_program(&interface, TcAttachType::Ingress, name);
            }
            let _ = tc::qdisc_detach_program(&interface, TcAttachType::Egress, "mesh_guard_out");
        }
        Ok(())
    })?
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), RedirectError> {
    for (_, name) in SOCKET_HOOKS {
        program::<CgroupSockAddr>(ebpf, name)?.load()?;
    }
    program::<SockOps>(ebpf, "mesh_sockops")?.load()?;
    for name in ["mesh_lookup", "mesh_lookup_host"] {
        program::<SkLookup>(ebpf, name)?.load()?;
    }
    for name in ["mesh_unit_in", "mesh_unit_out"] {
        program::<CgroupSkb>(ebpf, name)?.load()?;
    }
    for name in ["mesh_guard_out", "mesh_guard_in", "mesh_steer_in", "mesh_shortcut"] {
        program::<SchedClassifier>(ebpf, name)?.load()?;
    }
    Ok(())
}

fn open_group(path: &Path) -> Result<File, RedirectError> {
    File::open(path).map_err(|source| RedirectError::Cgroup { path: path.to_owned(), source })
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, RedirectError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| RedirectError::Missing { name: name.to_owned() })?;
    Ok(program.try_into()?)
}

/// Makes sure that a link pinned at `pin` runs `program`: replaces the program of the link that is there, or
/// attaches and pins a new one.
fn hold(
    pin: &PathBuf,
    program: std::os::fd::BorrowedFd<'_>,
    attach: impl FnOnce() -> Result<FdLink, RedirectError>,
) -> Result<(), RedirectError> {
    if pin.exists() {
        let replaced = bpf::open_pinned(pin).and_then(|link| bpf::link_update(link.as_fd(), program));
        if replaced.is_ok() {
            return Ok(());
        }
        // What it was attached to is gone, or it is of another kind: nothing there is worth keeping.
        let _ = fs::remove_file(pin);
    }
    let pinned = attach()?.pin(pin);
    pinned.map(drop).map_err(|source| RedirectError::Pin { path: pin.clone(), source: Box::new(source) })
}

fn attach_classifier(
    program: &mut SchedClassifier,
    interface: &str,
    kind: TcAttachType,
    pin: &PathBuf,
    tcx: bool,
) -> Result<(), RedirectError> {
    let fd = program.fd()?.try_clone()?;
    if tcx {
        return hold(pin, fd.as_fd(), || {
            // First, so that another program's "pass" cannot end the chain before the guard has run.
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(interface, kind, order)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        });
    }
    // There is one already where this answers with an error; a real failure shows on attaching.
    let _ = tc::qdisc_add_clsact(interface);
    let _ = tc::qdisc_detach_program(interface, kind, "mesh_guard_in");
    let _ = tc::qdisc_detach_program(interface, kind, "mesh_steer_in");
    let _ = tc::qdisc_detach_program(interface, kind, "mesh_guard_out");
    let options = NlOptions { priority: CLSACT_PRIORITY, handle: TcHandle::default(), classid: None };
    let id = program.attach_with_options(interface, kind, TcAttachOptions::Netlink(options))?;
    // Dropping the link would detach the filter, which has to outlive this process.
    std::mem::forget(program.take_link(id)?);
    // A filter cannot be pinned; its program at the link's place tells a successor that the pod is guarded.
    if !pin.exists() {
        program
            .pin(pin)
            .map_err(|source| RedirectError::Pin { path: pin.clone(), source: Box::new(source) })?;
    }
    Ok(())
}

const SOCKET_HOOKS: [(&str, &str); 8] = [
    ("connect4", "mesh_connect4"),
    ("connect6", "mesh_connect6"),
    ("sendmsg4", "mesh_sendmsg4"),
    ("sendmsg6", "mesh_sendmsg6"),
    ("recvmsg4", "mesh_recvmsg4"),
    ("recvmsg6", "mesh_recvmsg6"),
    ("getpeername4", "mesh_peername4"),
    ("getpeername6", "mesh_peername6"),
];
const PINNED_MAPS: [&str; 20] = [
    maps::PODS,
    maps::NODE,
    maps::WANTED_DST,
    maps::ORIGINAL_DST,
    maps::RESOLVERS,
    maps::ACTING_FOR,
    maps::REAL_PEERS,
    maps::OWN_SOCKETS,
    maps::PROBE_PORTS,
    maps::HOST_PORTS,
    maps::NODE_FLOWS,
    maps::LISTENERS,
    maps::VERDICTS,
    maps::BACKENDS,
    maps::EXPRESS_MARKS,
    maps::EXPRESS_FLOWS,
    maps::EXPRESS_OPEN,
    maps::EVENTS,
    maps::SHORTCUTS,
    maps::STATS,
];
/// Those that have memory for all of their entries from the beginning.
const LARGE_MAPS: [&str; 11] = [
    maps::PODS,
    maps::ORIGINAL_DST,
    maps::RESOLVERS,
    maps::REAL_PEERS,
    maps::PROBE_PORTS,
    maps::HOST_PORTS,
    maps::NODE_FLOWS,
    maps::VERDICTS,
    maps::BACKENDS,
    maps::EXPRESS_FLOWS,
    maps::SHORTCUTS,
];
/// Entries of maps that nobody uses.
const FEW: u32 = 64;
const TCX_SINCE: KernelVersion = KernelVersion::new(6, 6, 0);
/// Lowest number runs first.
const CLSACT_PRIORITY: u16 = 1;
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MESH_EBPF_OBJECT"));
