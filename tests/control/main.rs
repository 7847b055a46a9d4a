//! The control plane's way to Kubernetes: the API server of the test suite held to the protocol, and what talks to it.
//! Needs no privilege.

mod api;
mod apiserver;
mod hook;
mod leader;
mod real;
mod source;
mod status;
