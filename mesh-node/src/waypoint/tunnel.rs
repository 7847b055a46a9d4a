//! Tunnels: the handshake, and who comes through.

use std::net::SocketAddr;
use std::rc::Rc;

use super::{Waypoint, stream};
use crate::gateway::{TunnelConnection, identity_of};
use crate::report::Event;
use crate::run::worker::{event_of, fault_event, is_fault_of_peer};
use crate::tunnel::{self, Server};

/// Serves one tunnel to its end.
pub(super) async fn serve(waypoint: Rc<Waypoint>, connection: TunnelConnection) {
    let TunnelConnection { tcp, peer, local } = connection;
    let place = waypoint.handshakes.enter();
    let id = identity_of(&waypoint.thread.own.borrow(), &waypoint.engine.snapshot());
    let Some(svid) = id.and_then(|id| waypoint.thread.identities.current(&id)) else {
        return waypoint.refuse(peer, None, &"this waypoint has no certificate yet");
    };
    let accepted = tokio::select! {
        accepted = crate::tls::accept(tcp, &svid) => accepted,
        () = place.lost() => {
            return waypoint.refuse(peer, Some(Event::HandshakeOverload), &"too many handshakes");
        }
        () = waypoint.thread.drain.forced() => return,
    };
    let (tls, proven) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return waypoint.refuse(peer, Some(event_of(&error)), &error),
    };
    drop(place);
    waypoint.thread.reporter.count(Event::tunnel(proven.protocol));
    let identity = proven.id.clone();
    match server(&waypoint, peer).serve(tls, proven, local).await {
        Ok(()) => {}
        Err(error) if is_fault_of_peer(&error) => {
            waypoint.thread.reporter.count(fault_event(&error));
            if let Some(muted) = waypoint.refusals.pass() {
                tracing::info!(%peer, %identity, reason = error.reason(), %error, muted, "Ended a tunnel.");
            }
        }
        Err(error) => tracing::debug!(%peer, %identity, %error, "A tunnel ended with an error."),
    }
}

fn server(waypoint: &Rc<Waypoint>, peer: SocketAddr) -> Server {
    let (handling, refusing) = (Rc::clone(waypoint), Rc::clone(waypoint));
    Server {
        limits: tunnel::ServeLimits::default(),
        handler: Rc::new(move |incoming| Box::pin(stream::serve(Rc::clone(&handling), incoming, peer))),
        on_refused: Rc::new(move |reason| {
            let method = reason == "not_connect";
            refusing.refuse(
                peer,
                Some(if method { Event::GarbageMethod } else { Event::GarbageAuthority }),
                &reason,
            );
        }),
        drain: waypoint.thread.drain.clone(),
    }
}

impl Waypoint {
    /// Counts what was refused, and logs it unless there is too much of it.
    pub(super) fn refuse(&self, peer: SocketAddr, event: Option<Event>, reason: &dyn std::fmt::Display) {
        if let Some(event) = event {
            self.thread.reporter.count(event);
        }
        if let Some(muted) = self.refusals.pass() {
            tracing::info!(%peer, %reason, muted, "Refused a tunnel, or a request on one.");
        }
    }
}
