//! How an endpoint is chosen.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::networking::destination_rule::{
    ConsistentHash, Distribute, Failover, LoadBalancer, LocalityLbSetting, SimpleLb, Warmup,
    ZoneAwareLbSetting,
};
use super::super::super::tree::{Path, quote};
use super::super::super::value::HeaderName;
use super::Report;

/// `outliers`: whether the same policy looks for unhealthy endpoints.
pub(super) fn load_balancer(
    path: Path<'_>,
    balancer: &LoadBalancer,
    outliers: bool,
    report: &mut Report<'_>,
) {
    if balancer.simple.is_some() && balancer.consistent_hash.is_some() {
        report.error(path.key("consistentHash"), "only one of simple and consistentHash may be given");
    }
    if balancer.simple == Some(SimpleLb::LeastConn) {
        report.warning_with(path.key("simple"), "LEAST_CONN is deprecated", "write LEAST_REQUEST");
    }
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(path.key("consistentHash"), hash, report);
    }
    if balancer.locality_lb_setting.is_some() && balancer.zone_aware_lb_setting.is_some() {
        let reason = "only one of localityLbSetting and zoneAwareLbSetting may be given";
        report.error(path.key("zoneAwareLbSetting"), reason);
    }
    if let Some(setting) = &balancer.locality_lb_setting {
        locality(path.key("localityLbSetting"), setting, outliers, report);
    }
    if let Some(setting) = &balancer.zone_aware_lb_setting {
        zone_aware(path.key("zoneAwareLbSetting"), setting, outliers, report);
    }
    if balancer.warmup_duration_secs.is_some() {
        let field = path.key("warmupDurationSecs");
        report.warning_with(field, "is deprecated", "use warmup: {duration: …}");
    }
    if let Some(warmup) = &balancer.warmup {
        self::warmup(path.key("warmup"), warmup, report);
    }
    let straight = [None, Some(SimpleLb::Passthrough), Some(SimpleLb::Random)];
    let hashed = balancer.consistent_hash.is_some();
    if balancer.warmup.is_some()
        && (hashed || (balancer.simple.is_some() && straight.contains(&balancer.simple)))
    {
        let reason = "has only an effect with LEAST_REQUEST and ROUND_ROBIN";
        report.warning(path.key("warmup"), reason);
    }
}

fn consistent_hash(path: Path<'_>, hash: &ConsistentHash, report: &mut Report<'_>) {
    let keys = [
        ("httpHeaderName", hash.http_header_name.is_some()),
        ("httpCookie", hash.http_cookie.is_some()),
        ("useSourceIp", hash.use_source_ip.is_some()),
        ("httpQueryParameterName", hash.http_query_parameter_name.is_some()),
    ];
    let given: Vec<_> = keys.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
    if let [_, second, ..] = given.as_slice() {
        report.error(path.key(second), format!("only one of {} may be given", given.join(" and ")));
    } else if hash.key().is_none() {
        let hint = "give it httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName";
        report.warning_with(path, "names nothing to hash", hint);
    }
    if let Some(name) = &hash.http_header_name
        && HeaderName::parse(name).is_err()
    {
        let reason = format!("{} is not the name of a header", quote(name));
        report.error(path.key("httpHeaderName"), reason);
    }
    if hash.http_query_parameter_name.as_deref() == Some("") {
        report.error(path.key("httpQueryParameterName"), "must not be empty");
    }
    cookie(path, hash, report);
    if hash.minimum_ring_size != 0 {
        let field = path.key("minimumRingSize");
        report.warning_with(field, "is deprecated", "use ringHash: {minimumRingSize: …}");
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            report.error(field, "only one of minimumRingSize, ringHash and maglev may be given");
        }
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        report.error(path.key("maglev"), "only one of ringHash and maglev may be given");
    }
    if let Some(maglev) = hash.maglev {
        let field = path.key("maglev");
        match maglev.table_size {
            None => report.error_with(field.key("tableSize"), "required, but missing", "write 65537"),
            Some(size) if size >= MAX_TABLE || !is_prime(size) => {
                let reason = format!("{size} is not a prime below {MAX_TABLE}");
                report.error_with(field.key("tableSize"), reason, "for example 65537");
            }
            Some(_) => {}
        }
    }
}

fn cookie(path: Path<'_>, hash: &ConsistentHash, report: &mut Report<'_>) {
    let Some(cookie) = &hash.http_cookie else { return };
    let path = path.key("httpCookie");
    if cookie.name.is_empty() {
        report.error(path.key("name"), "required, but missing");
    }
    let mut names = BTreeSet::new();
    for (index, attribute) in cookie.attributes.iter().enumerate() {
        let field = path.key("attributes");
        let field = field.at(index);
        if attribute.name.is_empty() {
            report.error(field.key("name"), "required, but missing");
        } else if !names.insert(attribute.name.as_str()) {
            report.error(field.key("name"), format!("{} is used twice", quote(&attribute.name)));
        }
    }
}

fn locality(path: Path<'_>, setting: &LocalityLbSetting, outliers: bool, report: &mut Report<'_>) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        return report.error(path.key("failover"), "only one of distribute and failover may be given");
    }
    if !setting.failover.is_empty() {
        for (index, label) in setting.failover_priority.iter().enumerate() {
            if TOPOLOGY.contains(&label.as_str()) {
                let field = path.key("failoverPriority");
                report.error(field.at(index), format!("{label} cannot be combined with failover"));
            }
        }
    }
    let list = path.key("distribute");
    let mut from = Localities::default();
    for (index, distribute) in setting.distribute.iter().enumerate() {
        from.add(list.at(index).key("from"), &distribute.from, report);
        shares(list.at(index), distribute, report);
    }
    if (!setting.failover.is_empty() || !setting.failover_priority.is_empty()) && !outliers {
        failover_needs_outliers(path, report);
    }
    failover(path.key("failover"), &setting.failover, report);
}

