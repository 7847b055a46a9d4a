//! Keeps what the kernel decides by itself equal to what the policy engine says, and ends the flows that it no longer
//! allows.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    rc::Rc,
    sync::Arc,
};

use aya::maps::MapError;
use mesh_common::{Backend, Backends, Endpoint, ExpressFlow, Flow, Mark, Question, Verdict};
use mesh_core::{
    express::{self, Plan},
    model::{Snapshot, Workload},
};
use tracing::{info, warn};

use super::{
    LocalPod, Overruled, RedirectError,
    maps::{ExpressMaps, socket_addr, to_ip, to_wire},
    overruled::Because,
    pins::Pins,
};
use crate::{l4, sys::diag};

/// The owner of the kernel's decisions.
pub struct Express {
    enabled: bool,
    maps: ExpressMaps,
    numbers: HashMap<Arc<str>, u32>,
    verdicts: BTreeMap<Key, Verdict>,
    backends: BTreeMap<Key, Backends>,
    seen: Option<(Arc<Snapshot>, Vec<Arc<str>>)>,
    cut: CutFlows,
    overruled: Overruled,
    complained: bool,
}

/// Flows that were ended because policy changed, for whoever reports them.
pub type CutFlows = Rc<RefCell<HashSet<Flow>>>;

/// A captured pod.
pub type Captured = (Arc<LocalPod>, Arc<Workload>);

/// A [`Question`] in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    netns: u64,
    ip: mesh_common::Address,
    port: u16,
}

impl Express {
    /// Takes over what a predecessor has decided.
    ///
    /// # Errors
    /// If the maps cannot be opened or read.
    pub fn open(pins: &Pins, enabled: bool) -> Result<Self, RedirectError> {
        let maps = ExpressMaps::open(pins)?;
        let verdicts = maps.verdicts()?.into_iter().map(|(key, verdict)| (key.into(), verdict)).collect();
        let backends = maps.backends()?.into_iter().map(|(key, backends)| (key.into(), backends)).collect();
        let cut = CutFlows::default();
        Ok(Self {
            enabled,
            maps,
            numbers: HashMap::new(),
            verdicts,
            backends,
            seen: None,
            overruled: Overruled::new(Rc::clone(&cut)),
            cut,
            complained: false,
        })
    }

    /// The flows that were ended because policy changed.
    pub fn cut_flows(&self) -> CutFlows {
        Rc::clone(&self.cut)
    }

    /// The flows that are to be ended in a quiet moment.
    pub fn overruled(&self) -> Overruled {
        self.overruled.clone()
    }

    /// Decides anew if anything has changed.
    pub fn update(&mut self, snapshot: &Arc<Snapshot>, pods: &[Captured]) {
        if !self.enabled && self.verdicts.is_empty() && self.backends.is_empty() {
            return;
        }
        let uids: Vec<_> = pods.iter().map(|(pod, _)| pod.uid.clone()).collect();
        if self.seen.as_ref().is_some_and(|(seen, known)| Arc::ptr_eq(seen, snapshot) && *known == uids) {
            return;
        }
        let workloads: Vec<_> = pods.iter().map(|(_, workload)| workload.clone()).collect();
        let plan = if self.enabled {
            express::plan(snapshot, &workloads, |source, service, port| {
                l4::is_plain(snapshot, source, service, port)
            })
        } else {
            Plan::default()
        };
        match self.apply(&plan, pods) {
            Ok(()) => self.seen = Some((Arc::clone(snapshot), uids)),
            Err(error) => {
                // What is not in the maps goes through the proxy.
                if !std::mem::replace(&mut self.complained, true) {
                    warn!(%error, "Not all connections between pods of this node can take the express path.");
                }
            }
        }
        self.end_forbidden(snapshot, pods);
    }

    fn apply(&mut self, plan: &Plan, pods: &[Captured]) -> Result<(), MapError> {
        let cookies: HashMap<_, _> =
            pods.iter().map(|(pod, workload)| (workload.uid.clone(), pod.netns.cookie())).collect();
        let key = |question: &express::Question| {
            let netns = *cookies.get(&question.source)?;
            let port = question.port.unwrap_or(Question::ANY_PORT);
            Some(Key { netns, ip: to_wire(question.ip), port })
        };
        let mut verdicts = BTreeMap::new();
        for (question, verdict) in &plan.verdicts {
            let Some(key) = key(question) else { continue };
            let action = if verdict.allowed { Verdict::ALLOW } else { Verdict::DENY };
            let source = self.number(&question.source);
            let destination = self.number(&verdict.destination);
            verdicts.insert(key, Verdict { action, source, destination, reserved: 0 });
        }
        let mut backends = BTreeMap::new();
        for (question, all) in &plan.backends {
            let Some(key) = key(question) else { continue };
            let source = self.number(&question.source);
            backends.insert(key, self.backends(source, all));
        }
        // What is allowed no more goes before anything else comes. Room that one map lacks is no reason to leave the other as
        // it was.
        let of_services =
            follow(&mut self.backends, &backends, &mut self.maps, ExpressMaps::put_backends, |maps, key| {
                maps.remove_backends(key)
            });
        let of_pods =
            follow(&mut self.verdicts, &verdicts, &mut self.maps, ExpressMaps::put_verdict, |maps, key| {
                maps.remove_verdict(key)
            });
        of_services.and(of_pods)
    }

