//! Istio's codes of what an analysis finds. Numbers, names and levels are Istio's, so that runbooks, suppressions and
//! dashboards made for it keep their meaning.

use std::fmt;
use std::str::FromStr;

use crate::resource::Level;

/// Declares [`Code`], one row per code: variant, number, level, documentation.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $level:ident;)*) => {
        /// What kind of thing a message is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name),*
        }

        impl Code {
            /// All of them, ascending.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Istio's number, without `IST` and leading zeros.
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number),*
                }
            }

            /// Istio's name for it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),*
                }
            }

            /// How bad it is.
            pub fn level(self) -> Level {
                match self {
                    $(Self::$name => Level::$level),*
                }
            }
        }
    };
}

codes! {
    /// A name leads to nothing: a host, port, subset, gateway, namespace, selector or policy target.
    ReferencedResourceNotFound = 101, Error;
    /// Nothing says whether the namespace belongs to the mesh.
    NamespaceNotInjected = 102, Info;
    /// The document was refused.
    SchemaValidationError = 106, Error;
    /// An annotation on a kind that does not read it.
    MisplacedAnnotation = 107, Warning;
    /// An annotation in Istio's domain that does not exist.
    UnknownAnnotation = 108, Warning;
    /// Two `VirtualServices` are for the same host in the mesh, where only one is used.
    ConflictingMeshGatewayVirtualServiceHosts = 109, Error;
    /// Two Sidecars select the same workload, which only gets one.
    ConflictingSidecarWorkloadSelectors = 110, Error;
    /// Two Sidecars are for the same whole namespace, which only gets one.
    MultipleSidecarsWithoutWorkloadSelectors = 111, Error;
    /// A route to a service with several ports does not say which.
    VirtualServiceDestinationPortSelectorRequired = 112, Error;
    /// Two services of a Deployment give one port two transport protocols.
    DeploymentAssociatedToMultipleServices = 116, Warning;
    /// A port's name does not say what it speaks.
    PortNameIsNotUnderNamingConvention = 118, Info;
    /// Labels of a namespace contradict each other about the mesh.
    NamespaceMultipleInjectionLabels = 123, Warning;
    /// A selector selects nothing.
    NoMatchingWorkloadsFound = 127, Warning;
    /// TLS to a host without saying whom to trust.
    NoServerCertificateVerificationDestinationLevel = 128, Warning;
    /// TLS to a port of a host without saying whom to trust.
    NoServerCertificateVerificationPortLevel = 129, Warning;
    /// A rule that earlier rules leave nothing to.
    VirtualServiceUnreachableRule = 130, Warning;
    /// A condition of a rule that earlier rules leave nothing to.
    VirtualServiceIneffectiveMatch = 131, Info;
    /// A `VirtualService` names a Gateway that serves none of its hosts.
    VirtualServiceHostNotFoundInGateway = 132, Warning;
    /// The document applies, but probably not as intended.
    SchemaWarning = 133, Warning;
    /// A `ServiceEntry` for TCP can only be told from others by an address, and has none.
    ServiceEntryAddressesRequired = 134, Warning;
    /// An annotation that is on its way out.
    DeprecatedAnnotation = 135, Info;
    /// Two services of a Deployment lead to one port of it from different ports.
    DeploymentConflictingPorts = 137, Warning;
    /// Two Gateways present the same certificate on the same pods.
    GatewayDuplicateCertificate = 138, Warning;
    /// Subsets for clients in the mesh do not hold for what comes through a gateway.
    IngressRouteRulesNotAffected = 140, Warning;
    /// Two Gateways claim the same host and port of the same pods.
    ConflictingGateways = 145, Error;
    /// A route by a claim of a token, behind a gateway that verifies none.
    JwtClaimBasedRoutingWithoutRequestAuthN = 149, Error;
    /// A port of an `ExternalName` service has a name that asks for plain TCP.
    ExternalNameServiceTypeInvalidPortName = 150, Warning;
    /// Two Telemetries select the same workload, which only gets one.
    ConflictingTelemetryWorkloadSelectors = 159, Error;
    /// Two Telemetries are for the same whole namespace, which only gets one.
    MultipleTelemetriesWithoutWorkloadSelectors = 160, Error;
    /// The certificate that a Gateway names is of no use.
    InvalidGatewayCredential = 161, Error;
    /// A Gateway listens on a port that its Service does not have.
    GatewayPortNotDefinedOnService = 162, Warning;
    /// A `VirtualService` names a Gateway that Istio makes for itself.
    ReferencedInternalGateway = 165, Warning;
    /// A policy selects the pods of a Kubernetes Gateway by label.
    IneffectiveSelector = 166, Warning;
    /// A policy changes nothing.
    IneffectivePolicy = 167, Warning;
    /// A subset that none of the service's workloads belongs to.
    DestinationRuleSubsetNotSelectPods = 173, Error;
    /// A `DestinationRule` for a host that does not exist.
    UnknownDestinationRuleHost = 174, Warning;
    /// Two `ServiceEntries` say different things about one port of one host.
    ConflictingServiceEntryProtocol = 177, Warning;
}

impl Code {
    /// The page of Istio's documentation about it.
    pub fn documentation_url(self) -> String {
        format!("https://istio.io/latest/docs/reference/config/analysis/ist{:04}/", self.number())
    }
}

/// As users write it: `IST0101`.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IST{:04}", self.number())
    }
}

/// There is no such code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no code of this analysis")]
pub struct UnknownCode(pub String);

impl FromStr for Code {
    type Err = UnknownCode;

    fn from_str(text: &str) -> Result<Self, UnknownCode> {
        let known = Self::ALL.iter().find(|code| code.to_string() == text);
        known.copied().ok_or_else(|| UnknownCode(text.to_owned()))
    }
}
