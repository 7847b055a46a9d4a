//! Installing: what `meshctl` renders is what Kubernetes takes and what `deploy` has, and what it applies to a cluster is
//! there, is changed in place, and goes again. Against an API server of the suite's own; where `KUBECONFIG` or
//! `KUBEBUILDER_ASSETS` is set, what needs no hand on the server runs against that one. Needs no privilege.

mod cluster;
mod guide;
mod helm;
mod image;
mod install;
mod life;
mod manifests;
mod real;
mod schemas;
