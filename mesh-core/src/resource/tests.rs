use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::security::{Action, MutualTlsMode};
use super::{Level, Parsed, SourceFile, Spec, parse};

fn yaml(text: &str) -> Parsed {
    parse(&SourceFile { name: "f.yaml", text })
}

fn lines(parsed: &Parsed) -> Vec<String> {
    parsed.findings.iter().map(ToString::to_string).collect()
}

/// Every case gives exactly these lines.
fn assert_cases(cases: &[(&str, &[&str])]) {
    for (text, expected) in cases {
        let parsed = yaml(text);
        assert_eq!(lines(&parsed), *expected, "for:\n{text}");
        let failed = parsed.findings.iter().any(|finding| finding.level == Level::Error);
        assert_eq!(failed, parsed.objects.is_empty(), "for:\n{text}");
    }
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n";
const PA: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: pa}\n";
const AP: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ap}\n";

#[test]
fn every_kind_is_read() {
    let parsed = yaml(include_str!("testdata/all-kinds.yaml"));
    assert_eq!(lines(&parsed), Vec::<String>::new());
    let kinds: Vec<_> = parsed.objects.iter().map(|object| object.key().to_string()).collect();
    assert_eq!(
        kinds,
        [
            "Namespace book",
            "Node n1",
            "ServiceAccount book/reviews",
            "Service book/reviews",
            "Pod book/reviews-v1-0",
            "EndpointSlice book/reviews-x",
            "Deployment book/reviews-v1",
            "ConfigMap istio-system/istio",
            "PeerAuthentication book/strict",
            "AuthorizationPolicy default/allow",
        ]
    );
    let origin = &parsed.objects[3].origin;
    assert_eq!((origin.file.as_ref(), origin.document), ("f.yaml", 4));
    assert_eq!(parsed.objects[4].meta.creation_timestamp, Some(1_704_067_200));
    assert_eq!(parsed.objects[4].meta.labels["app"], "reviews");
    let Spec::PeerAuthentication(spec) = &parsed.objects[8].spec else { panic!("kind") };
    assert_eq!(spec.port_level_mtls[&8080].mode, MutualTlsMode::Permissive);
    assert_eq!(spec.mtls.map(|mtls| mtls.mode), Some(MutualTlsMode::Strict));
    let Spec::AuthorizationPolicy(spec) = &parsed.objects[9].spec else { panic!("kind") };
    assert_eq!(spec.action, Action::Deny);
    assert_eq!(spec.rules[0].from[0].source.not_ip_blocks, ["10.0.0.0/8"]);
    assert_eq!(spec.rules[0].to[0].operation.ports, ["80"]);
    assert_eq!(spec.rules[0].when[0].not_values, ["x"]);
}

#[test]
fn headers_are_required() {
    assert_cases(&[
        (
            "apiVersion: networking.istio.io/v1alpha3\nkind: DestinationRule\nmetadata: {name: d, namesapce: book}\n",
            &["f.yaml:1 Error metadata.namesapce: unknown field \"namesapce\" (did you mean \"namespace\"?)"],
        ),
        (
            "# first\n---\napiVersion: v1\nmetadata: {name: d}\n",
            &["f.yaml:1 Error kind: required, but missing; the document starts on line 3"],
        ),
        (
            "apiVersion: v1\nkid: Pod\n",
            &[
                "f.yaml:1 Error kind: required, but missing; the document starts on line 1 (is \"kid\" meant to be it?)",
            ],
        ),
        ("kind: Pod\n", &["f.yaml:1 Error apiVersion: required, but missing; the document starts on line 1"]),
        ("apiVersion: v1\nkind: 3\n", &["f.yaml:1 Error kind: expected string, found integer 3"]),
        (
            "hello",
            &["f.yaml:1 Error expected an object with apiVersion, kind and metadata, found string \"hello\""],
        ),
        ("[]", &["f.yaml:1 Error expected an object with apiVersion, kind and metadata, found a list"]),
        (
            "apiVersion: v1\nkind: Servce\n",
            &["f.yaml:1 Error kind: there is no kind \"Servce\" in \"v1\" (did you mean \"Service\"?)"],
        ),
        (
            "apiVersion: v1\nkind: Deployment\n",
            &["f.yaml:1 Error apiVersion: Deployment is not served in this version (use apps/v1)"],
        ),
        (
            "apiVersion: security.istio.io/v1alpha1\nkind: PeerAuthentication\n",
            &["f.yaml:1 Error apiVersion: PeerAuthentication is not served in this version \
                 (use security.istio.io/v1 or security.istio.io/v1beta1)"],
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {generateName: x}\n",
            &["f.yaml:1 Error metadata.name: required, but missing (generateName needs an API server)"],
        ),
        ("apiVersion: v1\nkind: ServiceAccount\n", &["f.yaml:1 Error metadata.name: required, but missing"]),
    ]);
}

