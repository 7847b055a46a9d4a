//! Server names that say where a connection goes, for servers of mode `AUTO_PASSTHROUGH`: what sidecars of another network
//! put into TLS when they send to a service here, so that the gateway between needs no rule.

use std::sync::Arc;

use super::ClusterRef;

/// Reads `outbound_.PORT_.SUBSET_.HOST`, in lower case; the subset may be empty. `None` if it is none.
pub fn destination_of(server_name: &str) -> Option<ClusterRef> {
    let rest = server_name.strip_prefix(OUTBOUND)?;
    let (port, rest) = rest.split_once(MARK)?;
    let (subset, host) = rest.split_once(MARK)?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| port.parse::<u16>().ok()).flatten().filter(|port| *port > 0)?;
    let subset = Some(subset).filter(|subset| !subset.is_empty()).map(Arc::from);
    (!host.is_empty()).then(|| ClusterRef { host: host.into(), subset, port: Some(port) })
}

/// Whether this is one of the protocols that sidecars of Istio offer in TLS of the mesh. Others are not let through: what
/// is passed on unopened must be TLS in which both ends prove who they are.
pub fn is_of_mesh(alpn: &[u8]) -> bool {
    ALPNS.contains(&alpn)
}

const OUTBOUND: &str = "outbound_.";
const MARK: &str = "_.";
const ALPNS: [&[u8]; 5] =
    [b"istio", b"istio-peer-exchange", b"istio-http/1.0", b"istio-http/1.1", b"istio-h2"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters_are_read() {
        let read =
            |name| destination_of(name).map(|it| (it.port, it.subset.as_deref().map(str::to_owned), it.host));
        let host: Arc<str> = "reviews.shop.svc.cluster.local".into();
        let full = read("outbound_.9080_._.reviews.shop.svc.cluster.local");
        assert_eq!(full, Some((Some(9080), None, Arc::clone(&host))));
        let subset = read("outbound_.9080_.v1_.reviews.shop.svc.cluster.local");
        assert_eq!(subset, Some((Some(9080), Some("v1".to_owned()), host)));
        for wrong in [
            "",
            "reviews.shop.svc.cluster.local",
            "inbound_.80_._.a.b",
            "outbound_.80_._.",
            "outbound_.80_.a.b",
            "outbound_._._.a.b",
            "outbound_.0_._.a.b",
            "outbound_.+80_._.a.b",
            "outbound_.65536_._.a.b",
            "outbound_.http_._.a.b",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
