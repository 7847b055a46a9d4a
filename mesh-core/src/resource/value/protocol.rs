//! What a port speaks.

use super::super::strict::did_you_mean;
use super::super::tree::quote;
use super::{FromText, Refusal, text_value};

/// The protocol of a port, as Gateways, `ServiceEntries` and Sidecars name it, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.1, upgraded to HTTP/2 if the client does so.
    Http,
    /// HTTP/2 in plaintext.
    Http2,
    /// An HTTP/1.1 proxy's port: requests name their host in the target.
    HttpProxy,
    /// gRPC.
    Grpc,
    /// gRPC in HTTP/1.1 that browsers can send.
    GrpcWeb,
    /// HTTP in TLS.
    Https,
    /// TLS; what is inside is unknown.
    Tls,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// The protocol of `MongoDB`: bytes, as far as the mesh is concerned.
    Mongo,
    /// Redis: bytes, as far as the mesh is concerned.
    Redis,
    /// The protocol of `MySQL`: bytes, as far as the mesh is concerned; the server speaks first.
    MySql,
}

impl Protocol {
    /// Whether requests can be read without opening TLS.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb)
    }

    /// As `appProtocol` of a Service has it; nothing for what only proxies are asked for.
    pub fn app_protocol(self) -> Option<&'static str> {
        Some(match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::HttpProxy => return None,
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc-web",
            Self::Https => "https",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Mongo => "mongo",
            Self::Redis => "redis",
            Self::MySql => "mysql",
        })
    }

    /// Whether connections begin with a TLS handshake.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

impl FromText for Protocol {
    fn from_text(text: &str) -> Result<Self, Refusal> {
        let known = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        known.map(|(_, protocol)| *protocol).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            let hint = did_you_mean(text, &names).unwrap_or_else(|| format!("one of {}", names.join(", ")));
            Refusal::with_hint(format!("unknown protocol {}", quote(text)), hint)
        })
    }
}

text_value!(Protocol, {"type": "string"});

const NAMES: [(&str, Protocol); 12] = [
    ("HTTP", Protocol::Http),
    ("HTTP2", Protocol::Http2),
    ("HTTP_PROXY", Protocol::HttpProxy),
    ("GRPC", Protocol::Grpc),
    ("GRPC-WEB", Protocol::GrpcWeb),
    ("HTTPS", Protocol::Https),
    ("TLS", Protocol::Tls),
    ("TCP", Protocol::Tcp),
    ("UDP", Protocol::Udp),
    ("MONGO", Protocol::Mongo),
    ("REDIS", Protocol::Redis),
    ("MYSQL", Protocol::MySql),
];
