use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::World;
use crate::model::{CompileOptions, Mirror, NoWay, Record, RecordKey, Snapshot, Target};
use crate::resource::{Object, ObjectKey, SourceFile, parse};

/// A world that is told of changes, and who follows it.
struct Bed {
    world: World,
    mirror: Mirror,
    objects: BTreeMap<ObjectKey, Object>,
}

impl Bed {
    fn new() -> Self {
        let mut bed = Self {
            world: World::new(CompileOptions::default()),
            mirror: Mirror::new("n1"),
            objects: BTreeMap::new(),
        };
        bed.apply(OBJECTS);
        bed
    }

    /// Also checks that a world which knew all at once would have told the same.
    fn apply(&mut self, yaml: &str) -> Snapshot {
        for object in objects(yaml) {
            self.world.upsert(&object);
            self.objects.insert(object.key(), object);
        }
        self.settle()
    }

    fn remove(&mut self, kind: &'static str, name: &str) -> Snapshot {
        let key = ObjectKey { kind, namespace: "shop".into(), name: name.into() };
        self.world.remove(&key);
        self.objects.remove(&key);
        self.settle()
    }

    fn settle(&mut self) -> Snapshot {
        for (key, record) in self.world.commit() {
            match record {
                Some(record) => self.mirror.apply(record),
                None => self.mirror.remove(&key),
            }
        }
        let mut anew = World::new(CompileOptions::default());
        self.objects.values().rev().for_each(|object| anew.upsert(object));
        anew.commit();
        let told = |world: &World| {
            let records = world.records().map(|record| (record.key(), record.clone()));
            records.collect::<BTreeMap<RecordKey, Record>>()
        };
        assert_eq!(told(&self.world), told(&anew));
        self.mirror.snapshot()
    }
}

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = parse(&SourceFile { name: "t.yaml", text: yaml });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    parsed.objects
}

/// Whom a connection goes through: `NAMESPACE/NAME@POD`, why it goes nowhere, or nothing.
fn way(snapshot: &Snapshot, to: &str) -> String {
    let target = snapshot.resolve(to.parse().unwrap());
    let Some(waypoint) = target.waypoint() else { return String::new() };
    match snapshot.way_through(waypoint, true, 99) {
        Ok(pods) => pods.iter().map(|pod| pod.workload.as_ref().unwrap().name.to_string()).collect(),
        Err(none) => none.to_string(),
    }
}

const OBJECTS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: shop, labels: {app: web}}, spec: {nodeName: n1, containers: [{name: c, image: i}]}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: db, namespace: shop}, spec: {hosts: [db.example], addresses: [192.0.2.1], resolution: STATIC, ports: [{name: tcp, number: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, namespace: shop}, spec: {address: 192.0.2.9}}
";
const GATEWAY: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: way, namespace: shop, labels: {istio.io/waypoint-for: all}}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
";
const POD: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: way-0, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: way}}, spec: {nodeName: n2, serviceAccountName: way, containers: [{name: c, image: i}]}, status: {podIP: 10.0.1.1, conditions: [{type: Ready, status: 'True'}]}}
";
const SERVICE: &str = "10.96.0.1:80";
const ENTRY: &str = "192.0.2.1:80";
const WORKLOAD: &str = "10.0.0.1:80";

fn shop(labels: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, \
         labels: {{istio.io/dataplane-mode: ambient, {labels}}}}}}}"
    )
}

#[test]
fn what_is_bound_goes_through_pods_that_are_ready() {
    let mut bed = Bed::new();
    let all = |snapshot: &Snapshot| {
        // Nobody is reached by the address of a WorkloadEntry, but Istio's own proxies are told.
        let vm = snapshot.workloads().find(|it| *it.name == *"vm").unwrap();
        assert_eq!(
            vm.waypoint.is_some(),
            snapshot.workloads().any(|it| *it.name == *"web-0" && it.waypoint.is_some())
        );
        [SERVICE, ENTRY, WORKLOAD].map(|to| way(snapshot, to))
    };
    let everything = |text: &str| [text; 3].map(str::to_owned);
    assert_eq!(all(&bed.mirror.snapshot()), everything(""));
    let snapshot = bed.apply(&shop("istio.io/use-waypoint: way"));
    assert_eq!(
        all(&snapshot),
        everything("waypoint \"shop/way\" is not ready: there is no Gateway of this name")
    );
    let snapshot = bed.apply(GATEWAY);
    assert_eq!(all(&snapshot), everything("waypoint \"shop/way\" is not ready: no pod of it is"));
    let snapshot = bed.apply(&POD.replace("'True'", "'False'"));
    assert_eq!(all(&snapshot), everything("waypoint \"shop/way\" is not ready: no pod of it is"));
    let snapshot = bed.apply(POD);
    assert_eq!(all(&snapshot), everything("way-0"));
    // The waypoint itself ends tunnels, and is reached by nothing else.
    let pod = snapshot.workload_by_uid("Kubernetes//Pod/shop/way-0").unwrap();
    assert!(!pod.enrolled && pod.waypoint.is_none());
    let snapshot = bed.apply(&GATEWAY.replace("waypoint-for: all", "waypoint-for: workload"));
    assert_eq!(all(&snapshot), ["", "", "way-0"].map(str::to_owned));
    let snapshot = bed.apply(&GATEWAY.replace("istio.io/waypoint-for: all", ""));
    assert_eq!(all(&snapshot), ["way-0", "way-0", ""].map(str::to_owned));
    let snapshot = bed.remove("KubernetesGateway", "way");
    assert_eq!(
        all(&snapshot),
        everything("waypoint \"shop/way\" is not ready: there is no Gateway of this name")
    );
    assert!(snapshot.workload_by_uid("Kubernetes//Pod/shop/way-0").unwrap().enrolled, "a pod like others");
    let snapshot = bed.apply(&shop(""));
    assert_eq!(all(&snapshot), everything(""));
}

