//! What a configuration comes to for this gateway: the addresses to listen on, and what to serve there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh_common::TUNNEL_PORT;
use mesh_core::gateway_api::{Resources, Served, serve};
use mesh_core::id::SpiffeId;
use mesh_core::model::{Config, Snapshot};
use mesh_core::own::Own;
use mesh_core::resource::networking::gateway::ServerTlsMode;
use mesh_core::resource::value::Bind;
use mesh_core::resource::{Meta, Spec};
use mesh_core::route::{Client, Gateway, GatewayListener, GatewayServer, Listeners};

use super::Doors;
use super::certificates::Sources;
use super::identity::identity_of;
use super::listener::Serving;
use super::sockets::Place;
use super::tls::{Tls, opens_with_certificates};
use crate::tls::files::Files;

/// What is compiled.
pub(super) struct Inputs {
    pub(super) doors: Doors,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) own: Arc<Own>,
    /// Where to listen if a Gateway does not say it.
    pub(super) addresses: Vec<IpAddr>,
    /// What is served now.
    pub(super) before: BTreeMap<Place, Arc<Serving>>,
}

/// What it comes to.
pub(super) struct Outcome {
    pub(super) wanted: BTreeMap<Place, Arc<Serving>>,
    /// What there is to say about it, one line each.
    pub(super) findings: BTreeSet<String>,
}

impl Inputs {
    /// The resources that it depends on, in order: as long as they are the same the outcome is, but for certificates.
    pub(super) fn configs(doors: Doors, snapshot: &Snapshot) -> Vec<Arc<Config>> {
        let matters = |config: &&Arc<Config>| {
            doors == Doors::Gateways
                && !matches!(
                    config.object().spec,
                    Spec::DestinationRule(_)
                        | Spec::BackendTlsPolicy(_)
                        | Spec::AuthorizationPolicy(_)
                        | Spec::RequestAuthentication(_)
                        | Spec::RateLimit(_)
                        | Spec::HealthCheck(_)
                        | Spec::WorkloadGroup(_)
                        | Spec::Telemetry(_)
                )
        };
        snapshot.configs().filter(matters).cloned().collect()
    }

    /// Compiles. Reads files, so it may take a while.
    pub(super) fn compile(&self, files: &mut Files) -> Outcome {
        files.begin();
        let mut compiler = Compiler {
            inputs: self,
            id: identity_of(&self.own, &self.snapshot),
            files,
            wanted: BTreeMap::new(),
            findings: BTreeSet::new(),
        };
        compiler.run();
        Outcome { wanted: compiler.wanted, findings: compiler.findings }
    }

    fn listeners(&self) -> Listeners {
        if self.doors == Doors::Tunnels {
            let listeners = vec![GatewayListener::for_tunnels(TUNNEL_PORT)];
            return Listeners { listeners, conflicts: Vec::new() };
        }
        let gateway = |config: &Arc<Config>| {
            let Meta { namespace, name, creation_timestamp: created, .. } = &config.object().meta;
            let Spec::Gateway(spec) = &config.object().spec else { return None };
            let (namespace, name) = (Arc::clone(namespace), Arc::clone(name));
            Some(Gateway { namespace, name, created: *created, spec: spec.clone() })
        };
        let gateways: Vec<_> = self.snapshot.configs().filter_map(gateway).collect();
        let client = Client { namespace: &self.own.namespace, labels: &self.own.labels };
        Listeners::of(&gateways, self.snapshot.virtuals(), client, |port| self.own.target_port(port))
    }

    /// What Gateways of the Gateway API ask for.
    fn served(&self) -> Served {
        if self.doors == Doors::Tunnels {
            return Served::default();
        }
        serve(&Resources::of(self.snapshot.configs().map(|config| config.object())), &self.own)
    }
}

struct Compiler<'a> {
    inputs: &'a Inputs,
    id: Option<SpiffeId>,
    files: &'a mut Files,
    wanted: BTreeMap<Place, Arc<Serving>>,
    findings: BTreeSet<String>,
}

impl Compiler<'_> {
    fn run(&mut self) {
        let Listeners { listeners, conflicts } = self.inputs.listeners();
        for conflict in conflicts {
            let (gateway, server, reason) = (&conflict.gateway, conflict.server, &conflict.reason);
            self.findings.insert(format!("Gateway {gateway}: spec.servers[{server}] is left out: {reason}"));
        }
        let Served { listeners: more, findings } = self.inputs.served();
        self.findings.extend(findings);
        for listener in listeners.into_iter().chain(more) {
            self.listener(listener);
        }
    }

    fn listener(&mut self, listener: GatewayListener) {
        let of = listener.servers.first().map(|server| server.gateway.to_string()).unwrap_or_default();
        let addresses: Vec<_> = match &listener.bind {
            None => self.inputs.addresses.iter().map(|ip| SocketAddr::new(*ip, listener.port)).collect(),
            Some(Bind::Address(ip)) => vec![SocketAddr::new(*ip, listener.port)],
            Some(Bind::Unix(path)) => {
                let finding = format!("Gateway {of}: Unix domain sockets are not served: {path}");
                self.findings.insert(finding);
                return;
            }
        };
        let udp = listener.protocol.is_udp();
        let places = addresses.into_iter().map(|address| Place { address, udp });
        let (taken, places): (Vec<_>, Vec<_>) = places.partition(|place| self.wanted.contains_key(place));
        for place in taken {
            self.findings.insert(format!("Gateway {of}: {place} is served for another Gateway"));
        }
        let Some(first) = places.first() else { return };
        let before = self.inputs.before.get(first).cloned();
        let serving = Serving::of(listener, before.as_deref(), |server, old| self.tls(server, old));
        let serving = Arc::new(serving);
        self.wanted.extend(places.into_iter().map(|place| (place, Arc::clone(&serving))));
    }

    /// The TLS of a server. What it has had stays if there is nothing better; a key and a certificate are never
    /// written at the same moment.
    fn tls(&mut self, server: &GatewayServer, old: Option<Arc<Tls>>) -> Option<Arc<Tls>> {
        let spec = server.tls.as_ref().filter(|_| !server.protocol.is_http())?;
        if spec.mode == ServerTlsMode::IstioMutual {
            let same = old.filter(|old| old.is_mesh(self.id.as_ref()));
            return Some(same.unwrap_or_else(|| Arc::new(Tls::mesh(self.id.clone()))));
        }
        if !opens_with_certificates(spec.mode) {
            return Some(Arc::new(Tls::Pass));
        }
        let (snapshot, namespace) = (&self.inputs.snapshot, &self.inputs.own.namespace);
        let secret = |name: &str| snapshot.credential(namespace, name).cloned();
        let gathered = Sources { files: self.files, secret: &secret }.gather(spec);
        let made = gathered.and_then(|materials| match &old {
            Some(old) if old.is_of(&materials) => Ok(Arc::clone(old)),
            _ => Tls::open(spec, &materials).map(Arc::new),
        });
        let of = format!("Gateway {}: port {}", server.gateway, server.port_name);
        let usable = old.filter(|old| old.problem().is_none());
        let tls = match (made, usable) {
            (Ok(made), _) => made,
            (Err(why), Some(old)) => {
                self.findings.insert(format!("{of}: {why}; the last good certificate stays in use"));
                old
            }
            (Err(why), None) => {
                self.findings.insert(format!("{of}: {why}; no handshake succeeds there"));
                Arc::new(Tls::Broken(why))
            }
        };
        self.findings.extend(tls.remarks().iter().map(|remark| format!("{of}: {remark}")));
        Some(tls)
    }
}

#[cfg(test)]
mod tests;