fn shares(path: Path<'_>, distribute: &Distribute, report: &mut Report<'_>) {
    let field = path.key("to");
    let mut to = Localities::default();
    let mut total = 0_u64;
    for (locality, share) in &distribute.to {
        if !(1..=100).contains(share) {
            report.error(field.key(locality), format!("{share} is not between 1 and 100"));
        }
        total += u64::from(*share);
        to.add(field, locality, report);
    }
    if total != 100 {
        report.error(field, format!("the shares add up to {total}, not 100"));
    }
}

fn zone_aware(path: Path<'_>, setting: &ZoneAwareLbSetting, outliers: bool, report: &mut Report<'_>) {
    for (index, label) in setting.failover_priority.iter().enumerate() {
        if TOPOLOGY.contains(&label.as_str()) {
            let field = path.key("failoverPriority");
            report.error(field.at(index), format!("{label} is looked at in any case"));
        }
    }
    if setting.min_cluster_size == Some(0) {
        report.error(path.key("minClusterSize"), "must be at least 1");
    }
    if (!setting.failover.is_empty() || !setting.failover_priority.is_empty()) && !outliers {
        failover_needs_outliers(path, report);
    }
    failover(path.key("failover"), &setting.failover, report);
}

fn failover_needs_outliers(path: Path<'_>, report: &mut Report<'_>) {
    let hint = "add outlierDetection to the same policy";
    report.warning_with(path, "failover has no effect: nothing finds out that an endpoint failed", hint);
}

fn failover(path: Path<'_>, failovers: &[Failover], report: &mut Report<'_>) {
    for (index, failover) in failovers.iter().enumerate() {
        let path = path.at(index);
        if failover.from == failover.to {
            report.error(path, "from and to are the same region");
        }
        for (name, region) in [("from", &failover.from), ("to", &failover.to)] {
            if region.contains(['/', '*']) {
                let reason = format!("{} is not a region", quote(region));
                report.error_with(path.key(name), reason, "write a region, without zone or wildcard");
            }
        }
    }
}

fn warmup(path: Path<'_>, warmup: &Warmup, report: &mut Report<'_>) {
    if warmup.duration.is_none() {
        report.error(path.key("duration"), "required, but missing");
    }
    if let Some(percent) = warmup.minimum_percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        report.error(path.key("minimumPercent"), format!("{percent} is not between 0 and 100"));
    }
    if let Some(aggression) = warmup.aggression.filter(|it| it.is_nan() || *it <= 0.0) {
        report.error(path.key("aggression"), format!("{aggression} is not greater than 0"));
    }
}

/// Localities of one list, none of which may be part of another.
#[derive(Default)]
struct Localities {
    all: bool,
    /// By region; `None` is all of it.
    regions: BTreeMap<String, Option<Zones>>,
}

/// Subzones by zone; `None` is all of it.
type Zones = BTreeMap<String, Option<BTreeSet<String>>>;

impl Localities {
    fn add(&mut self, path: Path<'_>, locality: &str, report: &mut Report<'_>) {
        let mut parts = locality.splitn(3, '/').map(|part| Some(part).filter(|part| !part.is_empty()));
        let stars = locality.matches('*').count();
        let complete = parts.clone().all(|part| part.is_some());
        if !complete || stars > 1 || (stars == 1 && !locality.ends_with('*')) {
            let reason = format!("{} is not a locality", quote(locality));
            return report.error_with(
                path,
                reason,
                "write REGION[/ZONE[/SUBZONE]], with a * only at the end",
            );
        }
        let mut part = || parts.next().flatten().filter(|part| *part != "*");
        let (region, zone, subzone) = (part(), part(), part());
        if !self.insert(region, zone, subzone) {
            report.error(path, format!("{} overlaps with another locality of this list", quote(locality)));
        }
    }

    /// `false` if it overlaps.
    fn insert(&mut self, region: Option<&str>, zone: Option<&str>, subzone: Option<&str>) -> bool {
        let was_all = self.all;
        let Some(region) = region else {
            self.all = true;
            return !was_all && self.regions.is_empty();
        };
        if was_all {
            return false;
        }
        let Some(zone) = zone else {
            return self.regions.insert(region.to_owned(), None).is_none();
        };
        let Some(zones) = self.regions.entry(region.to_owned()).or_insert_with(|| Some(BTreeMap::new()))
        else {
            return false;
        };
        let Some(subzone) = subzone else { return zones.insert(zone.to_owned(), None).is_none() };
        let subzones = zones.entry(zone.to_owned()).or_insert_with(|| Some(BTreeSet::new()));
        subzones.as_mut().is_some_and(|subzones| subzones.insert(subzone.to_owned()))
    }
}

/// Found by trial: there are at most 1118 odd divisors to try below [`MAX_TABLE`].
fn is_prime(number: u64) -> bool {
    let divisors = std::iter::once(2).chain((3..).step_by(2));
    number > 1
        && divisors
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

/// Sizes of Maglev tables end below this, Envoy's limit.
const MAX_TABLE: u64 = 5_000_011;
/// Labels that say where an endpoint is.
const TOPOLOGY: &[&str] =
    &["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];
