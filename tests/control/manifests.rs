//! What `deploy` says about our programs is true of them: flags, ports, names, and the places of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PodTemplateSpec, Service, ServiceAccount, ServiceAccountTokenProjection,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh_ca::authorize::Rules;
use mesh_node::admin::Ports;
use mesh_node::config::NodeOptions;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::control::manifests;

/// Files that `kubectl apply -k deploy` takes.
fn files() -> Vec<String> {
    let kustomization = manifests("kustomization.yaml").remove(0);
    let resources = kustomization["resources"].as_array().expect("a list");
    resources.iter().map(|file| file.as_str().expect("a file").to_owned()).collect()
}

fn documents() -> Vec<Value> {
    files().iter().flat_map(|file| manifests(file)).collect()
}

/// The objects of a kind.
fn all<T: DeserializeOwned>(kind: &str) -> Vec<T> {
    let documents = documents().into_iter().filter(|document| document["kind"] == kind);
    documents.map(|document| serde_json::from_value(document).expect("its type")).collect()
}

fn container(template: &PodTemplateSpec) -> &Container {
    only(&template.spec.as_ref().expect("a spec").containers)
}

/// There must be exactly one.
fn only<T>(items: &[T]) -> &T {
    assert_eq!(items.len(), 1);
    items.first().expect("one")
}

fn port_name(port: Option<&IntOrString>) -> &str {
    let name = port.and_then(|port| match port {
        IntOrString::String(name) => Some(name.as_str()),
        IntOrString::Int(_) => None,
    });
    name.expect("a port by its name")
}

/// The pods of the Deployment of this name.
fn deployed(name: &str) -> PodTemplateSpec {
    let mut all = all::<Deployment>("Deployment").into_iter();
    all.find(|it| it.metadata.name.as_deref() == Some(name)).expect("a Deployment").spec.template
}

/// One image has all programs: it must be said which.
fn runs(template: &PodTemplateSpec, program: &str) {
    assert_eq!(container(template).command.as_deref(), Some(&[program.to_owned()][..]));
}

fn control() -> (PodTemplateSpec, mesh_control::config::Options) {
    let template = deployed("mesh-control");
    runs(&template, "mesh-control");
    let args = container(&template).args.clone().expect("arguments");
    let command = ["mesh-control".to_owned()].into_iter().chain(args);
    let options = mesh_control::config::Command::try_parse_from(command).expect("a command line").options;
    (template, options)
}

fn node() -> (PodTemplateSpec, NodeOptions) {
    let template = all::<DaemonSet>("DaemonSet").remove(0).spec.template;
    runs(&template, "mesh-node");
    let container = container(&template);
    let variables = container.env.iter().flatten().map(|variable| {
        let source = variable.value_from.as_ref().and_then(|source| source.field_ref.as_ref());
        (variable.name.as_str(), source.expect("a field").field_path.as_str())
    });
    // By the second one its probe knows it from another pod of the node.
    let wanted = [("NODE_NAME", "spec.nodeName"), ("MESH_INSTANCE", "metadata.uid")];
    assert_eq!(variables.collect::<Vec<_>>(), wanted);
    let args = container.args.iter().flatten().map(|argument| argument.replace("$(NODE_NAME)", "node-1"));
    let command =
        mesh_node::config::Command::try_parse_from(["mesh-node".to_owned()].into_iter().chain(args));
    let options = match command.expect("a command line").role {
        mesh_node::config::Role::Node(options) => Some(options),
        mesh_node::config::Role::Gateway(_)
        | mesh_node::config::Role::Waypoint(_)
        | mesh_node::config::Role::Ready
        | mesh_node::config::Role::Enrolled(_)
        | mesh_node::config::Role::Cleanup(_) => None,
    };
    let options = options.expect("the role of a node");
    assert_eq!(options.node, "node-1");
    (template.clone(), *options)
}

/// Numbers of a container's ports by their names.
fn ports(container: &Container) -> BTreeMap<&str, u16> {
    let ports = container.ports.iter().flatten();
    ports.map(|port| (port.name.as_deref().expect("a name"), number(port.container_port))).collect()
}

fn number(port: i32) -> u16 {
    u16::try_from(port).expect("a port")
}

