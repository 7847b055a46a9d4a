//! The control plane as its clients see it, and its way to Kubernetes: the real process, real connections, real faults,
//! and an API server of the suite's own that is held to the protocol. Needs no privilege.

mod analyze;
mod api;
mod apiserver;
mod caller;
mod certificates;
mod control;
mod deployer;
mod describe;
mod discovery;
mod evil;
mod flood;
mod hook;
mod hostile;
mod kiali;
mod kubernetes_control;
mod leader;
mod logs;
mod machines;
mod manifests;
mod marks;
mod nack;
mod plane;
mod real;
mod resume;
mod rotation;
mod source;
mod stage;
mod status;
mod subscriber;
mod vault;
mod waypoints;
mod webhook;
mod worst;
mod written;
mod ztunnel;