#[test]
fn foreign_kinds_are_told_apart() {
    let cases = [
        ("v1", "ResourceQuota", "Info ResourceQuota is not used by the mesh"),
        ("rbac.authorization.k8s.io/v1", "Role", "Info Role is not used by the mesh"),
        ("serving.knative.dev/v1", "Service", "Info Service is not used by the mesh"),
        ("install.istio.io/v1alpha1", "IstioOperator", "Info IstioOperator is not used by the mesh"),
        (
            "networking.istio.io/v1alpha3",
            "EnvoyFilter",
            "Warning EnvoyFilter is not supported: this document has no effect \
             (there is no Envoy to patch: use VirtualService, DestinationRule or Telemetry for what it does)",
        ),
        (
            "gateway.networking.x-k8s.io/v1alpha1",
            "XMesh",
            "Warning XMesh is not enforced yet: this document has no effect",
        ),
        (
            "extensions.istio.io/v1alpha1",
            "WasmPlugin",
            "Warning WasmPlugin is not supported: this document has no effect \
             (there is no Envoy to load it: use AuthorizationPolicy with action CUSTOM for decisions, \
             VirtualService for headers)",
        ),
    ];
    for (version, kind, expected) in cases {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{a: [1]}}\n");
        assert_eq!(lines(&yaml(&text)), [format!("f.yaml:1 {expected}")]);
    }
}

#[test]
fn all_unknown_fields_and_wrong_types_are_found() {
    assert_cases(&[
        (
            &format!(
                "{POD}spec:\n  contianers: []\n  containers:\n  - name: c\n    Image: x\n    imagePullpolicy: y\n    zzz: 1\n"
            ),
            &[
                "f.yaml:1 Error spec.contianers: unknown field \"contianers\" (did you mean \"containers\"?)",
                "f.yaml:1 Error spec.containers[0].Image: unknown field \"Image\" (did you mean \"image\"?)",
                "f.yaml:1 Error spec.containers[0].imagePullpolicy: unknown field \"imagePullpolicy\" (did you mean \"imagePullPolicy\"?)",
                "f.yaml:1 Error spec.containers[0].zzz: unknown field \"zzz\"",
            ],
        ),
        (
            &format!(
                "{POD}spec:\n  hostNetwork: maybe\n  containers:\n  - name: 5\n    ports:\n    - containerPort: abc\n    - containerPort: 99999999999\n    - 7\n    command: sleep\nstatus: [1]\nextra: 1\n"
            ),
            &[
                "f.yaml:1 Error spec.hostNetwork: expected boolean, found string \"maybe\"",
                "f.yaml:1 Error spec.containers[0].name: expected string, found integer 5 (quote it: \"5\")",
                "f.yaml:1 Error spec.containers[0].ports[0].containerPort: expected integer, found string \"abc\"",
                "f.yaml:1 Error spec.containers[0].ports[1].containerPort: 99999999999 is out of range (-2147483648 to 2147483647)",
                "f.yaml:1 Error spec.containers[0].ports[2]: expected object, found integer 7",
                "f.yaml:1 Error spec.containers[0].command: expected list, found string \"sleep\" (write [\"sleep\"])",
                "f.yaml:1 Error status: expected object, found a list",
                "f.yaml:1 Error extra: unknown field \"extra\" (known here: apiVersion, kind, metadata, spec, status)",
            ],
        ),
    ]);
}

#[test]
fn unknown_words_and_keys_are_found() {
    assert_cases(&[
        (
            &format!(
                "{AP}spec:\n  action: ALOW\n  rules:\n  - from:\n    - source: {{prinicpals: [a]}}\n    too: []\n"
            ),
            &[
                "f.yaml:1 Error spec.action: unknown value \"ALOW\" (did you mean \"ALLOW\"?)",
                "f.yaml:1 Error spec.rules[0].too: unknown field \"too\" (did you mean \"to\"?)",
                "f.yaml:1 Error spec.rules[0].from[0].source.prinicpals: unknown field \"prinicpals\" (did you mean \"principals\"?)",
            ],
        ),
        (
            &format!("{POD}spec:\n  containers: [{{name: c, livenessProbe: {{httpGet: {{port: true}}}}}}]\n"),
            &[
                "f.yaml:1 Error spec.containers[0].livenessProbe.httpGet.port: expected integer or string, found boolean `true`",
            ],
        ),
        (
            &format!(
                "{PA}spec: {{selector: {{matchLabels: {{a: b}}}}, portLevelMtls: {{http: {{mode: STRICT}}}}}}\n"
            ),
            &["f.yaml:1 Error spec.portLevelMtls.http: the key must be a number from 0 to 65535"],
        ),
        (
            &format!("{AP}spec: {{rules: [{{to: [{{operation: {{ports: [80]}}}}]}}]}}\n"),
            &[
                "f.yaml:1 Error spec.rules[0].to[0].operation.ports[0]: expected string, found integer 80 (quote it: \"80\")",
            ],
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, labels: {v: 1.10, on: yes, b: true}}\n",
            &[
                "f.yaml:1 Error metadata.labels.v: expected string, found number 1.1 (put it in quotes)",
                "f.yaml:1 Error metadata.labels.b: expected string, found boolean true (quote it: \"true\")",
            ],
        ),
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, labels: {\"a.b/c d\": x, x: \"-\"}}\n",
            &[
                "f.yaml:1 Error metadata.labels[\"a.b/c d\"]: not a valid label key",
                "f.yaml:1 Error metadata.labels.x: \"-\" is not a valid label value \
                 (at most 63 letters, digits, -, _ and ., a letter or digit at both ends)",
            ],
        ),
    ]);
}

