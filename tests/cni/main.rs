//! The CNI plugin as a container runtime sees it: in a chain behind the reference plugins, with real network namespaces and
//! a real agent. Pods come to be in the order that kubelets and containerd have: the object without an address, the
//! network, then processes, then the address. And the image that the plugin comes in, as containerd takes it.

mod containerd;
mod layouts;
mod lifecycle;
mod outage;
mod stand;
