//! The mesh on a bed of nodes and pods, as users see it: real binaries, real kernel, real sockets.

mod admin;
mod authorize;
mod bed;
mod bench;
mod control;
mod dns;
mod enrol;
mod express;
mod faults;
mod forge;
mod hostile;
mod identity;
mod inputs;
mod limits;
mod neighbours;
mod policy;
mod protocols;
mod reach;
mod routing;
mod scrape;
mod services;
mod stock;
mod tokens;
mod torture;
mod waypoint;