    fn backends(&mut self, source: u32, all: &[(SocketAddr, Arc<str>)]) -> Backends {
        let nothing = Backend { at: Endpoint::new([0; 16], 0), identity: 0 };
        let mut backends = Backends { count: 0, source, all: [nothing; Backends::MAX] };
        for (place, (at, uid)) in backends.all.iter_mut().zip(all) {
            *place = Backend { at: Endpoint::new(to_wire(at.ip()), at.port()), identity: self.number(uid) };
            backends.count += 1;
        }
        backends
    }

    /// Numbers are given once: what the kernel shows of a flow stays true for as long as this process lives.
    fn number(&mut self, uid: &Arc<str>) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX).saturating_add(1);
        *self.numbers.entry(uid.clone()).or_insert(next)
    }

    /// Ends flows between captured pods that would go nowhere, or another way, if they began now: the latter in a quiet moment.
    fn end_forbidden(&self, snapshot: &Arc<Snapshot>, pods: &[Captured]) {
        let by_cookie: HashMap<u64, &Captured> =
            pods.iter().map(|captured| (captured.0.netns.cookie(), captured)).collect();
        let captured = |ip: IpAddr| pods.iter().any(|(pod, _)| pod.ips.contains(&ip));
        let mut known = HashMap::new();
        let mut is_overruled = |workload: &Arc<Workload>, entry: &ExpressFlow| {
            *known.entry((entry.mark.netns, entry.mark.wanted)).or_insert_with(|| {
                let asked = Some(&entry.mark.wanted).filter(|wanted| wanted.port != 0).map(socket_addr);
                asked.is_some_and(|asked| express::is_overruled(snapshot, workload, asked, l4::is_plain))
            })
        };
        // What the node carries it cuts itself.
        for (flow, entry) in self.maps.flows().into_iter().filter(|(_, it)| it.mark.side != Mark::CARRIED) {
            let Some((pod, workload)) = by_cookie.get(&entry.mark.netns) else { continue };
            if !captured(to_ip(&flow.destination)) {
                continue;
            }
            match self.verdict(entry.mark.netns, &flow) {
                Some(true) if is_overruled(workload, &entry) => {
                    self.overruled.add(flow, pod, Because::Rules);
                    continue;
                }
                Some(true) => {
                    self.overruled.remove(&flow);
                    continue;
                }
                None => {
                    self.overruled.add(flow, pod, Because::Policy);
                    continue;
                }
                Some(false) => self.overruled.remove(&flow),
            }
            self.cut.borrow_mut().insert(flow);
            let client = socket_addr(&Endpoint::new(flow.source, flow.source_port));
            let server = socket_addr(&Endpoint::new(flow.destination, flow.destination_port));
            match pod.netns.run(|| diag::reset_connection(client, server)).and_then(|reset| reset) {
                Ok(_) => {
                    info!(%client, %server, "Ended an express flow that policy or rules no longer let be.");
                }
                Err(error) => warn!(%client, %server, %error, "An express flow cannot be ended."),
            }
        }
    }

    /// Whether it would be allowed or refused if it began now; `None`: it would be the proxy's.
    fn verdict(&self, netns: u64, flow: &Flow) -> Option<bool> {
        let at = |port| self.verdicts.get(&Key { netns, ip: flow.destination, port });
        let verdict = at(flow.destination_port).or_else(|| at(Question::ANY_PORT));
        verdict.map(|verdict| verdict.action == Verdict::ALLOW)
    }
}

/// Makes a map hold what is wanted, and `known` what it holds.
///
/// An address of which something finds no room is left to the proxy as a whole: what is said of all its ports may be less
/// than the truth without what is said of some.
fn follow<M, V: Copy + PartialEq>(
    known: &mut BTreeMap<Key, V>,
    wanted: &BTreeMap<Key, V>,
    maps: &mut M,
    put: impl Fn(&mut M, Question, V) -> Result<(), MapError>,
    remove: impl Fn(&mut M, Question) -> Result<(), MapError>,
) -> Result<(), MapError> {
    let gone: Vec<Key> = known.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
    for key in gone {
        remove(maps, key.into())?;
        known.remove(&key);
    }
    let (mut result, mut left_out) = (Ok(()), None);
    // Backwards, so that what is said of one port of an address is there before what is said of all others.
    for (key, value) in wanted.iter().rev() {
        if left_out == Some((key.netns, key.ip)) || known.get(key) == Some(value) {
            continue;
        }
        match put(maps, (*key).into(), *value) {
            Ok(()) => {
                known.insert(*key, *value);
            }
            Err(error) => {
                left_out = Some((key.netns, key.ip));
                result = Err(error);
                for key in known.range(key.of_address()).map(|(key, _)| *key).collect::<Vec<_>>() {
                    remove(maps, key.into())?;
                    known.remove(&key);
                }
            }
        }
    }
    result
}

impl Key {
    /// All ports of its address.
    fn of_address(self) -> RangeInclusive<Self> {
        Self { port: u16::MIN, ..self }..=Self { port: u16::MAX, ..self }
    }
}

impl From<Question> for Key {
    fn from(Question { netns, ip, port, .. }: Question) -> Self {
        Self { netns, ip, port }
    }
}

impl From<Key> for Question {
    fn from(Key { netns, ip, port }: Key) -> Self {
        Self::new(netns, ip, port)
    }
}

#[cfg(test)]
mod tests;
