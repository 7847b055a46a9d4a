//! Installations: what is said about one, and the objects that come of it. No cluster is asked but in [`cluster`].
//!
//! The objects are written down once, in the chart `deploy/helm/mesh`; the plain manifests in `deploy` are what comes of
//! its values as they are. Helm and this program render the same templates with the same values.

pub(crate) mod chart;
pub(crate) mod cluster;
pub(crate) mod objects;
mod operator;
mod request;
mod rollout;
mod schema;
mod set;
mod template;
mod values;

pub(crate) use self::objects::{Object, Stage};
pub(crate) use self::request::{Plan, Request, defaults};
pub(crate) use self::schema::schema;

/// The namespace of the mesh's own objects. The programs and Istio's tools know it by this name.
pub(crate) const NAMESPACE: &str = "istio-system";