#[test]
fn what_kubectl_takes_is_taken() {
    let text = format!(
        "{POD}spec:
  hostNetwork: no
  enableServiceLinks: On
  nodeSelector: {{empty: }}
  containers:
  - name: c
    args: null
    resources: {{limits: {{cpu: 1, memory: 64Mi, x: 0.5}}}}
    ports: [{{containerPort: 80.0}}]
    readinessProbe: {{tcpSocket: {{port: http}}}}
  volumes:
  - name: v
    secret: {{secretName: s, defaultMode: 0644}}
status: {{}}
"
    );
    let parsed = yaml(&text);
    assert_eq!(lines(&parsed), Vec::<String>::new());
    let Spec::Pod(pod) = &parsed.objects[0].spec else { panic!("kind") };
    let spec = pod.spec.as_ref().expect("given");
    assert_eq!((spec.host_network, spec.enable_service_links), (Some(false), Some(true)));
    let secret = spec.volumes.as_ref().expect("given")[0].secret.as_ref().expect("given");
    assert_eq!(secret.default_mode, Some(0o644));
    let limits = spec.containers[0].resources.as_ref().and_then(|it| it.limits.as_ref()).expect("given");
    assert_eq!(limits["cpu"].0, "1");
    assert_eq!(limits["x"].0, "0.5");
    assert_eq!(spec.containers[0].ports.as_ref().expect("given")[0].container_port, 80);
}

