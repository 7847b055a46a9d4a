//! One client-side tunnel: what carries it, the task that drives it, and who uses it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pool::ConnectRequest;
use super::{Early, OpenError, Stage, Stream, hbone, mux};
use crate::identity::Svid;
use crate::run::drain::Drain;
use crate::tls::{Agreed, Peer, Proof, Protocol, TlsStream};

/// See the module. Shared by the pool, the driver and every lease.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) carrier: Carrier,
    /// Whether no new stream may begin; the connection then ends with its last stream.
    retired: Cell<bool>,
    /// The certificate it was made with.
    pub(super) svid: Arc<Svid>,
    /// The peer's certificate ends here.
    peer_not_after: SystemTime,
    /// What the peer has proven.
    proof: Proof,
    /// Our address.
    pub(super) local: Option<SocketAddr>,
    /// What was agreed on with the peer.
    pub(super) agreed: Agreed,
    streams: Cell<usize>,
    /// Whether it is known how many streams the peer takes.
    pub(super) settled: Cell<bool>,
    idle_since: Cell<Instant>,
    /// Told when the driver should look around: idle, or retired.
    stir: Notify,
}

/// What new streams begin on.
#[derive(Debug)]
pub(super) enum Carrier {
    /// Nothing once it is retired: the connection ends with the last handle on it.
    Hbone(RefCell<Option<SendRequest<Bytes>>>),
    Mux(Rc<mux::Link>),
}

/// What must be given to [`drive`] for anything to move.
pub(super) enum Driver {
    Hbone(Box<hbone::client::Connection>),
    Mux(Box<mux::Driver>),
}

/// The right to one stream of a tunnel; counts as one until dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    tunnel: Rc<Tunnel>,
}

/// How a tunnel is driven.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// Closed after this long without streams.
    pub(super) idle: Duration,
    /// Until the peer's settings.
    pub(super) settle: Duration,
}

impl Tunnel {
    /// Starts the protocol that was agreed on over a TLS connection.
    pub(super) async fn start(
        (tls, local): (TlsStream, Option<SocketAddr>),
        peer: &Peer,
        svid: Arc<Svid>,
    ) -> Result<(Rc<Self>, Driver), OpenError> {
        let (carrier, driver) = match peer.protocol {
            Protocol::Hbone => {
                let (sender, connection) = hbone::client::start(tls).await?;
                (Carrier::Hbone(RefCell::new(Some(sender))), Driver::Hbone(Box::new(connection)))
            }
            Protocol::Mesh => {
                let (link, driver) = mux::Link::client(tls);
                (Carrier::Mux(link), Driver::Mux(Box::new(driver)))
            }
        };
        let tunnel = Rc::new(Self {
            carrier,
            retired: Cell::new(false),
            svid,
            peer_not_after: peer.not_after,
            proof: peer.proof.clone(),
            local,
            agreed: peer.agreed,
            streams: Cell::new(0),
            settled: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            stir: Notify::new(),
        });
        Ok((tunnel, driver))
    }

    /// Whether a new stream under `svid` may begin here at `now`. A rotated or expired certificate, at either end,
    /// takes the tunnel out of use.
    pub(super) fn serves(&self, svid: &Arc<Svid>, now: SystemTime) -> bool {
        Arc::ptr_eq(&self.svid, svid)
            && svid.is_valid_at(now)
            && now < self.peer_not_after
            && !self.is_retired()
    }

    /// A lease, if the tunnel is settled and has room below `limit` and the peer's own limit.
    pub(super) fn lease(self: &Rc<Self>, limit: usize) -> Option<Lease> {
        let room = !self.is_retired() && self.streams.get() < limit.min(self.peer_limit());
        (self.settled.get() && room).then(|| self.lease_first())
    }

    /// The maker's own lease: the first stream goes out before the peer's settings are in.
    pub(super) fn lease_first(self: &Rc<Self>) -> Lease {
        self.streams.set(self.streams.get() + 1);
        Lease { tunnel: self.clone() }
    }

