//! Keys of issuers that were fetched: they travel inside of the rules that ask for them, so that whoever enforces a rule has
//! its keys with it, or none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::World;
use crate::authn::{KeySet, KeySite, Wanted};
use crate::model::{Config, Record, RecordKey};
use crate::resource::{Object, ObjectKey, Spec};

/// Who asks for keys, and what was found.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Those with a rule whose keys are elsewhere.
    users: BTreeMap<ObjectKey, Object>,
    wanted: Wanted,
    found: BTreeMap<KeySite, Arc<KeySet>>,
}

impl World {
    /// The places that keys are to be fetched from, and for which namespaces.
    pub fn wanted_keys(&self) -> &Wanted {
        &self.keys.wanted
    }

    /// Takes note of the keys that a place has from now on, or that none are known any more. Takes effect with the next
    /// [`Self::commit`]; of places that nobody wants, nothing is kept.
    pub fn set_keys(&mut self, site: &KeySite, keys: Option<Arc<KeySet>>) {
        let Some(keys) = keys.filter(|_| self.keys.wanted.contains_key(site)) else {
            if self.keys.found.remove(site).is_some() {
                self.tell_users(site);
            }
            return;
        };
        let old = self.keys.found.insert(site.clone(), Arc::clone(&keys));
        if old.is_none_or(|old| *old != *keys) {
            self.tell_users(site);
        }
    }

    /// Takes note of a RequestAuthentication, or that it is gone.
    pub(super) fn put_authentication(&mut self, key: &ObjectKey, object: Option<&Object>) {
        self.note_labels(key, object);
        match object.filter(|object| !sites_of(object).is_empty()) {
            Some(object) => _ = self.keys.users.insert(key.clone(), object.clone()),
            None => _ = self.keys.users.remove(key),
        }
        self.keys.wanted = self.keys.all_wanted();
        let wanted = &self.keys.wanted;
        self.keys.found.retain(|site, _| wanted.contains_key(site));
        let config = object.and_then(|object| self.with_keys(object));
        let config = config.map(|config| Record::Config(Arc::new(config)));
        self.emit(RecordKey::Config(Arc::new(key.clone())), config);
    }

    fn tell_users(&mut self, site: &KeySite) {
        let users = self.keys.users.values().filter(|object| sites_of(object).contains_key(site));
        let news: Vec<_> = users.filter_map(|object| self.with_keys(object)).collect();
        for config in news {
            self.emit(RecordKey::Config(config.key()), Some(Record::Config(Arc::new(config))));
        }
    }

    /// The resource with the keys that are known in it. A rule whose keys are not stays as it was written, and accepts nothing
    /// wherever it arrives.
    fn with_keys(&self, object: &Object) -> Option<Config> {
        let Spec::RequestAuthentication(written) = &object.spec else { return None };
        let mut spec = written.clone();
        let mut text: Value = serde_json::from_str(object.spec_json.as_deref()?).ok()?;
        let mut any = false;
        for (index, rule) in spec.jwt_rules.iter_mut().enumerate() {
            let Some(keys) = KeySite::of(rule).and_then(|site| self.keys.found.get(&site)) else { continue };
            let place = text.pointer_mut(&format!("/jwtRules/{index}"))?.as_object_mut()?;
            for name in ["jwksUri", "jwks_uri"] {
                place.remove(name);
            }
            let keys = keys.to_json();
            place.insert("jwks".to_owned(), keys.clone().into());
            (rule.jwks, rule.jwks_uri, any) = (Some(keys), None, true);
        }
        if !any {
            return Config::of(object);
        }
        Some(Config::with(object, Spec::RequestAuthentication(spec), text.to_string().into()))
    }
}

impl Keys {
    fn all_wanted(&self) -> Wanted {
        let mut wanted = Wanted::new();
        for (key, object) in &self.users {
            for (site, timeout) in sites_of(object) {
                let wish = wanted.entry(site).or_default();
                wish.namespaces.insert(Arc::clone(&key.namespace));
                wish.timeout = wish.timeout.max(timeout);
            }
        }
        wanted
    }
}