#[test]
fn pods_and_deployments_are_checked() {
    assert_cases(&[
        (POD, &["f.yaml:1 Error spec: required, but missing"]),
        (
            &format!(
                "{POD}spec:
  serviceAccountName: A_b
  restartPolicy: never
  initContainers: [{{name: c}}]
  containers:
  - name: c
    ports: [{{containerPort: 0}}, {{containerPort: 70000, protocol: tcp, name: averyveryverylongname}}]
    livenessProbe: {{httpGet: {{port: 0}}, exec: {{command: [a]}}}}
    startupProbe: {{tcpSocket: {{port: \"80\"}}}}
status: {{phase: Run, podIP: 10.0.0, podIPs: [{{ip: 10.0.0.01}}]}}
"
            ),
            &[
                "f.yaml:1 Error spec.serviceAccountName: \"A_b\" is not a DNS name \
                 (at most 253 of a-z, 0-9, - and ., each part begins and ends with a-z or 0-9)",
                "f.yaml:1 Error spec.restartPolicy: unknown value \"never\" (one of Always, OnFailure, Never)",
                "f.yaml:1 Error spec.containers[0].name: \"c\" is used twice",
                "f.yaml:1 Error spec.containers[0].ports[0].containerPort: port 0 is not between 1 and 65535",
                "f.yaml:1 Error spec.containers[0].ports[1].containerPort: port 70000 is not between 1 and 65535",
                "f.yaml:1 Error spec.containers[0].ports[1].protocol: unknown value \"tcp\" (one of TCP, UDP, SCTP)",
                "f.yaml:1 Error spec.containers[0].ports[1].name: \"averyveryverylongname\" is not a port name \
                 (at most 15 of a-z, 0-9 and -, at least one letter)",
                "f.yaml:1 Error spec.containers[0].livenessProbe.httpGet.port: port 0 is not between 1 and 65535",
                "f.yaml:1 Error spec.containers[0].livenessProbe: must have exactly one of exec, grpc, httpGet and tcpSocket",
                "f.yaml:1 Error spec.containers[0].startupProbe.tcpSocket.port: \"80\" is a number in quotes (remove the quotes)",
                "f.yaml:1 Error status.phase: unknown value \"Run\" (one of Pending, Running, Succeeded, Failed, Unknown)",
                "f.yaml:1 Error status.podIP: \"10.0.0\" is not an IP address",
                "f.yaml:1 Error status.podIPs[0].ip: \"10.0.0.01\" is not an IP address",
            ],
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: -1, selector: {matchLabels: {a: b}}, template: {}}\n",
            &[
                "f.yaml:1 Error spec.replicas: must not be negative",
                "f.yaml:1 Error spec.selector.matchLabels.a: the template's labels have no \"a\"=\"b\"",
                "f.yaml:1 Error spec.template.spec: required, but missing",
            ],
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Istio}\ndata: {a b: x}\n",
            &[
                "f.yaml:1 Error metadata.name: \"Istio\" is not a DNS name \
                 (at most 253 of a-z, 0-9, - and ., each part begins and ends with a-z or 0-9)",
                "f.yaml:1 Error data[\"a b\"]: not a valid key (at most 253 letters, digits, -, _ and .)",
            ],
        ),
    ]);
}

#[test]
fn services_are_checked() {
    assert_cases(&[
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a.b, namespace: x.y}\nspec: {}\n",
            &[
                "f.yaml:1 Error metadata.name: \"a.b\" is not a DNS label (at most 63 of a-z, 0-9 and -, not - at either end)",
                "f.yaml:1 Error metadata.namespace: \"x.y\" is not a DNS label (at most 63 of a-z, 0-9 and -, not - at either end)",
                "f.yaml:1 Error spec.ports: required, but missing or empty",
            ],
        ),
        (
            "apiVersion: v1
kind: Service
metadata: {name: s}
spec:
  type: Clusterip
  clusterIP: 10.0.0.256
  clusterIPs: [fd00::1]
  sessionAffinity: clientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}
  internalTrafficPolicy: local
  ports:
  - {port: 80, targetPort: 0}
  - {port: 80, name: a, protocol: QUIC}
  - {port: 80, name: a}
",
            &[
                "f.yaml:1 Error spec.type: unknown value \"Clusterip\" (one of ClusterIP, NodePort, LoadBalancer, ExternalName)",
                "f.yaml:1 Error spec.clusterIP: \"10.0.0.256\" is not an IP address",
                "f.yaml:1 Error spec.clusterIPs[0]: \"fd00::1\" differs from spec.clusterIP \"10.0.0.256\"",
                "f.yaml:1 Error spec.ports[0].targetPort: port 0 is not between 1 and 65535",
                "f.yaml:1 Error spec.ports[0].name: required where there is more than one port",
                "f.yaml:1 Error spec.ports[1].protocol: unknown value \"QUIC\" (one of TCP, UDP, SCTP)",
                "f.yaml:1 Error spec.ports[2].port: TCP port 80 is given twice",
                "f.yaml:1 Error spec.ports[2].name: \"a\" is used twice",
                "f.yaml:1 Error spec.sessionAffinity: unknown value \"clientIP\" (one of None, ClientIP)",
                "f.yaml:1 Error spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not between 1 and 86400",
                "f.yaml:1 Error spec.internalTrafficPolicy: unknown value \"local\" (one of Cluster, Local)",
            ],
        ),
    ]);
}

/// As an API server checks it, and what it lets pass that leads nowhere.
#[test]
fn real_names_of_services_are_checked() {
    let long = ["a".repeat(63).as_str(); 4].join(".");
    let label = format!("{}.example", "a".repeat(64));
    for (name, expected) in [
        ("real.example", String::new()),
        ("real.example.", String::new()),
        ("localhost", String::new()),
        ("", "Error spec.externalName: required for type ExternalName, but missing".to_owned()),
        (".", "Error spec.externalName: required for type ExternalName, but missing".to_owned()),
        ("192.0.2.1", "Warning spec.externalName: \"192.0.2.1\" is taken for a name of digits, which leads nowhere (a Service without a selector and an EndpointSlice lead to addresses)".to_owned()),
        ("2001:db8::1", "Error spec.externalName: \"2001:db8::1\" is an address, not a DNS name (a Service without a selector and an EndpointSlice lead to addresses)".to_owned()),
        ("Real.example", "Error spec.externalName: \"Real.example\" is not a DNS name".to_owned()),
        ("real..example", "Error spec.externalName: \"real..example\" is not a DNS name".to_owned()),
        ("real.example/path", "Error spec.externalName: \"real.example/path\" is not a DNS name".to_owned()),
        ("*.example", "Error spec.externalName: \"*.example\" is not a DNS name".to_owned()),
        (&long, "Error spec.externalName: \"aaaa".to_owned()),
        (&label, "Warning spec.externalName: \"aaaa".to_owned()),
    ] {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a, namespace: b}}, spec: {{type: ExternalName, externalName: '{name}'}}}}"
        );
        let found = parse(&SourceFile { name: "f.yaml", text: &text }).findings;
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        let matching = match found.as_slice() {
            [] => expected.is_empty(),
            [one] => !expected.is_empty() && one.starts_with(&format!("f.yaml:1 {expected}")),
            _ => false,
        };
        assert!(matching, "{name}: {found:?}");
    }
}

