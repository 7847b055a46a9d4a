//! All `DestinationRules`, found by namespace and host.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use super::pool::TcpKeepalive;
use super::{Client, Destination, DestinationRule};
use crate::resource::mesh_config::MeshConfig;
use crate::resource::mesh_config::settings::{DefaultTrafficPolicy, H2Upgrade};
use crate::resource::networking::destination_rule::{LocalityLbSetting, ZoneAwareLbSetting};
use crate::resource::value::{ExportTo, Host};

/// All rules of a mesh. Cheap to clone: versions share what is equal. A look-up costs hashes of the host's name and its
/// suffixes, however many rules there are.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    defaults: Arc<Defaults>,
    by_name: RedBlackTreeMapSync<RuleName, Arc<DestinationRule>>,
    by_namespace: HashTrieMapSync<Arc<str>, Hosts>,
}

/// What makes a rule unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// What holds where no rule says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// The namespace whose rules are for everybody who has none of their own; `istio-system`.
    pub root_namespace: Arc<str>,
    /// What short host names end with; `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// Who sees a rule without `exportTo`; nothing means everybody.
    pub export_to: Vec<ExportTo>,
    /// How long a connection may take to stand; 10 s.
    pub connect_timeout: Duration,
    /// Probes on idle connections; none.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Whether HTTP/1.1 becomes HTTP/2 on ports that are declared as HTTP; no.
    pub h2_upgrade: bool,
    /// How near endpoints are preferred; absent means by region, zone and subzone.
    pub locality: Option<LocalityLbSetting>,
    /// Instead of [`Self::locality`], if it is there.
    pub zone_aware: Option<ZoneAwareLbSetting>,
    /// Blocks for rules that lack them, and for services without any rule.
    pub traffic_policy: DefaultTrafficPolicy,
}

/// Rules for one host or suffix, the oldest first.
type ByHost = HashTrieMapSync<Arc<str>, Arc<[Arc<DestinationRule>]>>;

/// The rules of a namespace.
#[derive(Debug, Clone, Default)]
struct Hosts {
    exact: ByHost,
    /// By what follows the star.
    suffixes: ByHost,
}

impl Rules {
    /// No rules yet.
    pub fn new(defaults: Arc<Defaults>) -> Self {
        Self { defaults, ..Self::default() }
    }

    /// What holds where no rule says otherwise.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Replaces the defaults. Rules are filed again if short names mean something else from now on.
    pub fn set_defaults(&mut self, defaults: Arc<Defaults>) {
        let domain_changes = self.defaults.cluster_domain != defaults.cluster_domain;
        self.defaults = defaults;
        if domain_changes {
            let rules: Vec<_> = self.by_name.values().cloned().collect();
            self.by_namespace = HashTrieMapSync::default();
            rules.into_iter().for_each(|rule| self.file(rule));
        }
    }

    /// Adds a rule, or replaces the one of its name.
    pub fn insert(&mut self, rule: Arc<DestinationRule>) {
        self.remove(&rule.namespace, &rule.name);
        self.by_name.insert_mut(rule.key(), Arc::clone(&rule));
        self.file(rule);
    }

    /// Takes a rule out; `None` if it was not there.
    pub fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<DestinationRule>> {
        let key = RuleName { namespace: namespace.into(), name: name.into() };
        let old = self.by_name.get(&key).cloned()?;
        self.by_name.remove_mut(&key);
        let mut hosts = self.by_namespace.get(namespace).cloned().unwrap_or_default();
        let (map, host) = hosts.place(&old, &self.defaults.cluster_domain);
        let rest: Vec<_> = map.get(&*host).into_iter().flat_map(|rules| rules.iter()).cloned().collect();
        let rest: Arc<[_]> = rest.into_iter().filter(|rule| rule.name != old.name).collect();
        if rest.is_empty() {
            map.remove_mut(&*host)
        } else {
            map.insert_mut(host, rest);
            true
        };
        if hosts.exact.is_empty() && hosts.suffixes.is_empty() {
            self.by_namespace.remove_mut(namespace);
        } else {
            self.by_namespace.insert_mut(Arc::clone(&old.namespace), hosts);
        }
        Some(old)
    }

