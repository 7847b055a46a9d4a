//! Keeps others out: the page shows names of everybody's, and asks nobody who they are.
//!
//! Metrics of the same port are for whoever scrapes them; the page is for this machine, be it that the port is open to
//! others or not. In a cluster people come by `kubectl port-forward`, which connects from within the pod. A page of somebody
//! else's in a browser on this machine cannot choose the `Host` of its requests: if it has had its own name pointed at
//! 127.0.0.1 (DNS rebinding), the name gives it away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::HOST;
use http::request::Parts;

/// Accepts requests of this machine, by a loopback name or address.
pub(super) fn check(peer: IpAddr, request: &Parts) -> Result<(), &'static str> {
    if !peer.to_canonical().is_loopback() {
        return Err("the page is for this machine only: use kubectl port-forward, or meshctl dashboard");
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("the request has no Host header, or several");
    };
    let host = host.to_str().map_err(|_| "the Host header is not text")?;
    let target = request.uri.host();
    let is_here = is_loopback(without_port(host)) && target.is_none_or(is_loopback);
    is_here.then_some(()).ok_or("the page answers only requests for localhost")
}

/// The host of `host`, `host:port` or `[v6]:port`, brackets kept.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.contains("::") => host,
        Some((host, _)) if host.ends_with(']') => host,
        _ => authority,
    }
}

fn is_loopback(host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inside.parse::<Ipv6Addr>().is_ok_and(|ip| IpAddr::V6(ip).to_canonical().is_loopback());
    }
    host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}
