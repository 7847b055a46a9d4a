//! Keeps others out: the page shows names of everybody's, and asks nobody who they are.
//!
//! Metrics of the same port are for whoever scrapes them; the page is for this machine, be it that the port is open to
//! others or not. In a cluster people come by `kubectl port-forward`, which connects from within the pod. A page of somebody
//! else's in a browser on this machine cannot choose the `Host` of its requests: if it has had its own name pointed at
//! 127.0.0.1 (DNS rebinding), the name gives it away.

use std::net::IpAddr;

use http::header::HOST;
use http::request::Parts;
use mesh_core::http::loopback;

/// Accepts requests of this machine, by a loopback name or address.
pub(super) fn check(peer: IpAddr, request: &Parts) -> Result<(), &'static str> {
    if !peer.to_canonical().is_loopback() {
        return Err("the page is for this machine only: use kubectl port-forward, or meshctl dashboard");
    }
    names_this_machine(request)
}

/// Accepts requests for a loopback name or address, and for nothing else.
pub(crate) fn names_this_machine(request: &Parts) -> Result<(), &'static str> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("the request has no Host header, or several");
    };
    let host = host.to_str().map_err(|_| "the Host header is not text")?;
    let target = request.uri.host();
    let is_here = loopback::is_named_by(host) && target.is_none_or(loopback::is_named_by);
    is_here.then_some(()).ok_or("only requests for localhost are answered here")
}
