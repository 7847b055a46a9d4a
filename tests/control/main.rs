//! The control plane as its clients see it: the real process over a directory, real connections, real faults. Needs no
//! privilege.

mod caller;
mod certificates;
mod discovery;
mod evil;
mod hostile;
mod plane;
mod resume;
mod rotation;
mod subscriber;
mod ztunnel;
