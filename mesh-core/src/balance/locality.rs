//! Where endpoints are, and which of them a client prefers for that.

use std::collections::BTreeMap;

use super::candidates::Placement;
use crate::model::Workload;
use crate::resource::networking::destination_rule::{
    Distribute, Failover, LocalityLbSetting, ZoneAwareLbSetting,
};

/// Which endpoints are preferred.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LocalityPolicy {
    /// None.
    #[default]
    Anywhere,
    /// Shares by locality of the client; clients elsewhere prefer none.
    Distribute(Vec<Shares>),
    /// The nearest ones, and others in their stead as far as these are not well.
    Failover {
        /// Regions, and which other region stands in for them.
        regions: Vec<(Box<str>, Box<str>)>,
        /// Labels that near endpoints share with the client, the most telling first. If there are any, region, zone and
        /// subzone do not count, unless there are [`Self::Failover::regions`] as well.
        labels: Vec<PriorityLabel>,
    },
}

/// Shares of a locality's traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// Where the client is.
    pub from: Pattern,
    /// Where endpoints are, and what share these have, of 100 together. Others get nothing.
    pub to: Vec<(Pattern, u32)>,
}

/// `REGION[/ZONE[/SUBZONE]]`; what is absent or `*` is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pattern {
    region: Option<Box<str>>,
    zone: Option<Box<str>>,
    subzone: Option<Box<str>>,
}

/// A label of `failoverPriority`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriorityLabel {
    /// Its name.
    pub name: Box<str>,
    /// What endpoints must have; absent means what the client has.
    pub value: Option<Box<str>>,
}

/// Where a client or an endpoint is. Empty where unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// `topology.kubernetes.io/region`.
    pub region: &'a str,
    /// `topology.kubernetes.io/zone`.
    pub zone: &'a str,
    /// `topology.istio.io/subzone`.
    pub subzone: &'a str,
    /// `topology.istio.io/network`.
    pub network: &'a str,
    /// `topology.istio.io/cluster`.
    pub cluster: &'a str,
    /// `kubernetes.io/hostname`.
    pub node: &'a str,
    /// Its labels.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

impl LocalityPolicy {
    pub(crate) fn new(setting: &LocalityLbSetting, outliers: bool) -> Self {
        if setting.enabled == Some(false) {
            return Self::Anywhere;
        }
        if !setting.distribute.is_empty() {
            return Self::Distribute(setting.distribute.iter().map(Shares::new).collect());
        }
        // Nothing would ever find out that an endpoint is not well, and the others would never be used.
        if outliers { Self::failover(&setting.failover, &setting.failover_priority) } else { Self::Anywhere }
    }

    /// As a waypoint of Istio has it: like [`Self::Failover`], even without outlier detection.
    pub(crate) fn zone_aware(setting: &ZoneAwareLbSetting) -> Self {
        if setting.enabled == Some(false) {
            return Self::Anywhere;
        }
        Self::failover(&setting.failover, &setting.failover_priority)
    }

    /// What `trafficDistribution` of a Service means.
    pub(crate) fn prefer(same_node: bool) -> Self {
        let labels = if same_node {
            [NETWORK, REGION, ZONE, SUBZONE, NODE].as_slice()
        } else {
            &[NETWORK, REGION, ZONE]
        };
        let label = |name: &&str| PriorityLabel { name: (*name).into(), value: None };
        Self::Failover { regions: Vec::new(), labels: labels.iter().map(label).collect() }
    }

    fn failover(regions: &[Failover], labels: &[String]) -> Self {
        let region = |failover: &Failover| (failover.from.as_str().into(), failover.to.as_str().into());
        Self::Failover {
            regions: regions.iter().map(region).collect(),
            labels: labels.iter().map(|label| PriorityLabel::new(label)).collect(),
        }
    }
}

/// Where in a client's preferences each endpoint stands, in the order of `endpoints`; `None` for those that it must not
/// use. Priorities begin with 0, and none is left out.
pub fn priorities(
    policy: &LocalityPolicy,
    client: &Place<'_>,
    endpoints: &[Place<'_>],
) -> Vec<Option<Placement>> {
    match policy {
        LocalityPolicy::Anywhere => vec![Some(Placement::default()); endpoints.len()],
        LocalityPolicy::Distribute(all) => match all.iter().find(|shares| shares.from.matches(client)) {
            Some(shares) => endpoints.iter().map(|endpoint| shares.place(endpoint)).collect(),
            None => vec![Some(Placement::default()); endpoints.len()],
        },
        LocalityPolicy::Failover { regions, labels } => {
            let by_place = labels.is_empty() || !regions.is_empty();
            let rank = |endpoint: &Place<'_>| {
                let near = if by_place { distance(client, endpoint, regions) } else { 0 };
                (label_rank(labels, client, endpoint), near)
            };
            compact(endpoints.iter().map(rank).collect())
        }
    }
}