#[test]
fn endpoint_slices_and_nodes_are_checked() {
    assert_cases(&[
        (
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
endpoints: [{addresses: [fd00::1, x]}, {addresses: []}]
ports: [{port: 0}, {port: 80, protocol: x}]
",
            &[
                "f.yaml:1 Error endpoints[0].addresses[0]: \"fd00::1\" is not of addressType IPv4",
                "f.yaml:1 Error endpoints[0].addresses[1]: \"x\" is not an IP address",
                "f.yaml:1 Error endpoints[1].addresses: required, but missing or empty",
                "f.yaml:1 Error ports[0].port: port 0 is not between 1 and 65535",
                "f.yaml:1 Error ports[1].protocol: unknown value \"x\" (one of TCP, UDP, SCTP)",
                "f.yaml:1 Error ports[1].name: another port has the same name",
            ],
        ),
        (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv6\n",
            &[
                "f.yaml:1 Warning metadata.labels[\"kubernetes.io/service-name\"]: missing: these endpoints belong to no Service \
                 (set it to the Service's name)",
            ],
        ),
        (
            "apiVersion: v1\nkind: Node\nmetadata: {name: n, namespace: x}\nspec: {podCIDR: 10.0.0.0, podCIDRs: [10.0.0.0/33]}\nstatus: {addresses: [{type: InternalIP, address: n}, {type: Hostname, address: n}]}\n",
            &[
                "f.yaml:1 Warning metadata.namespace: Node has no namespace; ignored",
                "f.yaml:1 Error spec.podCIDR: \"10.0.0.0\" is not a CIDR",
                "f.yaml:1 Error spec.podCIDRs[0]: \"10.0.0.0/33\" is not a CIDR",
                "f.yaml:1 Error status.addresses[0].address: \"n\" is not an IP address",
            ],
        ),
    ]);
}

#[test]
fn peer_authentication_is_checked() {
    assert_cases(&[
        (PA, &["f.yaml:1 Warning spec: absent, which means the same as {}"]),
        (&format!("{PA}spec: {{}}\nstatus: {{x: y}}\n"), &[]),
        (
            &format!("{PA}spec: {{mtls: {{mode: strict}}}}\n"),
            &["f.yaml:1 Error spec.mtls.mode: unknown value \"strict\" (did you mean \"STRICT\"?)"],
        ),
        (
            &format!("{PA}spec: {{mtls: null, selector: {{matchLabels: {{a: }}}}}}\n"),
            &[
                "f.yaml:1 Error spec.mtls: null is not a value (give it a value or remove it)",
                "f.yaml:1 Error spec.selector.matchLabels.a: null is not a value (give it a value or remove it)",
            ],
        ),
        (
            &format!("{PA}spec: {{selector: {{}}, portLevelMtls: {{0: {{mode: STRICT}}}}}}\n"),
            &[
                "f.yaml:1 Warning spec.selector: a selector without labels selects every workload \
                 (remove the selector if all workloads are meant)",
                "f.yaml:1 Error spec.portLevelMtls: needs a selector: ports are those of a workload, not of a namespace \
                 (add spec.selector.matchLabels)",
                "f.yaml:1 Error spec.portLevelMtls.0: port 0 is not between 1 and 65535",
            ],
        ),
        (
            &format!("{PA}spec: {{selector: {{matchLabels: {{a: b, a: c, a*: x, b: '*'}}}}}}\n"),
            &["f.yaml:1 Error spec.selector.matchLabels.a: key \"a\" is given twice"],
        ),
        (
            &format!("{PA}spec: {{selector: {{matchLabels: {{a*: x, b: '*'}}}}}}\n"),
            &[
                "f.yaml:1 Error spec.selector.matchLabels[\"a*\"]: labels are compared for equality; there are no wildcards",
                "f.yaml:1 Error spec.selector.matchLabels.b: labels are compared for equality; there are no wildcards",
            ],
        ),
        (
            "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: a, annotations: {istio.io/dry-run: 'true'}}\nspec: {}\n",
            &[
                "f.yaml:1 Error metadata.annotations[\"istio.io/dry-run\"]: is only for ALLOW and DENY policies of kind AuthorizationPolicy",
            ],
        ),
    ]);
}

