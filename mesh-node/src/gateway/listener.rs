//! A listener, and what it serves at one moment.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_core::resource::networking::gateway::{ServerTls, ServerTlsMode};
use mesh_core::resource::value::Protocol;
use mesh_core::route::{
    GatewayListener, GatewayServer, ListenerProtocol, ResourceName, RouteTable, StreamTable,
};
use tokio::sync::watch;

use super::tls::{Shown, Tls};
use crate::run::drain::{self, Drain, DrainSwitch};

/// An address that is listened on. Lives as long as its socket; what is served there is replaced as a whole.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    serving: ArcSwap<Serving>,
    /// Tells that there is something else to serve.
    changes: watch::Sender<()>,
}

/// What a listener serves at one moment.
#[derive(Debug)]
pub struct Serving {
    listener: GatewayListener,
    /// In the order of the listener's servers.
    served: Vec<Served>,
    by_key: HashMap<ServerKey, usize>,
}

/// A server of a Gateway, ready to serve.
#[derive(Debug, Clone)]
pub struct Served {
    /// What tells it from others, through all changes.
    pub key: ServerKey,
    /// Rules for its requests; none where nobody knows what is inside of its connections.
    pub table: Option<Arc<RouteTable>>,
    /// Rules for its connections; none where those are opened for the requests inside.
    pub streams: Option<Arc<StreamTable>>,
    /// How it does TLS; none in plain text.
    pub(super) tls: Option<Arc<Tls>>,
    /// What its TLS was made from.
    pub(super) spec: Option<ServerTls>,
    /// What is spoken.
    pub(super) protocol: Protocol,
    life: Arc<Life>,
}

/// A server of a Gateway by name: names of ports are unique in a Gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerKey {
    /// The Gateway.
    pub gateway: Arc<ResourceName>,
    /// The name of the port.
    pub port_name: Arc<str>,
    /// Its number, which is one of the Service.
    pub port: u16,
}

/// Tells the connections of a server when they should end.
#[derive(Debug)]
struct Life {
    switch: DrainSwitch,
    drain: Drain,
}

impl Listener {
    /// A listener at `address`.
    pub fn new(address: SocketAddr, serving: Arc<Serving>) -> Self {
        Self { address, serving: ArcSwap::new(serving), changes: watch::Sender::new(()) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it serves now.
    pub fn current(&self) -> Arc<Serving> {
        self.serving.load_full()
    }

    /// Whether this is what it serves now.
    pub fn is_current(&self, serving: &Arc<Serving>) -> bool {
        Arc::ptr_eq(&self.serving.load(), serving)
    }

    /// Serves `serving` from now on. Connections whose server is not among it any more are told to end.
    pub(super) fn serve(&self, serving: &Arc<Serving>) {
        let before = self.serving.swap(Arc::clone(serving));
        for gone in before.served.iter().filter(|old| !serving.continues(old)) {
            gone.life.switch.start();
        }
        self.changes.send_replace(());
    }

    /// Resolves when the server of a connection no longer accepts what its client has shown under `tls`, and says why. The
    /// first look is at once: the server may have changed during the handshake.
    pub(super) async fn refuses(&self, key: &ServerKey, mut tls: Arc<Tls>, shown: &Shown) -> String {
        let mut changes = self.changes.subscribe();
        loop {
            let now = self.current().find(key).and_then(|served| served.tls.clone());
            if let Some(now) = now.filter(|now| !Arc::ptr_eq(now, &tls)) {
                if let Err(why) = now.still_accepts(&tls, shown) {
                    return why;
                }
                tls = now;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells all connections to end.
    pub(super) fn drain(&self) {
        self.serving.load().served.iter().for_each(|served| served.life.switch.start());
    }

    /// Ends what is left of them.
    pub(super) fn force(&self) {
        self.serving.load().served.iter().for_each(|served| served.life.switch.force());
    }
}

impl Serving {
    /// What `listener` comes to. `tls` makes a server's TLS, from what it has had under the same settings if it had any;
    /// what `before` served already goes on.
    pub(super) fn of(
        mut listener: GatewayListener,
        before: Option<&Self>,
        mut tls: impl FnMut(&GatewayServer, Option<Arc<Tls>>) -> Option<Arc<Tls>>,
    ) -> Self {
        let shared = Arc::new(std::mem::take(&mut listener.table));
        let plain = listener.protocol == ListenerProtocol::Http;
        let known = before.filter(|before| before.listener.protocol == listener.protocol);
        let served = listener.servers.iter_mut().map(|server| {
            let own = server.table.take().map(Arc::new);
            let streams = server.streams.take().map(Arc::new);
            let key = ServerKey::of(server);
            let old = known.and_then(|known| known.find(&key)).filter(|old| old.is_as(server));
            Served {
                key,
                table: if plain { Some(Arc::clone(&shared)) } else { own },
                streams,
                tls: tls(server, old.and_then(|old| old.tls.clone())),
                spec: server.tls.clone(),
                protocol: server.protocol,
                life: old.map(|old| Arc::clone(&old.life)).unwrap_or_default(),
            }
        });
        let served: Vec<Served> = served.collect();
        let by_key = served.iter().enumerate().map(|(at, served)| (served.key.clone(), at)).collect();
        Self { listener, served, by_key }
    }

    /// What connections begin with.
    pub fn protocol(&self) -> ListenerProtocol {
        self.listener.protocol
    }

    /// The server of this name.
    pub fn find(&self, key: &ServerKey) -> Option<&Served> {
        self.served.get(*self.by_key.get(key)?)
    }

    /// The server for a connection whose handshake asks for this name; for all connections where there is none.
    pub fn select(&self, server_name: Option<&str>) -> Option<&Served> {
        self.find(&ServerKey::of(self.listener.server(server_name)?))
    }

    /// What the configuration says of the server of this name.
    pub fn server(&self, key: &ServerKey) -> Option<&GatewayServer> {
        self.listener.servers.get(*self.by_key.get(key)?)
    }

    /// All servers.
    pub fn servers(&self) -> impl Iterator<Item = (&GatewayServer, &Served)> {
        self.listener.servers.iter().zip(&self.served)
    }

    /// Whether connections of `old` go on here.
    fn continues(&self, old: &Served) -> bool {
        self.served.iter().any(|new| Arc::ptr_eq(&new.life, &old.life))
    }
}

impl Served {
    /// Whether the server name of a connection says where it goes.
    pub(super) fn goes_by_name(&self) -> bool {
        self.spec.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough)
    }

    /// When its connections should end.
    pub(super) fn drain(&self) -> Drain {
        self.life.drain.clone()
    }

    /// Whether its connections may as well be those of `server`, which has its name: who has shown a certificate under
    /// some settings has shown nothing to a server that asks for more.
    fn is_as(&self, server: &GatewayServer) -> bool {
        self.spec == server.tls && self.protocol == server.protocol
    }
}

impl ServerKey {
    fn of(server: &GatewayServer) -> Self {
        Self {
            gateway: Arc::clone(&server.gateway),
            port_name: Arc::clone(&server.port_name),
            port: server.port,
        }
    }
}

impl Default for Life {
    fn default() -> Self {
        let (switch, drain) = drain::channel();
        Self { switch, drain }
    }
}