    /// The rule of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<DestinationRule>> {
        self.by_name.get(&RuleName { namespace: namespace.into(), name: name.into() })
    }

    /// All rules, sorted by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<DestinationRule>> {
        self.by_name.values()
    }

    /// The rules that together say how `client` talks to `service`, the most important first; all of one namespace.
    ///
    /// Namespaces are asked in this order, and the first that has a rule has the say: the client's, the service's, the root
    /// namespace; there the most specific host; there those that select the client, else those that select nobody in
    /// particular. What the root namespace says to everybody comes last for its own clients, too. As in Istio, but for
    /// this: a rule that the client does not see, or that selects others, is as if it were not there.
    pub(super) fn applicable(&self, client: &Client<'_>, service: &Destination<'_>) -> Vec<&DestinationRule> {
        let root = &*self.defaults.root_namespace;
        let private = *client.namespace == *root;
        let order = [(client.namespace, private), (service.namespace, false), (root, false)];
        let mut found = order.into_iter().map(|(namespace, private)| {
            let seen = |rule: &DestinationRule| {
                rule.is_for(client, &self.defaults) && (!private || rule.is_private(&self.defaults))
            };
            self.of_namespace(namespace, service.hostname, seen)
        });
        found.find(|rules| !rules.is_empty()).unwrap_or_default()
    }

    fn of_namespace(
        &self,
        namespace: &str,
        hostname: &str,
        seen: impl Fn(&DestinationRule) -> bool,
    ) -> Vec<&DestinationRule> {
        let Some(hosts) = self.by_namespace.get(namespace) else { return Vec::new() };
        let mut groups = hosts.matching(hostname).map(|rules| {
            let rules: Vec<_> = rules.iter().map(|rule| &**rule).filter(|rule| seen(rule)).collect();
            one_selector(rules)
        });
        groups.find(|rules| !rules.is_empty()).unwrap_or_default()
    }

    fn file(&mut self, rule: Arc<DestinationRule>) {
        let namespace = Arc::clone(&rule.namespace);
        let mut hosts = self.by_namespace.get(&namespace).cloned().unwrap_or_default();
        let (map, host) = hosts.place(&rule, &self.defaults.cluster_domain);
        let mut rules: Vec<_> = map.get(&*host).into_iter().flat_map(|rules| rules.iter()).cloned().collect();
        let age = |rule: &DestinationRule| (rule.created, Arc::clone(&rule.name));
        let at = rules.partition_point(|other| age(other) <= age(&rule));
        rules.insert(at, rule);
        map.insert_mut(host, rules.into());
        self.by_namespace.insert_mut(namespace, hosts);
    }
}

impl Hosts {
    /// Where a rule is filed, and under what.
    fn place(&mut self, rule: &DestinationRule, domain: &str) -> (&mut ByHost, Arc<str>) {
        match rule.spec.host.qualified(&rule.namespace, domain) {
            Host::Any => (&mut self.suffixes, "".into()),
            Host::Suffix(suffix) => (&mut self.suffixes, suffix),
            Host::Name(name) => {
                (&mut self.exact, name.strip_suffix('.').map_or(Arc::clone(&name), Arc::from))
            }
            Host::Address(address) => (&mut self.exact, address.to_string().into()),
        }
    }

    /// Rules by host, the most specific first. A star stands for at least one character.
    fn matching<'a>(&'a self, hostname: &str) -> impl Iterator<Item = &'a Arc<[Arc<DestinationRule>]>> {
        let ends = if self.suffixes.is_empty() { 0 } else { hostname.len() + 1 };
        let suffixes = (1..ends).filter_map(|start| hostname.get(start..));
        self.exact.get(hostname).into_iter().chain(suffixes.filter_map(|suffix| self.suffixes.get(suffix)))
    }
}

impl DestinationRule {
    /// What makes it unique.
    pub fn key(&self) -> RuleName {
        RuleName { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name) }
    }

    fn is_for(&self, client: &Client<'_>, defaults: &Defaults) -> bool {
        let own = *self.namespace == *client.namespace;
        if let Some(labels) = self.selector() {
            return own && labels.iter().all(|(key, value)| client.labels.get(key) == Some(value));
        }
        let export_to = self.export_to(defaults);
        let sees = |entry: &ExportTo| match entry {
            ExportTo::All => true,
            ExportTo::Own => own,
            ExportTo::Nobody => false,
            ExportTo::Namespace(name) => **name == *client.namespace,
        };
        export_to.is_empty() || export_to.iter().any(sees)
    }

    /// Whether nobody outside of its namespace can see it.
    fn is_private(&self, defaults: &Defaults) -> bool {
        let own = |entry: &ExportTo| match entry {
            ExportTo::Own => true,
            ExportTo::Namespace(name) => **name == *self.namespace,
            ExportTo::All | ExportTo::Nobody => false,
        };
        let export_to = self.export_to(defaults);
        self.selector().is_some() || (!export_to.is_empty() && export_to.iter().all(own))
    }

    fn export_to<'a>(&'a self, defaults: &'a Defaults) -> &'a [ExportTo] {
        if self.spec.export_to.is_empty() { &defaults.export_to } else { &self.spec.export_to }
    }

    fn selector(&self) -> Option<&BTreeMap<String, String>> {
        self.spec.workload_selector.as_ref().map(|selector| &selector.match_labels)
    }
}

/// Those of `rules`, which are sorted by age, that have the selector of the oldest with one, or else none.
fn one_selector(rules: Vec<&DestinationRule>) -> Vec<&DestinationRule> {
    let selector = rules.iter().find_map(|rule| rule.selector());
    rules.into_iter().filter(|rule| rule.selector() == selector).collect()
}

impl Defaults {
    /// What `config` says. `MeshConfig` need not name the root namespace, and cannot name the domain.
    pub fn new(config: &MeshConfig, root_namespace: &str, cluster_domain: &str) -> Self {
        Self {
            root_namespace: root_namespace.into(),
            cluster_domain: cluster_domain.into(),
            export_to: config.default_destination_rule_export_to.clone(),
            connect_timeout: config.connect_timeout.get(),
            tcp_keepalive: config.tcp_keepalive.as_ref().map(TcpKeepalive::new),
            h2_upgrade: config.h2_upgrade_policy == H2Upgrade::Upgrade,
            locality: config.locality_lb_setting.clone(),
            zone_aware: config.zone_aware_lb_setting.clone(),
            traffic_policy: config.default_traffic_policy.clone(),
        }
    }
}

impl Default for Defaults {
    /// Those of a `MeshConfig` that says nothing.
    fn default() -> Self {
        Self::new(&MeshConfig::default(), "istio-system", "cluster.local")
    }
}
