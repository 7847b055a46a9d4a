//! The control plane's way to Kubernetes: the API server of the test suite held to the protocol, and what talks to it.
//! Needs no privilege.

mod api;
mod apiserver;
mod control;
mod hook;
mod kubernetes_control;
mod leader;
mod real;
mod source;
mod status;
mod vault;
mod webhook;