#[test]
fn authorization_policy_is_checked() {
    assert_cases(&[
        (&format!("{AP}spec: {{}}\n"), &[]),
        (&format!("{AP}spec: {{rules: [{{}}]}}\n"), &[]),
        (
            &format!("{AP}spec: {{action: DENY}}\n"),
            &["f.yaml:1 Error spec.rules: a DENY policy without rules would never match \
                 (write \"rules: [{}]\" to make DENY match everything)"],
        ),
        (
            &format!("{AP}spec: {{action: CUSTOM, rules: [{{}}]}}\n"),
            &["f.yaml:1 Error spec.provider.name: required for CUSTOM, but missing"],
        ),
        (
            &format!("{AP}spec: {{provider: {{name: x}}, rules: [{{from: }}]}}\n"),
            &[
                "f.yaml:1 Error spec.rules[0].from: null is not a value (give it a value or remove it)",
                "f.yaml:1 Error spec.provider: is for CUSTOM policies, this is ALLOW",
            ],
        ),
        (
            &format!(
                "{AP}spec: {{rules: [{{from: [], to: [{{operation: {{}}}}], when: [{{key: source.ip, values: []}}]}}]}}\n"
            ),
            &[
                "f.yaml:1 Error spec.rules[0].to[0].operation: must restrict something (remove the entry to match every operation)",
                "f.yaml:1 Error spec.rules[0].when[0]: values or notValues is required",
                "f.yaml:1 Error spec.rules[0].from: must not be empty (remove it to match all)",
                "f.yaml:1 Warning spec.rules[0].when[0].values: an empty list restricts nothing (remove it or name values)",
            ],
        ),
        (
            &format!("{AP}spec: {{rules: [{{from: [{{source: {{principals: [], namespaces: [a]}}}}]}}]}}\n"),
            &[
                "f.yaml:1 Warning spec.rules[0].from[0].source.principals: an empty list restricts nothing (remove it or name values)",
            ],
        ),
    ]);
}

#[test]
fn rules_are_checked() {
    assert_cases(&[(
        &format!(
            "{AP}spec:
  rules:
  - from:
    - source:
        principals: [spiffe://cluster.local/ns/a/sa/b, 'a*b', '']
        serviceAccounts: ['a/*', b]
        ipBlocks: [10.0.0.0/8, 10.0.0.0/33, x, '::1']
    to: [{{operation: {{ports: ['80', '0', '8*', '+8'], paths: ['/a/{{*}}/b/{{**}}', '/*/x']}}}}]
    when:
    - {{key: source.prinicpal, values: [a]}}
    - {{key: destination.port, values: ['99999']}}
    - {{key: source.ip, notValues: [y]}}
    - {{key: 'request.headers[x]', values: [a]}}
    - {{key: 'request.headers[]', values: [a]}}
"
        ),
        &[
            "f.yaml:1 Warning spec.rules[0].from[0].source.principals[1]: a second or inner * in \"a*b\" is an ordinary character \
                 (write prefix*, *suffix or *)",
            "f.yaml:1 Error spec.rules[0].from[0].source.principals[2]: must not be empty",
            "f.yaml:1 Error spec.rules[0].from[0].source.ipBlocks[1]: \"10.0.0.0/33\" is neither an IP address nor a CIDR",
            "f.yaml:1 Error spec.rules[0].from[0].source.ipBlocks[2]: \"x\" is neither an IP address nor a CIDR",
            "f.yaml:1 Warning spec.rules[0].from[0].source.principals[0]: never matches: principals are compared without spiffe:// \
                 (write \"cluster.local/ns/a/sa/b\")",
            "f.yaml:1 Error spec.rules[0].from[0].source.serviceAccounts[0]: \"a/*\" is not a service account \
                 (write NAMESPACE/NAME or NAME; there are no wildcards)",
            "f.yaml:1 Error spec.rules[0].from[0].source: serviceAccounts cannot be combined with principals or namespaces",
            "f.yaml:1 Warning spec.rules[0].to[0].operation.paths[1]: a second or inner * in \"/*/x\" is an ordinary character \
                 (write prefix*, *suffix or *)",
            "f.yaml:1 Error spec.rules[0].to[0].operation.ports[1]: \"0\" is not a port between 1 and 65535",
            "f.yaml:1 Error spec.rules[0].to[0].operation.ports[2]: \"8*\" is not a port between 1 and 65535",
            "f.yaml:1 Error spec.rules[0].to[0].operation.ports[3]: \"+8\" is not a port between 1 and 65535",
            "f.yaml:1 Error spec.rules[0].when[0].key: unknown attribute \"source.prinicpal\" (did you mean \"source.principal\"?)",
            "f.yaml:1 Error spec.rules[0].when[1].values[0]: \"99999\" is not a port between 1 and 65535",
            "f.yaml:1 Error spec.rules[0].when[2].notValues[0]: \"y\" is neither an IP address nor a CIDR",
            "f.yaml:1 Error spec.rules[0].when[4].key: unknown attribute \"request.headers[]\" (one of source.ip, remote.ip, \
                 source.namespace, source.serviceAccount, source.trustDomain, source.principal, request.auth.principal, \
                 request.auth.audiences, request.auth.presenter, destination.ip, destination.port, connection.sni, \
                 request.headers[NAME], request.auth.claims[NAME])",
        ],
    )]);
}

#[test]
fn targets_and_annotations_of_policies_are_checked() {
    assert_cases(&[
        (
            &format!(
                "{AP}spec:\n  selector: {{matchLabels: {{a: b}}}}\n  targetRefs: [{{kind: Service, name: s, namespace: other}}, {{kind: Gateway, name: g}}, {{kind: Pod}}]\n  rules: [{{}}]\n"
            ),
            &[
                "f.yaml:1 Error spec: only one of selector, targetRef and targetRefs may be given",
                "f.yaml:1 Error spec.targetRefs[0].namespace: a policy cannot attach to another namespace",
                "f.yaml:1 Error spec.targetRefs[1].group: a policy cannot attach to \"Gateway\" of group \"\" (group is \"gateway.networking.k8s.io\")",
                "f.yaml:1 Error spec.targetRefs[2].name: required, but missing",
                "f.yaml:1 Error spec.targetRefs[2].kind: a policy cannot attach to \"Pod\" of group \"\" (one of Gateway, GatewayClass, Service, ServiceEntry)",
            ],
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, annotations: {istio.io/dry-run: 'yes', internal.istio.io/x: y}}\nspec: {rules: [{}]}\n",
            &[
                "f.yaml:1 Error metadata.annotations[\"istio.io/dry-run\"]: \"yes\" is not a boolean (write \"true\" or \"false\")",
                "f.yaml:1 Error metadata.annotations[\"internal.istio.io/x\"]: is reserved for internal use",
            ],
        ),
        (
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, annotations: {istio.io/dry-run: 'true'}}\nspec: {action: AUDIT, rules: [{}]}\n",
            &[
                "f.yaml:1 Error metadata.annotations[\"istio.io/dry-run\"]: is only for ALLOW and DENY policies of kind AuthorizationPolicy",
            ],
        ),
    ]);
}

