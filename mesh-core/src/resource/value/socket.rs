//! Where a listener listens, and which addresses a rule is for.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::super::tree::quote;
use super::{FromText, Refusal, text_value};

/// What a listener binds to, or where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bind {
    /// An address.
    Address(IpAddr),
    /// A Unix domain socket: an absolute path, or `@name` in the abstract namespace.
    Unix(Arc<str>),
}

/// An address or a network. An address is the network of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet(IpNet);

impl Subnet {
    /// The network, host bits cleared.
    pub fn get(self) -> IpNet {
        self.0.trunc()
    }

    /// Whether it holds `address`.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromText for Bind {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return if is_unix_path(path) {
                Ok(Self::Unix(Arc::from(path)))
            } else {
                let reason = format!("{} is not the path of a socket", quote(path));
                Err(Refusal::with_hint(reason, "write an absolute path, or @NAME for an abstract socket"))
            };
        }
        text.parse().map(Self::Address).map_err(|_| {
            let reason = format!("{} is not an IP address", quote(text));
            Refusal::with_hint(reason, "write an address or unix:///PATH")
        })
    }
}

impl FromText for Subnet {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network
            .map(Self)
            .ok_or_else(|| Refusal::new(format!("{} is neither an IP address nor a CIDR", quote(text))))
    }
}

/// Whether `path`, without `unix://`, names a Unix domain socket.
pub(in crate::resource) fn is_unix_path(path: &str) -> bool {
    let file = path.starts_with('/') && !path.ends_with('/');
    file || (path.starts_with('@') && path.len() > 1)
}

text_value!(Bind, {"type": "string"});
text_value!(Subnet, {"type": "string", "maxLength": 64});

/// What the addresses of Unix domain sockets begin with.
const UNIX: &str = "unix://";