/// The port that a container is asked at whether it is ready.
fn ready(container: &Container) -> u16 {
    let probe =
        container.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref()).expect("a probe");
    assert_eq!(probe.path.as_deref(), Some("/healthz/ready"));
    match &probe.port {
        IntOrString::Int(port) => number(*port),
        port @ IntOrString::String(_) => ports(container)[port_name(Some(port))],
    }
}

#[test]
fn nothing_is_left_out() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut there = BTreeSet::new();
    for directory in ["crds", "manifests", "rbac", "webhook"] {
        for entry in fs::read_dir(deploy.join(directory)).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            there.insert(format!("{directory}/{}", name.to_string_lossy()));
        }
    }
    assert_eq!(files().into_iter().collect::<BTreeSet<_>>(), there);
}

#[test]
fn the_control_plane_serves_where_its_services_lead() {
    let (template, options) = control();
    assert!(options.kubernetes);
    assert_eq!(options.root_namespace, "istio-system");
    let container = container(&template);
    // Whoever reaches it without protection reads the whole model.
    assert!(options.plain.ip().is_loopback(), "{}", options.plain);
    let served = [options.grpc, options.webhook, options.monitoring];
    assert!(served.iter().all(|address| !address.ip().is_loopback()), "{served:?}");
    let own = ports(container);
    assert_eq!(own.values().copied().collect::<BTreeSet<_>>(), served.iter().map(SocketAddr::port).collect());
    assert_eq!(ready(container), options.monitoring.port());

    let mut services = all::<Service>("Service");
    services.retain(|it| it.metadata.name.as_deref() != Some("istio-ingressgateway"));
    assert_eq!(services.len(), 2);
    let names = options.serving_names();
    for service in &services {
        let name = service.metadata.name.as_deref().expect("a name");
        assert!(names.contains(&format!("{name}.istio-system.svc")), "{name} is not in the certificate");
        let spec = service.spec.as_ref().expect("a spec");
        let labels = template.metadata.as_ref().and_then(|it| it.labels.as_ref()).expect("labels");
        let mut selector = spec.selector.iter().flatten();
        assert!(selector.all(|(key, value)| labels.get(key) == Some(value)), "{name} selects nothing");
        let led = spec
            .ports
            .iter()
            .flatten()
            .map(|port| (number(port.port), own[port_name(port.target_port.as_ref())]));
        // Istio's: proxies, tools and dashboards know them by heart.
        assert_eq!(
            led.collect::<BTreeMap<_, _>>(),
            BTreeMap::from([(15_012, 15_012), (443, 15_017), (15_014, 15_014)])
        );
    }
    for webhook in
        all::<ValidatingWebhookConfiguration>("ValidatingWebhookConfiguration").remove(0).webhooks.unwrap()
    {
        let to = webhook.client_config.service.expect("a service");
        let service =
            services.iter().find(|it| it.metadata.name.as_ref() == Some(&to.name)).expect("it exists");
        let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        assert!(ports.any(|port| Some(port.port) == to.port), "{} has no port {:?}", to.name, to.port);
    }
}

#[test]
fn accounts_are_those_that_the_rules_are_about() {
    let accounts: BTreeSet<_> =
        all::<ServiceAccount>("ServiceAccount").into_iter().filter_map(|it| it.metadata.name).collect();
    let of = |template: &PodTemplateSpec| {
        template.spec.as_ref().and_then(|spec| spec.service_account_name.clone())
    };
    let ((control, options), (node, _)) = (control(), node());
    let used = [of(&control), of(&node), of(&deployed("istio-ingressgateway"))]
        .map(|name| name.expect("an account"));
    assert_eq!(BTreeSet::from(used.clone()), accounts);
    let rules = Rules::new(options.trust_domain, &options.root_namespace);
    assert!(rules.node_accounts.contains(&("istio-system".to_owned(), used[1].clone())));
}

