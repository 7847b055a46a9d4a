//! The mesh on a bed of nodes and pods, as users see it: real binaries, real kernel, real sockets.

mod enrol;
mod faults;
mod neighbours;
mod policy;
mod services;
