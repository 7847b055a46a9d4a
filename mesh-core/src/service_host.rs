//! Services of a cluster by the names that they have in DNS, and how a pod can know where they are without DNS.

/// Namespace and name of the Service that a host name is of: `NAME.NAMESPACE.svc`, with the cluster's domain or without.
pub fn service_of(host: &str) -> Option<(&str, &str)> {
    let (name, rest) = host.split_once('.')?;
    let (namespace, rest) = rest.split_once('.')?;
    let is_service = rest == "svc" || rest.starts_with("svc.");
    is_service.then_some((namespace, name))
}

/// The variable in which Kubernetes tells the pods of a Service's own namespace its address.
pub fn variable_of(name: &str) -> String {
    format!("{}_SERVICE_HOST", name.to_ascii_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_services_are_known() {
        for host in ["mesh-control.istio-system.svc", "mesh-control.istio-system.svc.cluster.local"] {
            assert_eq!(service_of(host), Some(("istio-system", "mesh-control")));
        }
        for host in [
            "mesh-control",
            "mesh-control.istio-system",
            "control.example.com",
            "10.0.0.1",
            "a.b.svcx",
            "fd00::1",
        ] {
            assert_eq!(service_of(host), None, "{host}");
        }
    }

    #[test]
    fn the_variable_is_that_of_kubernetes() {
        assert_eq!(variable_of("mesh-control"), "MESH_CONTROL_SERVICE_HOST");
    }
}
