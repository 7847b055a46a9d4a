//! Who the gateway is, as it learns it, and its certificate.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use mesh_ca::{Bundle, Material, crl::Crls};
use mesh_core::id::SpiffeId;
use mesh_core::model::{CredentialScope, Snapshot};
use mesh_core::own::{Own, Sightings};
use mesh_core::resource::{Object, ObjectKey};
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::sync::watch;

use crate::config::GatewayOptions;
use crate::control::Subscriber;
use crate::identity::{IdentityStore, IssuedChain, Sign, SignError, Signing};
use crate::run::embedded::Observe;
use crate::run::publish::Wanted;
use crate::run::source::{Place, Source, embedded_ca};

/// Who the gateway is, as it is known now.
pub(super) struct Identity {
    sightings: Sightings,
    own: watch::Sender<Arc<Own>>,
    /// Whether the resources themselves are seen, or only what a control plane makes of them.
    sees_resources: bool,
    /// Whether anybody signs for it.
    is_certified: bool,
}

impl Identity {
    pub(super) fn new(options: &GatewayOptions) -> Self {
        let (namespace, name) = (&options.name.namespace, &options.name.name);
        let sightings = Sightings::of(namespace, name, options.labels.iter().cloned());
        let sightings = sightings.with_account(options.service_account.as_deref());
        let own = watch::Sender::new(Arc::new(sightings.own()));
        let sees_resources = options.config.is_some();
        Self { sightings, own, sees_resources, is_certified: !sees_resources || options.state.is_some() }
    }

    /// What to follow.
    pub(super) fn place(options: &GatewayOptions) -> Place {
        Place {
            subscriber: Subscriber::Gateway(options.name.clone()),
            config: options.config.clone(),
            control: options.control.clone(),
            control_ca: options.control_ca.clone(),
            token: options.token.clone(),
            svid_cache: options.svid_cache.clone(),
            state: options.state.clone().unwrap_or_default(),
            trust_domain: options.trust_domain.clone(),
            svid_lifetime: options.svid_lifetime,
            protocols: options.tunnel_protocol,
            resolv_conf: options.resolv_conf.clone(),
            credentials: CredentialScope::Namespace(options.name.namespace.clone()),
        }
    }

    /// Opens what `place` names, and the CA that belongs to it, if there is one.
    pub(super) async fn open(&self, place: &Place) -> anyhow::Result<(Source, Arc<IdentityStore>)> {
        let Some(path) = place.config.as_ref() else { return Source::open(place).await };
        let signer: Arc<dyn Sign> = if self.is_certified {
            Arc::new(embedded_ca(place).await?)
        } else {
            tracing::info!("Without --state this gateway has no identity in the mesh.");
            Arc::new(Nobody::new(place)?)
        };
        let store = IdentityStore::new(signer, place.identities());
        Ok((Source::embedded(path)?, Arc::new(store)))
    }

    /// Who the gateway is, now and later.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Own>> {
        self.own.subscribe()
    }

    /// Sees resources, where there are any to see.
    pub(super) fn observer(&self) -> Option<Box<dyn Observe>> {
        let observer = Observer { sightings: self.sightings.clone(), own: self.own.clone() };
        self.sees_resources.then(|| Box::new(observer) as Box<dyn Observe>)
    }

    /// Looks at what a control plane tells, where that is all there is to see.
    pub(super) fn look(&self) -> impl Fn(&Snapshot) + use<> {
        let (sightings, own, sees) = (self.sightings.clone(), self.own.clone(), self.sees_resources);
        move |snapshot| {
            if !sees {
                tell(&own, &sightings.own_in(snapshot));
            }
        }
    }

    /// The identities that it needs certificates of: its own.
    pub(super) fn wanted(&self) -> Wanted {
        let (own, is_certified, look) = (self.own.subscribe(), self.is_certified, self.look());
        Box::new(move |snapshot| {
            look(snapshot);
            let id = identity_of(&own.borrow(), snapshot).filter(|_| is_certified);
            id.into_iter().collect::<BTreeSet<_>>()
        })
    }
}

/// The identity of `own` in the mesh.
pub(crate) fn identity_of(own: &Own, snapshot: &Snapshot) -> Option<SpiffeId> {
    SpiffeId::new(snapshot.trust_domain(), &own.namespace, &own.service_account).ok()
}

struct Observer {
    sightings: Sightings,
    own: watch::Sender<Arc<Own>>,
}

impl Observe for Observer {
    fn apply(&mut self, object: &Object) {
        self.sightings.apply(object);
    }

    fn remove(&mut self, key: &ObjectKey) {
        self.sightings.remove(key);
    }

    fn settle(&mut self) {
        tell(&self.own, &self.sightings.own());
    }
}

fn tell(sender: &watch::Sender<Arc<Own>>, own: &Own) {
    let differs = |old: &mut Arc<Own>| {
        let differs = **old != *own;
        if differs {
            *old = Arc::new(own.clone());
        }
        differs
    };
    sender.send_if_modified(differs);
}

/// Signs nothing: a gateway without a CA.
struct Nobody {
    bundle: Arc<Bundle>,
}

impl Nobody {
    /// Peers would be checked against a root whose key nobody has.
    fn new(place: &Place) -> anyhow::Result<Self> {
        let made = Material::self_made(&place.trust_domain, SystemTime::now());
        let roots = made.context("making a root")?.roots().to_vec();
        Ok(Self { bundle: Arc::new(Bundle::new(roots, Crls::default())?) })
    }
}

impl Sign for Nobody {
    fn sign<'a>(
        &'a self,
        _: &'a SpiffeId,
        _: CertificateSigningRequestDer<'static>,
        _: Duration,
    ) -> Signing<'a, IssuedChain> {
        let refused = SignError::Refused("this gateway has no certificate authority".to_owned());
        Box::pin(std::future::ready(Err(refused)))
    }

    fn bundle(&self) -> Arc<Bundle> {
        Arc::clone(&self.bundle)
    }

    fn refresh(&self) -> Signing<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