#[test]
fn a_bad_document_is_rejected_alone() {
    let text = "\u{feff}# comment\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: a\n--- # next\n\
                apiVersion: v1\nkind: {\n---\n---\nkind: ServiceAccount\napiVersion: v1\nmetadata: {name: b}\n...\n\
                %YAML 1.1\n---\nfoo: [\n--- {apiVersion: v1, kind: ServiceAccount, metadata: {name: c}}\n\
                ---\n\tapiVersion: v1\n";
    let parsed = yaml(text);
    let names: Vec<_> = parsed.objects.iter().map(|it| (it.meta.name.as_ref(), it.origin.document)).collect();
    assert_eq!(names, [("a", 1), ("b", 4), ("c", 6)]);
    let lines = lines(&parsed);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(
        lines[0].starts_with("f.yaml:2 Error not valid YAML: ") && lines[0].contains(" at line 10"),
        "{}",
        lines[0]
    );
    assert!(lines[1].starts_with("f.yaml:5 Error not valid YAML: "), "{}", lines[1]);
    assert!(lines[2].starts_with("f.yaml:7 Error not valid YAML: "), "{}", lines[2]);
    assert!(lines[2].ends_with("(tabs cannot indent)"), "{}", lines[2]);
    assert_eq!(parsed.documents, 7);
    assert_eq!(parsed.rejected.iter().map(|it| it.origin.document).collect::<Vec<_>>(), [2, 5, 7]);
}

#[test]
fn rejected_objects_are_named() {
    let parsed =
        yaml("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: n}\nspec: {x: y}\n---\nkind: Pod\n");
    let keys: Vec<_> = parsed.rejected.iter().map(|it| it.key.as_ref().map(ToString::to_string)).collect();
    assert_eq!(keys, [Some("Pod n/p".to_owned()), None]);
}

#[test]
fn lists_are_unpacked() {
    let parsed = yaml(
        "apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {nam: b}}
- {kind: ServiceAccountList, apiVersion: v1, items: [{metadata: {name: c}}, {metadata: {name: d}, x: y}]}
- 7
",
    );
    let names: Vec<_> = parsed.objects.iter().map(|it| it.meta.name.to_string()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(
        lines(&parsed),
        [
            "f.yaml:1 Error items[1].metadata.nam: unknown field \"nam\" (did you mean \"name\"?)",
            "f.yaml:1 Error items[2].items[1].x: unknown field \"x\" \
             (known here: apiVersion, kind, automountServiceAccountToken, imagePullSecrets, metadata, secrets)",
            "f.yaml:1 Error items[3]: expected an object with apiVersion, kind and metadata, found integer 7",
        ]
    );
}

#[test]
fn json_is_read_as_json() {
    let text = "{\"apiVersion\": \"v1\", \"kind\": \"ServiceAccount\", \"metadata\": {\"name\": \"a\", \"annotations\": {\"x\": \"\\ud83d\\ude00\\/\"}}}\n\
                {\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}\n{\"a\": 1,}";
    let parsed = parse(&SourceFile { name: "f.json", text });
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.objects[0].meta.annotations["x"], "😀/");
    assert_eq!(
        lines(&parsed),
        [
            "f.json:2 Error kind: key \"kind\" is given twice",
            "f.json:3 Error not valid JSON: trailing comma at line 3 column 9"
        ]
    );
}

