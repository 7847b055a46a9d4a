//! Pods that speak TLS by themselves.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use mesh_tests::sealed::{Sealing, acceptor, pass_on};
use tokio::net::TcpListener;

use crate::tls::Authority;

/// Speaks TLS at one port of these addresses, to whoever asks for [`NAME`], and passes on what is inside to `plain` at
/// the same address. `certified` clients only, if so. Returns the port.
pub(super) async fn serve(
    authority: &Authority,
    certified: bool,
    (addresses, plain): (&[Ipv4Addr], u16),
) -> Result<u16> {
    let pair = authority.issue(NAMES)?;
    let clients = certified.then(|| authority.pem());
    let (certificate, key) = (&*pair.certificate, &*pair.key);
    let acceptor = acceptor(&Sealing { name: NAME, certificate, key, clients })?;
    let mut port = 0;
    for ip in addresses {
        let listener = TcpListener::bind((*ip, port)).await.context("a port for TLS")?;
        port = listener.local_addr()?.port();
        tokio::task::spawn_local(pass_on(listener, acceptor.clone(), (*ip, plain).into()));
    }
    Ok(port)
}

/// What clients have to ask for.
pub(super) const NAME: &str = "abc.example.com";
/// What the certificates are for.
pub(super) const NAMES: &[&str] = &[NAME, "second.example.com", "spiffe://example.com/pod"];