#[test]
fn a_node_finds_the_control_plane_and_what_it_shows_there() {
    let (template, options) = node();
    let url: http::Uri = options.control.as_deref().expect("a control plane").parse().expect("a URL");
    let (_, control) = control();
    assert_eq!((url.scheme_str(), url.port_u16()), (Some("https"), Some(control.grpc.port())));
    assert!(control.serving_names().iter().any(|name| Some(name.as_str()) == url.host()));

    let spec = template.spec.as_ref().expect("a spec");
    let volumes: BTreeMap<_, _> = spec.volumes.iter().flatten().map(|it| (it.name.as_str(), it)).collect();
    let mounts = container(&template).volume_mounts.iter().flatten();
    let mounts: BTreeMap<_, _> =
        mounts.map(|it| (it.mount_path.as_str(), volumes[it.name.as_str()])).collect();
    assert_eq!(mounts.len(), volumes.len());
    let volume = |path: &Path| mounts[path.parent().and_then(Path::to_str).expect("a directory")];
    let roots = options.control_ca.expect("roots");
    assert_eq!(volume(&roots).config_map.as_ref().map(|map| map.name.as_str()), Some("istio-ca-root-cert"));
    assert_eq!(roots.file_name().and_then(|name| name.to_str()), Some("root-cert.pem"));
    let token = options.token.expect("a token");
    let sources = volume(&token).projected.as_ref().and_then(|it| it.sources.as_ref()).expect("sources");
    let ServiceAccountTokenProjection { audience, path, .. } =
        only(sources).service_account_token.as_ref().expect("a token");
    assert_eq!(token.file_name().and_then(|name| name.to_str()), Some(path.as_str()));
    let rules = Rules::new(control.trust_domain, &control.root_namespace);
    assert_eq!(rules.audiences, [audience.clone().expect("an audience")]);
    // What is kept is kept on the node.
    let kept = [
        options.pin_root.as_path(),
        &options.state,
        Path::new("/run/mesh/node-1"),
        Path::new("/sys/fs/cgroup"),
    ];
    for place in kept {
        let mount = place.ancestors().find_map(|it| mounts.get(it.to_str()?).map(|volume| (it, volume)));
        let (mount, volume) = mount.expect("a mount");
        let path = volume.host_path.as_ref().map(|host| Path::new(&host.path));
        assert_eq!(path, Some(mount), "{} must not be another place on the node", place.display());
    }
}

#[test]
fn a_node_serves_where_it_says_and_has_time_to_stop() {
    let (template, options) = node();
    let container = container(&template);
    // Beside an old pod of the node it may be that one which answers at the port.
    let probe = container.readiness_probe.as_ref().and_then(|probe| probe.exec.as_ref()).expect("a probe");
    let words = probe.command.clone().expect("a command");
    let asked = mesh_node::config::Command::try_parse_from(words).expect("a command line").role;
    assert!(matches!(asked, mesh_node::config::Role::Ready));
    // On the network of the host they would keep the next one from coming beside it.
    assert!(container.ports.is_none());
    let nodes = all::<DaemonSet>("DaemonSet").remove(0);
    let update = nodes.spec.update_strategy.and_then(|it| it.rolling_update).expect("a rolling update");
    assert_eq!(update.max_surge, Some(IntOrString::Int(1)));
    assert_eq!(update.max_unavailable, Some(IntOrString::Int(0)));
    let spec = template.spec.as_ref().expect("a spec");
    assert_eq!((spec.host_network, spec.host_pid), (Some(true), Some(true)));
    let grace = spec.termination_grace_period_seconds.and_then(|it| u64::try_from(it).ok()).expect("seconds");
    assert!(Duration::from_secs(grace) > options.drain);
}

#[test]
fn prometheus_is_shown_the_right_ports() {
    let ((control, options), (node, _)) = (control(), node());
    let told = |template: &PodTemplateSpec| {
        let annotations =
            template.metadata.as_ref().and_then(|it| it.annotations.as_ref()).expect("annotations");
        assert_eq!(annotations["prometheus.io/scrape"], "true");
        annotations["prometheus.io/port"].parse::<u16>().expect("a port")
    };
    assert_eq!(told(&control), options.monitoring.port());
    assert!(options.monitoring.ip() == IpAddr::from([0; 16]));
    assert_eq!(told(&node), Ports::default().metrics);
}