#[test]
fn a_class_of_another_name_may_be_of_waypoints() {
    let mut bed = Bed::new();
    bed.apply(&shop("istio.io/use-waypoint: way"));
    bed.apply(&GATEWAY.replace("gatewayClassName: istio-waypoint", "gatewayClassName: ours"));
    let snapshot = bed.apply(POD);
    assert_eq!(
        way(&snapshot, SERVICE),
        "waypoint \"shop/way\" is not ready: Gateways of class ours are no waypoints"
    );
    let class = "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: ours}, \
                 spec: {controllerName: istio.io/mesh-controller}}";
    let snapshot = bed.apply(class);
    assert_eq!(way(&snapshot, SERVICE), "way-0");
}

#[test]
fn a_waypoint_is_in_view_of_those_who_see_nothing_else() {
    let mut bed = Bed::new();
    bed.apply(GATEWAY);
    bed.apply(POD);
    bed.apply(
        "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: s, namespace: shop}, \
         spec: {egress: [{hosts: ['./nothing.example']}]}}",
    );
    let reaches = bed.world.take_reaches();
    let (_, reach) = reaches.iter().find(|(node, _)| **node == *"n1").unwrap();
    let seen = |name: &str| {
        let named = |record: &&Record| match record {
            Record::Service(service) => service.hostname.starts_with(name),
            Record::Workload(workload) => *workload.name == *name,
            _ => false,
        };
        bed.world.records().filter(named).map(|record| reach.includes(record)).collect::<Vec<_>>()
    };
    assert_eq!(
        (seen("way.shop"), seen("way-0"), seen("web.shop"), seen("vm")),
        (vec![true], vec![true], vec![false], vec![false])
    );
}

#[test]
fn an_address_of_a_service_is_a_waypoint_to_istios_control_plane() {
    let mut bed = Bed::new();
    let mut snapshot = bed.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: gw, namespace: shop}, \
         spec: {clusterIP: 10.96.0.8, selector: {app: web}, ports: [{port: 15008}]}}",
    );
    let service = crate::model::ServiceKey { namespace: "".into(), hostname: "10.96.0.8".into() };
    let waypoint =
        crate::model::Waypoint { service: Arc::new(service), refused: None, canary: None, ingress: false };
    assert_eq!(snapshot.way_through(&waypoint, true, 0).map(<[_]>::len), Ok(1));
    snapshot = bed.remove("Service", "gw");
    assert!(matches!(snapshot.way_through(&waypoint, true, 0), Err(NoWay::Missing(_))));
    assert!(matches!(snapshot.resolve("10.96.0.8:15008".parse().unwrap()), Target::External));
}

/// Without an address nobody could say at a waypoint what is wanted; to go past it would be no answer.
#[test]
fn a_host_without_an_address_is_not_reached_past_its_waypoint() {
    let mut bed = Bed::new();
    bed.apply(GATEWAY);
    bed.apply(POD);
    let snapshot = bed.apply(&shop("istio.io/use-waypoint: way"));
    let named = |name: &str| snapshot.services().find(|it| *it.name == *name).unwrap();
    let (_, asked) = named("db.example").way(0, true).unwrap();
    assert_eq!(asked, Ok(ENTRY.parse().unwrap()));
    let nameless = crate::model::Service { vips: Vec::new(), ..(**named("db.example")).clone() };
    let (_, asked) = nameless.way(0, true).unwrap();
    assert_eq!(asked, Err(NoWay::Nameless("db.example".into())));
    // The pods of a headless Service are bound by themselves.
    let headless = crate::model::Service { vips: Vec::new(), ..(**named("web")).clone() };
    assert!(named("web").way(0, true).is_some() && headless.way(0, true).is_none());
}