#[test]
fn yaml_corners() {
    assert_cases(&[
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: a\n  ? [x]\n  : y\n  ~: z\n",
            &[
                "f.yaml:1 Error metadata: a key must be a string",
                "f.yaml:1 Error metadata: a key must be a string",
            ],
        ),
        ("a: *nowhere\n", &["f.yaml:1 Error not valid YAML: unknown anchor at line 1 column 4"]),
        (
            "a: !custom {}\n",
            &[
                "f.yaml:1 Error not valid YAML: a: invalid type: enum, expected a value without a YAML tag at line 1 column 4",
            ],
        ),
        ("a: &a [*a]\n", &["f.yaml:1 Error nested deeper than 64 levels"]),
        (
            "x: &m {a: b}\napiVersion: v1\nkind: ServiceAccount\nmetadata: {<<: 7}\n",
            &[
                "f.yaml:1 Error not valid YAML: metadata: \"<<\" takes an alias of a mapping, or a list of them at line 4 column 11",
            ],
        ),
    ]);
    let parsed = yaml(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  labels: &l {a: b, 1: one, true: t}\n  annotations: {<<: *l, a: c}\n  name: a\n",
    );
    assert_eq!(lines(&parsed), Vec::<String>::new());
    let annotations: Vec<_> =
        parsed.objects[0].meta.annotations.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(annotations, ["1=one", "a=c", "true=t"]);
    for empty in ["", "---\n", "# x\n", "---\n---\n# x\n...\n", "\u{feff}", "null\n"] {
        let parsed = yaml(empty);
        assert!(parsed.objects.is_empty() && parsed.findings.is_empty(), "{empty:?}");
    }
}

#[test]
fn findings_stay_on_one_line() {
    let parsed = yaml("apiVersion: v1\nkind: \"Pod\\nf.yaml:9 Error x\"\nmetadata: {name: a}\n");
    assert!(lines(&parsed).iter().all(|line| !line.contains('\n')));
}

fn repeated(times: usize, line: impl Fn(usize) -> String) -> String {
    (0..times).fold(String::new(), |text, n| text + &line(n))
}

#[test]
fn hostile_documents_cost_little() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let alias = format!("*a{},", level - 1).repeat(10);
        writeln!(bomb, "a{level}: &a{level} [{alias}]").expect("String takes all");
    }
    let long = "x".repeat(400_000);
    let strings = format!("a: &a {long}\nb: [{}]\n", "*a,".repeat(1_000));
    let megabyte = "x".repeat(1_000_000);
    let cases = [
        ("aliases", bomb),
        ("alias of a long string", strings),
        ("flow nesting", "[".repeat(1_000_000)),
        ("flow nesting below the limit of open brackets", "[".repeat(900)),
        ("closed flow nesting", format!("{}{}", "[".repeat(500), "]".repeat(500))),
        ("repeated flow nesting", format!("{}{},", "[".repeat(900), "]".repeat(900)).repeat(500)),
        ("mapping nesting", "{a: ".repeat(200_000)),
        ("block nesting", "- ".repeat(500_000)),
        ("key nesting", "? ".repeat(500_000)),
        ("deep indentation", repeated(1_000, |n| format!("{}a:\n", " ".repeat(n)))),
        ("too long", "x".repeat(1_100_000)),
        ("long key", format!("{megabyte}: 1\n")),
        ("many keys", repeated(100_000, |n| format!("k{n}: 1\n"))),
        ("same keys", "k: 1\n".repeat(200_000)),
        ("long name", format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {megabyte}}}\n")),
        ("long kind", format!("apiVersion: v1\nkind: {megabyte}\n")),
        ("many unknown fields", format!("{POD}spec:\n{}", repeated(60_000, |n| format!("  k{n}: 1\n")))),
        ("many wrong types", format!("{POD}spec: {{containers: [{}]}}", "7,".repeat(400_000))),
        ("many documents", "---\na: 1\n".repeat(110_000)),
        ("anchors", repeated(50_000, |n| format!("- &a{n} x\n"))),
        ("quotes", "\"".repeat(1_000_000)),
        ("colons", ": ".repeat(500_000)),
        ("question", "?\n".repeat(500_000)),
        ("nul", "a: \0\n".into()),
        ("escapes", format!("\"{}\"", "\\u0041".repeat(150_000))),
        ("percent", "%\n".repeat(100_000)),
        ("folded", format!("a: >\n{}", " x\n\n".repeat(200_000))),
        ("tags", "!a ".repeat(300_000)),
    ];
    for (name, text) in cases {
        let start = Instant::now();
        let parsed = yaml(&text);
        let took = start.elapsed();
        assert!(!parsed.findings.is_empty() && parsed.objects.is_empty(), "{name}: {parsed:?}");
        assert!(parsed.findings.iter().all(|finding| finding.to_string().len() < 2_000), "{name}");
        assert!(took < Duration::from_secs(10), "{name} took {took:?}");
    }
}