    /// No new streams; the connection ends with its last one.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        match &self.carrier {
            Carrier::Hbone(sender) => drop(sender.borrow_mut().take()),
            Carrier::Mux(link) => link.leave(),
        }
        self.stir.notify_one();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
            || match &self.carrier {
                Carrier::Hbone(_) => false,
                Carrier::Mux(link) => link.is_leaving(),
            }
    }

    /// Streams that the peer takes at the same time.
    pub(super) fn peer_limit(&self) -> usize {
        match &self.carrier {
            Carrier::Hbone(sender) => {
                sender.borrow().as_ref().map_or(usize::MAX, SendRequest::current_max_send_streams)
            }
            Carrier::Mux(_) => mesh_core::tunnel::MAX_STREAMS,
        }
    }

    /// Resolves once the tunnel has been without streams for `idle`, or was retired.
    pub(super) async fn unused(&self, idle: Duration) {
        while !self.is_retired() {
            let stir = self.stir.notified();
            if self.streams.get() > 0 {
                stir.await;
                continue;
            }
            let end = self.idle_since.get() + idle;
            if end <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(end) => {}
                () = stir => {}
            }
        }
    }
}

impl Lease {
    /// Asks for a connection and waits for the answer, at most `deadline`.
    pub(super) async fn connect(
        self,
        request: &ConnectRequest,
        early: &Early<'_>,
        deadline: Duration,
    ) -> Result<Stream, OpenError> {
        let tunnel = Rc::clone(&self.tunnel);
        let asked = async {
            match &tunnel.carrier {
                Carrier::Hbone(sender) => hbone::client::connect(&tunnel, sender, request).await,
                Carrier::Mux(link) => link.connect(request, early).await,
            }
        };
        match tokio::time::timeout(deadline, asked).await {
            Ok(answer) => answer.map(|carrier| Stream::new(carrier, Some(self))),
            Err(_) => Err(OpenError::Deadline(Stage::Connect)),
        }
    }

    /// The tunnel it is for.
    pub(super) fn tunnel(&self) -> &Rc<Tunnel> {
        &self.tunnel
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let left = self.tunnel.streams.get() - 1;
        self.tunnel.streams.set(left);
        if left == 0 {
            self.tunnel.idle_since.set(Instant::now());
            self.tunnel.stir.notify_one();
        }
    }
}

/// Runs a tunnel to its end. `settled` is called once: when it is known how many streams the peer takes, or with the
/// reason why that never will be.
pub(super) async fn drive(
    tunnel: Rc<Tunnel>,
    driver: Driver,
    timing: Timing,
    drain: Drain,
    settled: impl FnOnce(Result<(), OpenError>),
) {
    let driven = async {
        match driver {
            Driver::Hbone(connection) => hbone::client::drive(&tunnel, *connection, timing, settled).await,
            Driver::Mux(driver) => {
                // How many is a matter of the protocol.
                tunnel.settled.set(true);
                settled(Ok(()));
                multiplex(&tunnel, *driver, timing).await;
            }
        }
    };
    tokio::select! {
        () = driven => {}
        () = drain.forced() => {}
        error = tunnel.proof.refuted() => {
            let (identity, reason) = (tunnel.svid.id(), error.reason());
            tracing::info!(%identity, reason, %error, "Ended a tunnel to a peer that is no longer accepted.");
        }
    }
    tunnel.retire();
}

async fn multiplex(tunnel: &Tunnel, driver: mux::Driver, timing: Timing) {
    let Carrier::Mux(link) = &tunnel.carrier else { return };
    let retiring = async {
        tunnel.unused(timing.idle).await;
        tunnel.retire();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // How it ends is each stream's own business.
        _ = driver.run(|_| {}) => {}
        () = retiring => {}
        () = link.silence() => tracing::debug!(identity = %tunnel.svid.id(), "Tunnel peer no longer answers."),
    }
}
