//! `mesh-node gateway` as its clients see it: the real process, real certificates, curl. Needs no privilege; as root it
//! is also shown that it needs none.

mod datagrams;
mod hello;
mod listeners;
mod local;
mod modes;
mod policies;
mod rotation;
mod tls_log;
mod wire;

use mesh_tests::edge::{pki, process};
