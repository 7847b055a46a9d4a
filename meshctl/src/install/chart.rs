//! The files of `deploy/helm/mesh`, as they were when this program was built.

/// A file: its name without folder and ending, and what is in it.
pub(crate) type File = (&'static str, &'static str);

/// The defaults, with a comment for each.
pub(crate) const VALUES: &str = include_str!("../../../deploy/helm/mesh/values.yaml");

macro_rules! files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../deploy/helm/mesh/", $folder, "/", $name, ".yaml")))),*]
    };
}

/// Files of values, by the names of the profiles that they are.
pub(crate) const PROFILES: &[File] = files!("profiles": "ambient", "default", "demo", "empty", "minimal");

/// Templates of objects.
pub(crate) const TEMPLATES: &[File] =
    files!("templates": "namespace", "rbac", "config", "mesh-control", "mesh-node", "gateways", "webhook");

/// Definitions of kinds; they are no templates.
pub(crate) const DEFINITIONS: &[File] = files!(
    "crds": "authorizationpolicies.security.istio.io",
    "destinationrules.networking.istio.io",
    "envoyfilters.networking.istio.io",
    "gateways.networking.istio.io",
    "healthchecks.policy.mesh.internal",
    "peerauthentications.security.istio.io",
    "proxyconfigs.networking.istio.io",
    "ratelimits.policy.mesh.internal",
    "requestauthentications.security.istio.io",
    "serviceentries.networking.istio.io",
    "sidecars.networking.istio.io",
    "telemetries.telemetry.istio.io",
    "trafficextensions.extensions.istio.io",
    "virtualservices.networking.istio.io",
    "wasmplugins.extensions.istio.io",
    "workloadentries.networking.istio.io",
    "workloadgroups.networking.istio.io",
);

/// The text of a profile.
pub(crate) fn profile(name: &str) -> Option<&'static str> {
    PROFILES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_file_of_the_chart_is_left_out() {
        for (folder, files) in [("profiles", PROFILES), ("templates", TEMPLATES), ("crds", DEFINITIONS)] {
            let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/mesh");
            let entries = std::fs::read_dir(format!("{chart}/{folder}")).unwrap();
            let there = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let known = files.iter().map(|(name, _)| format!("{name}.yaml"));
            // What Helm runs before it removes the mesh is what `meshctl uninstall` does itself.
            let there = there.filter(|name| name != "removal.yaml");
            assert_eq!(known.collect::<BTreeSet<_>>(), there.collect(), "{folder}");
        }
    }

    #[test]
    fn the_chart_is_of_this_version() {
        let chart = include_str!("../../../deploy/helm/mesh/Chart.yaml");
        for field in ["version", "appVersion"] {
            assert!(chart.lines().any(|line| line == format!("{field}: {}", env!("CARGO_PKG_VERSION"))));
        }
        assert!(VALUES.contains(&format!("  tag: {}\n", env!("CARGO_PKG_VERSION"))));
    }
}
