//! The specs of `gateway.networking.k8s.io` kinds, with the API server's defaults applied.
//!
//! What is one of several things in the API is an enum here, not a type field beside optional others, so that whoever
//! compiles a route cannot meet a filter without its settings. An absent list is an empty one. What lengths,
//! uniqueness and fields that need each other ask for is checked when an object is parsed; a spec that made it
//! into an [`Object`](super::Object) satisfies the API's schemas.
//!
//! The `x-k8s.io` kinds are not supported: parsing says so.

pub use self::backend_tls::{BackendTlsPolicySpec, CaSource, LocalPolicyTarget, SubjectAltName, Validation};
pub use self::cors::{AllowList, Cors, CorsHost, CorsMethod, CorsOrigin, MaxAge};
pub use self::filter::{
    AuthProtocol, ExternalAuth, Fraction, GrpcFilter, HeaderModifier, HttpFilter, NamedValue, PathModifier,
    RedirectStatus, RequestMirror, RequestRedirect, Scheme, UrlRewrite,
};
pub use self::gateway::{
    AddressKind, AllowedListeners, AllowedRoutes, CertificateMode, ClientValidation, FrontendTls,
    GatewayAddress, GatewayBackendTls, GatewayClassSpec, GatewayFrontendTls, GatewaySpec, GatewayTls,
    Infrastructure, Listener, ListenerNamespaces, ListenerNamespacesFrom, ListenerTls, PortTls, Protocol,
    RouteGroupKind, RouteNamespaces, RouteNamespacesFrom, TlsMode,
};
pub use self::grpc_route::{GrpcHeaderMatch, GrpcMatch, GrpcMethodMatch, GrpcRouteSpec, GrpcRule};
pub use self::http_route::{
    CookieLifetime, HeaderMatch, HttpMatch, HttpRouteSpec, HttpRule, Method, PathMatch, QueryParamMatch,
    Retry, SessionCarrier, SessionPersistence, Timeouts, ValueMatch,
};
pub use self::l4_route::{L4Rule, TcpRouteSpec, TlsRouteSpec, UdpRouteSpec};
pub use self::listener_set::ListenerSetSpec;
pub use self::reference::{
    Backend, BackendRef, DefaultGateways, FilteredBackend, ListenerParent, LocalRef, ObjectRef,
    ParametersRef, ParentRef, SecretRef,
};
pub use self::reference_grant::{GrantFrom, GrantTo, ReferenceGrantSpec};
pub use self::value::{
    ControllerName, Duration, GroupName, HeaderName, HeaderText, Hostname, KindName, NamespaceName,
    ObjectName, PathText, PreciseHostname, SectionName, Text1024, Text4096, Timeout, TokenName, Weight,
};

mod backend_tls;
mod cors;
mod filter;
mod gateway;
mod grpc_route;
mod http_route;
mod l4_route;
mod listener_set;
mod reference;
mod reference_grant;
mod value;

#[cfg(test)]
mod tests;