fn sites_of(object: &Object) -> BTreeMap<KeySite, Duration> {
    match &object.spec {
        Spec::RequestAuthentication(spec) => KeySite::all_of(spec),
        _ => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CompileOptions, Mirror};
    use crate::resource::{SourceFile, parse};

    fn object(rules: &str) -> Object {
        let text = format!(
            "{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: r, namespace: shop}}, \
             spec: {{jwtRules: [{rules}]}}}}"
        );
        parse(&SourceFile { name: "r.yaml", text: &text }).objects.remove(0)
    }

    fn keys(byte: u8) -> Arc<KeySet> {
        use base64::Engine as _;
        let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode([byte; 32]);
        let text = format!("{{\"keys\": [{{\"kty\": \"OKP\", \"crv\": \"Ed25519\", \"x\": \"{x}\"}}]}}");
        Arc::new(KeySet::parse(text.as_bytes()).unwrap())
    }

    /// The `jwks` and `jwksUri` of the rules that a node is told.
    fn told(world: &mut World, mirror: &mut Mirror) -> Vec<(bool, bool)> {
        for (key, record) in world.commit() {
            match record {
                Some(record) => mirror.apply(record),
                None => mirror.remove(&key),
            }
        }
        let snapshot = mirror.snapshot();
        let Some(config) = snapshot.configs_of("RequestAuthentication").next() else { return Vec::new() };
        let read = Config::read("RequestAuthentication", ("shop", "r"), None, config.text()).unwrap();
        let Spec::RequestAuthentication(sent) = &config.object().spec else { panic!("kind") };
        let Spec::RequestAuthentication(spec) = &read.object().spec else { panic!("kind") };
        assert_eq!(spec, sent, "it travels as it is");
        spec.jwt_rules.iter().map(|rule| (rule.jwks.is_some(), rule.jwks_uri.is_some())).collect()
    }

    #[test]
    fn keys_travel_in_the_rules_that_ask_for_them() {
        let (mut world, mut mirror) = (World::new(CompileOptions::default()), Mirror::new(""));
        let (url, issuer) = ("https://keys.example/", "https://issuer.example");
        world.upsert(&object(&format!(
            "{{issuer: a, jwks_uri: '{url}'}}, {{issuer: '{issuer}'}}, {{issuer: not-a-url}}, {{jwks: '{{\"keys\": []}}'}}"
        )));
        let sites = [KeySite::Url(url.into()), KeySite::Issuer(issuer.into())];
        assert!(world.wanted_keys().keys().eq(&sites), "{:?}", world.wanted_keys());
        assert_eq!(world.wanted_keys()[&sites[0]].namespaces, ["shop".into()].into());
        let (inline, none) = ((true, false), (false, false));
        assert_eq!(told(&mut world, &mut mirror), [(false, true), none, none, inline]);
        world.set_keys(&sites[0], Some(keys(1)));
        assert_eq!(told(&mut world, &mut mirror), [inline, none, none, inline]);
        world.set_keys(&sites[1], Some(keys(2)));
        assert_eq!(told(&mut world, &mut mirror), [inline, inline, none, inline]);
        world.set_keys(&sites[1], Some(keys(2)));
        assert_eq!(world.commit(), [], "the same keys are no news");
        world.set_keys(&sites[0], None);
        assert_eq!(told(&mut world, &mut mirror), [(false, true), inline, none, inline]);

        let timeout = |world: &World| world.wanted_keys()[&sites[0]].timeout.as_millis();
        assert_eq!(timeout(&world), 5000, "where nothing is said");
        for (rules, millis) in [
            ("{issuer: a, jwksUri: URL, timeout: 250ms}", 250),
            ("{issuer: a, jwksUri: URL, timeout: 250ms}, {issuer: b, jwksUri: URL, timeout: 2s}", 2000),
            ("{issuer: a, jwksUri: URL, timeout: 250ms}, {issuer: b, jwksUri: URL}", 5000),
            ("{issuer: a, jwksUri: URL, timeout: 24h}", 60_000),
        ] {
            world.upsert(&object(&rules.replace("URL", url)));
            assert_eq!(timeout(&world), millis, "{rules}");
        }

        world.upsert(&object("{issuer: b, jwks: '{\"keys\": []}'}"));
        assert!(world.wanted_keys().is_empty());
        world.set_keys(&sites[1], Some(keys(2)));
        world.upsert(&object(&format!("{{issuer: '{issuer}'}}")));
        assert_eq!(told(&mut world, &mut mirror), [none], "what nobody wanted is not kept");
        world.remove(&object("{}").key());
        assert!(told(&mut world, &mut mirror).is_empty() && world.wanted_keys().is_empty());
    }
}
