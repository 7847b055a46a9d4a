//! A gateway's part: which listener takes a request from outside, what its policies say, and which rule is for it.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use mesh_core::gateway_api::{Resources, serve};
use mesh_core::id::SpiffeId;
use mesh_core::model::Snapshot;
use mesh_core::own::{KnownBy, Own, Sightings};
use mesh_core::policy::Targeted;
use mesh_core::resource::{Object, Spec};
use mesh_core::route::{
    Client, Gateway, GatewayListener, GatewayServer, ListenerProtocol, Listeners, Picked, RouteTable,
    StreamView,
};

use super::words::rule;
use super::{Answer, Leg, Party, Role, Trace};

/// A gateway, and what it listens to.
pub(super) struct Edge {
    own: Own,
    identity: Option<SpiffeId>,
    listeners: Vec<GatewayListener>,
}

impl Edge {
    /// The gateway whose pods, Deployment, Service or Gateway of Kubernetes has this name.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn find(objects: &[Object], snapshot: &Snapshot, name: (&str, &str)) -> Result<Self> {
        let mut sightings = Sightings::of(name.0, name.1, []);
        objects.iter().for_each(|object| sightings.apply(object));
        let own = sightings.own();
        let identity = SpiffeId::new(snapshot.trust_domain(), &own.namespace, &own.service_account).ok();
        let listeners = listeners(objects, snapshot, &own);
        ensure!(
            own.known_by != KnownBy::Convention || !listeners.is_empty(),
            "there is no gateway {}/{}: name its Deployment, its Service or its Gateway of Kubernetes",
            name.0,
            name.1
        );
        Ok(Self { own, identity, listeners })
    }

    /// As the one that sends a request on.
    pub(super) fn party(&self) -> Party<'_> {
        let Own { namespace, labels, .. } = &self.own;
        Party { role: Role::Gateway, namespace, labels, identity: self.identity.clone(), ip: None }
    }

    /// Follows what comes to it from outside.
    pub(super) fn run(&self, trace: &Trace<'_>, answer: &mut Answer) {
        let Own { namespace, name, .. } = &self.own;
        answer.step("client", format!("somebody outside, who asks gateway {namespace}/{name}"));
        let Some((listener, server)) = self.listener(trace, answer) else { return };
        let opened = listener.protocol == ListenerProtocol::Http || server.table.is_some();
        let leg = Leg { from: self.party(), reads: opened };
        let gate = Targeted::of_gateway(trace.snapshot, &self.own).gate(None);
        if !trace.passes(answer, &gate, &leg, &format!("gateway {namespace}/{name}")) {
            return;
        }
        match (&server.table, &server.streams) {
            _ if listener.protocol == ListenerProtocol::Http => {
                requests(trace, answer, &listener.table, &leg, server.port);
            }
            (Some(table), _) => requests(trace, answer, table, &leg, server.port),
            (None, Some(streams)) => {
                let server_name = trace.asked.url.is_https().then_some(&*trace.asked.url.host);
                let picked = streams.pick(&StreamView { server_name, destination: NOWHERE });
                trace.stream(answer, picked.map(|route| &**route), &leg);
            }
            (None, None) => answer.step("rule", "none: the connection is ended"),
        }
    }

    /// The listener on the port, and the server behind it.
    fn listener(&self, trace: &Trace<'_>, answer: &mut Answer) -> Option<(&GatewayListener, &GatewayServer)> {
        let url = trace.asked.url;
        let port = self.own.target_port(url.port);
        let takes = |it: &&GatewayListener| it.port == port && is_for_connections(it.protocol);
        let Some(listener) = self.listeners.iter().find(takes) else {
            let all = self.listeners.iter().filter(|it| is_for_connections(it.protocol));
            let all: Vec<_> = all.map(|it| it.port.to_string()).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            answer.step("listener", format!("none on port {port}: its listeners are on {all}"));
            return None;
        };
        let wrong = match listener.protocol {
            ListenerProtocol::Http if url.is_https() => Some("takes plain HTTP, and this is TLS"),
            ListenerProtocol::Tls if !url.is_https() => Some("takes TLS, and this is plain HTTP"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            answer.step("listener", format!("port {port}, which {wrong}: the connection is ended"));
            return None;
        }
        let Some(server) = listener.server(Some(&url.host)) else {
            let host = &url.host;
            answer.step(
                "listener",
                format!("port {port}: no server of it is for {host}; the connection is ended"),
            );
            return None;
        };
        let spoken = match listener.protocol {
            ListenerProtocol::Http => "HTTP".to_owned(),
            _ if server.table.is_some() => "TLS, which is opened here".to_owned(),
            _ => "bytes, which are passed on as they are".to_owned(),
        };
        let mut of: Vec<_> = listener.servers.iter().map(|it| it.gateway.to_string()).collect();
        of.dedup();
        let of = if listener.protocol == ListenerProtocol::Http {
            of.join(", ")
        } else {
            server.gateway.to_string()
        };
        answer.step("listener", format!("port {port} of Gateway {of}: {spoken}"));
        Some((listener, server))
    }
}

fn requests(trace: &Trace<'_>, answer: &mut Answer, table: &RouteTable, leg: &Leg<'_>, port: u16) {
    match table.pick(&trace.view(port)) {
        Picked::Route(route, matched) => {
            answer.step("rule", rule(route, &matched.name));
            trace.act(answer, route, "", leg);
        }
        Picked::ToHttps => answer.step("rule", "the host is for https only: 301"),
        Picked::NoRoute => answer.step("rule", "none of those about the host matches: 404"),
        Picked::Misdirected => answer.step("rule", "the host is another listener's: 421"),
        Picked::NoHost => answer.step("rule", "none is about this host: 404"),
    }
}

fn listeners(objects: &[Object], snapshot: &Snapshot, own: &Own) -> Vec<GatewayListener> {
    let gateways = objects.iter().filter_map(|object| {
        let Spec::Gateway(spec) = &object.spec else { return None };
        let meta = &object.meta;
        let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
        Some(Gateway { namespace, name, created: meta.creation_timestamp, spec: spec.clone() })
    });
    let gateways: Vec<_> = gateways.collect();
    let client = Client { namespace: &own.namespace, labels: &own.labels };
    let all = Listeners::of(&gateways, snapshot.virtuals(), client, |port| own.target_port(port));
    all.listeners.into_iter().chain(serve(&Resources::of(objects), own).listeners).collect()
}

fn is_for_connections(protocol: ListenerProtocol) -> bool {
    !matches!(protocol, ListenerProtocol::Udp | ListenerProtocol::Tunnel)
}

/// The gateway's own address, which is not known; nobody's (RFC 5737).
const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 202));
