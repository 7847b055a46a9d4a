//! The test bed: a small kubelet for one machine, and what the suites and demonstrations run on it.
//!
//! [`bed::Bed`] makes nodes and pods out of network namespaces and cgroups and keeps them as Kubernetes manifests say.
//! [`bookinfo`] and [`httpbin`] are well-known sample applications as small programs, [`demo`] shows the mesh with the
//! first. [`tool`] is the helper that tests send into pods where `curl` is not enough.

pub mod apiserver;
pub mod ask;
pub mod authorizer;
pub mod bed;
pub mod bench;
pub mod bookinfo;
pub mod collector;
pub mod demo;
pub mod edge;
pub mod foreign;
pub mod grpc;
pub mod halt;
pub mod http;
pub mod httpbin;
pub mod image;
pub mod istiod;
pub mod jwt;
pub mod mongo;
pub mod numbered;
pub mod origin;
pub mod probe;
pub mod ratelimit;
pub mod scenario;
pub mod sealed;
mod sys;
pub mod tool;
pub mod torture;
pub mod waypoint;