#[test]
fn kiali_finds_what_it_looks_for() {
    let deployment = all::<Deployment>("Deployment").remove(0);
    let labels = deployment.metadata.labels.expect("labels");
    assert_eq!((labels["app"].as_str(), labels["istio.io/rev"].as_str()), ("istiod", "default"));
    let (template, options) = control();
    let variables = container(&template).env.iter().flatten();
    let cluster = variables.filter(|it| it.name == "CLUSTER_ID").find_map(|it| it.value.clone());
    assert_eq!(cluster, Some(options.cluster));
    let services = all::<Service>("Service");
    let istiod = services.iter().find(|it| it.metadata.name.as_deref() == Some("istiod")).expect("it exists");
    assert_eq!(istiod.metadata.labels.as_ref().expect("labels")["app"], "istiod");
    let ports = istiod.spec.as_ref().and_then(|spec| spec.ports.as_ref()).expect("ports");
    assert!(ports.iter().any(|it| it.name.as_deref() == Some("http-monitoring") && it.port == 15_014));
    let maps = all::<ConfigMap>("ConfigMap");
    let map = maps.into_iter().find(|it| it.metadata.name.as_deref() == Some("istio-sidecar-injector"));
    let map = map.expect("it exists");
    let data = map.data.expect("data");
    let config: Value = serde_yaml_ng::from_str(&data["config"]).expect("YAML");
    assert_eq!(config["policy"], "disabled", "nobody gets a sidecar");
    let values: Value = serde_json::from_str(&data["values"]).expect("JSON");
    assert_eq!(values["global"]["istioNamespace"], "istio-system");
}

#[test]
fn gateways_run_what_nodes_run() {
    let ((_, control), (node, _)) = (control(), node());
    assert_eq!(Some(&control.gateway_image), container(&node).image.as_ref());
}

#[test]
fn the_image_is_made_by_the_dockerfile_and_of_this_version() {
    let dockerfile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/Dockerfile"));
    let dockerfile = dockerfile.expect("a file");
    for template in [control().0, node().0, deployed("istio-ingressgateway")] {
        let container = container(&template);
        assert_eq!(container.image.as_deref(), Some(concat!("mesh:", env!("CARGO_PKG_VERSION"))));
        let [program] = container.command.as_deref().expect("a command") else { panic!("one word") };
        assert!(dockerfile.contains(&format!("/usr/local/bin/{program}")), "{program}");
    }
    assert!(dockerfile.contains(concat!("-t mesh:", env!("CARGO_PKG_VERSION"), " .")));
}

#[test]
fn a_node_has_the_capabilities_that_are_justified_and_no_other() {
    let (template, _) = node();
    let security = container(&template).security_context.clone().expect("a context");
    assert_ne!(security.privileged, Some(true));
    let capabilities = security.capabilities.expect("capabilities");
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
    // Not SYS_RESOURCE: containers that ask for what their node does not have do not start.
    assert_eq!(capabilities.add.expect("some"), ["BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]);
}

#[test]
fn a_gateway_is_selected_by_what_its_service_selects_it_by() {
    let template = deployed("istio-ingressgateway");
    runs(&template, "mesh-node");
    let args = container(&template).args.clone().expect("arguments");
    let command =
        mesh_node::config::Command::try_parse_from(["mesh-node".to_owned()].into_iter().chain(args));
    let options = match command.expect("a command line").role {
        mesh_node::config::Role::Gateway(options) => Some(options),
        _ => None,
    };
    let options = options.expect("the role of a gateway");
    assert_eq!(options.name.to_string(), "istio-system/istio-ingressgateway");
    let labels: BTreeMap<_, _> = options.labels.into_iter().collect();
    assert_eq!(labels.get("istio").map(String::as_str), Some("ingressgateway"));
    let mut services = all::<Service>("Service").into_iter();
    let service = services.find(|it| it.metadata.name.as_deref() == Some("istio-ingressgateway"));
    let spec = service.and_then(|it| it.spec).expect("a Service");
    assert_eq!(spec.selector.as_ref(), Some(&labels));
    // Istio's, which tutorials have in their commands.
    let ports: Vec<_> = spec.ports.iter().flatten().map(|port| port.port).collect();
    assert_eq!(ports, [15_021, 80, 443, 31_400, 15_443]);
    let (_, control) = control();
    let url: http::Uri = options.control.as_deref().expect("a control plane").parse().expect("a URL");
    assert_eq!(url.port_u16(), Some(control.grpc.port()));
    assert_eq!(ready(container(&template)), options.ready_port);
}
