//! Who is at the other end of a connection or call, as it has proven.

use std::net::SocketAddr;
use std::sync::Arc;

use mesh_ca::authorize::{Binding, Caller, Rules, node_of};
use mesh_core::id::SpiffeId;
use mesh_core::model::{Asker, AskerProof};
use tonic::transport::server::Connected;

/// What is known of a connection before anything is asked on it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The other end.
    pub address: SocketAddr,
    /// How it is protected.
    pub security: Security,
}

/// How a connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// Not at all. Only served where this is wanted, normally on loopback, and whoever comes is believed.
    Plain,
    /// TLS; the client has shown nothing.
    Tls,
    /// TLS; the client has proven this identity.
    Mutual(SpiffeId),
}

/// Who calls.
#[derive(Debug, Clone)]
pub enum Proven {
    /// Nobody in particular, on a port that asks for nothing.
    Nobody,
    /// By credential.
    Caller(Arc<Caller>),
}

impl Proven {
    /// The node that the caller is the proxy of, if it has proven that it is one's.
    pub fn node(&self, rules: &Rules) -> Option<Arc<str>> {
        let Self::Caller(caller) = self else { return None };
        let name = match &**caller {
            Caller::ServiceAccountToken { namespace, service_account, node, .. } => {
                let account = (namespace.clone(), service_account.clone());
                node.clone().filter(|_| rules.node_accounts.contains(&account))
            }
            Caller::Svid(id) => node_of(id),
            Caller::JoinToken(Binding::Node(node)) => Some(node.clone()),
            Caller::JoinToken(Binding::Identity(_)) => None,
        };
        name.map(|name| name.as_str().into())
    }

    /// The namespace of the caller, if it has proven who it is and is no node's proxy: those act for everybody.
    pub fn namespace(&self, rules: &Rules) -> Option<Arc<str>> {
        let Self::Caller(caller) = self else { return None };
        match &**caller {
            Caller::ServiceAccountToken { namespace, service_account, .. } => {
                let account = (namespace.clone(), service_account.clone());
                (!rules.node_accounts.contains(&account)).then(|| namespace.as_str().into())
            }
            Caller::Svid(id) | Caller::JoinToken(Binding::Identity(id)) => {
                let ours = *id.trust_domain() == rules.trust_domain && node_of(id).is_none();
                ours.then(|| id.namespace().into())
            }
            Caller::JoinToken(Binding::Node(_)) => None,
        }
    }

    /// The identity of the caller, if it has proven one and is no node's proxy.
    pub fn identity(&self, rules: &Rules) -> Option<SpiffeId> {
        self.namespace(rules)?;
        let Self::Caller(caller) = self else { return None };
        match &**caller {
            Caller::ServiceAccountToken { namespace, service_account, .. } => {
                SpiffeId::new(&rules.trust_domain, namespace, service_account).ok()
            }
            Caller::Svid(id) | Caller::JoinToken(Binding::Identity(id)) => Some(id.clone()),
            Caller::JoinToken(Binding::Node(_)) => None,
        }
    }

    /// Who the caller is where keys are told to gateways: its pod if its token is bound to one, else its account, of which it
    /// may be whatever is `called` so. `None` if it has proven nothing, or is a node's proxy.
    pub fn asker(&self, rules: &Rules, called: &str) -> Option<Asker> {
        let Self::Caller(caller) = self else { return None };
        if let Caller::ServiceAccountToken { pod: Some(pod), .. } = &**caller {
            let proof = AskerProof::Pod { name: pod.name.as_str().into(), uid: pod.uid.as_str().into() };
            return Some(Asker { namespace: self.namespace(rules)?, proof });
        }
        Some(Asker::of_account(&self.identity(rules)?, called))
    }

    /// For logs and lists.
    pub fn describe(&self) -> Arc<str> {
        match self {
            Self::Nobody => "unauthenticated".into(),
            Self::Caller(caller) => caller.to_string().into(),
        }
    }
}

impl Connected for crate::listen::Stream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection().clone()
    }
}