impl Shares {
    fn new(distribute: &Distribute) -> Self {
        let to = distribute.to.iter().map(|(to, share)| (Pattern::new(to), *share));
        Self { from: Pattern::new(&distribute.from), to: to.collect() }
    }

    fn place(&self, endpoint: &Place<'_>) -> Option<Placement> {
        let (bucket, (_, share)) = self.to.iter().enumerate().find(|(_, (to, _))| to.matches(endpoint))?;
        let bucket = u32::try_from(bucket).ok()?;
        Some(Placement { priority: 0, bucket, share: *share }).filter(|placement| placement.share > 0)
    }
}

impl Pattern {
    /// Reads `REGION[/ZONE[/SUBZONE]]`.
    pub fn new(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(|part| Some(part).filter(|part| !matches!(*part, "" | "*")));
        let mut part = || parts.next().flatten().map(Box::from);
        Self { region: part(), zone: part(), subzone: part() }
    }

    /// Whether `place` lies in it.
    pub fn matches(&self, place: &Place<'_>) -> bool {
        let is =
            |wanted: &Option<Box<str>>, actual: &str| wanted.as_deref().is_none_or(|wanted| wanted == actual);
        is(&self.region, place.region) && is(&self.zone, place.zone) && is(&self.subzone, place.subzone)
    }
}

impl PriorityLabel {
    /// Reads `NAME` or `NAME=VALUE`.
    fn new(text: &str) -> Self {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        Self { name: name.into(), value: value.map(Box::from) }
    }
}

impl<'a> Place<'a> {
    /// Where `workload` is.
    pub fn of(workload: &'a Workload) -> Self {
        Self {
            region: &workload.region,
            zone: &workload.zone,
            cluster: &workload.cluster,
            node: workload.node.as_deref().unwrap_or_default(),
            labels: Some(&workload.labels),
            ..Self::default()
        }
    }

    fn label(&self, name: &str) -> &'a str {
        let known = match name {
            REGION => self.region,
            ZONE => self.zone,
            SUBZONE => self.subzone,
            NETWORK => self.network,
            CLUSTER => self.cluster,
            NODE => self.node,
            _ => "",
        };
        if !known.is_empty() {
            return known;
        }
        self.labels.and_then(|labels| labels.get(name)).map_or("", String::as_str)
    }
}

/// How many of the labels, from the first that differs, are of no use; another network counts as all of them, on top.
fn label_rank(labels: &[PriorityLabel], client: &Place<'_>, endpoint: &Place<'_>) -> usize {
    let differs = |label: &PriorityLabel| {
        label.value.as_deref().unwrap_or_else(|| client.label(&label.name)) != endpoint.label(&label.name)
    };
    let other_network = labels.first().is_some_and(|first| *first.name == *NETWORK && differs(first));
    let rest = labels.iter().enumerate().skip(usize::from(other_network));
    let first = rest.into_iter().find(|(_, label)| differs(label)).map_or(0, |(at, _)| labels.len() - at);
    first + if other_network { labels.len() } else { 0 }
}

/// 0 in the same subzone, 1 zone, 2 region, 3 elsewhere, or 4 if another region stands in for the client's.
fn distance(client: &Place<'_>, endpoint: &Place<'_>, regions: &[(Box<str>, Box<str>)]) -> usize {
    if client.region != endpoint.region {
        let stand_in = regions.iter().find(|(from, _)| **from == *client.region);
        return if stand_in.is_none_or(|(_, to)| **to == *endpoint.region) { 3 } else { 4 };
    }
    match (client.zone == endpoint.zone, client.subzone == endpoint.subzone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// Ranks become priorities without gaps.
fn compact(ranks: Vec<(usize, usize)>) -> Vec<Option<Placement>> {
    let mut levels = ranks.clone();
    levels.sort_unstable();
    levels.dedup();
    let place = |rank| {
        let priority = u32::try_from(levels.partition_point(|level| *level < rank)).ok()?;
        Some(Placement { priority, ..Placement::default() })
    };
    ranks.into_iter().map(place).collect()
}

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const SUBZONE: &str = "topology.istio.io/subzone";
const NETWORK: &str = "topology.istio.io/network";
const CLUSTER: &str = "topology.istio.io/cluster";
const NODE: &str = "kubernetes.io/hostname";

#[cfg(test)]
mod tests;
