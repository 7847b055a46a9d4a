//! A cluster with a control plane for statuses, and for each test the gateways of its own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::apiserver::{ApiServer, Resource, Settings};
use mesh_tests::http::{Request, fetch};
use mesh_tests::origin::{Origin, Seen};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep};

use super::bed::{self, Mesh};
use super::sealed;
use crate::client::{Reply, Req, Stream, Tls, h1, h2};
use crate::row::Want;
use crate::stand::{Gateway, beside, free_ports, own_ip};
use crate::tls;

/// What all tests share.
pub(super) struct Stage {
    cluster: ApiServer,
    origin: Origin,
    /// The port of all pods.
    pods: u16,
    /// That where they speak TLS, and that where clients have to show a certificate.
    sealed: [u16; 2],
    authority: tls::Authority,
    /// Another one.
    strangers: tls::Authority,
    number: Cell<u32>,
    control: Control,
    /// For those that are about clients in the mesh.
    mesh: Option<Mesh>,
}

/// A `mesh-control` that is killed when it is dropped.
struct Control {
    child: Child,
    files: tempfile::TempDir,
}

/// A test that runs.
pub(crate) struct Case {
    stage: Rc<Stage>,
    /// What its namespaces end with in the cluster.
    suffix: String,
    gateways: BTreeMap<String, Running>,
    marks: Cell<u32>,
    documents: RefCell<Vec<Value>>,
    /// What the mesh was told; it is taken back at the end.
    in_mesh: Vec<Value>,
}

/// A gateway, and the ports of it that those of its Service lead to.
struct Running {
    process: Gateway,
    ports: BTreeMap<u16, u16>,
}

impl Stage {
    pub(super) async fn start(needs_mesh: bool) -> Result<Rc<Self>> {
        let [pods] = free_ports()?;
        let addresses: Vec<_> = PODS
            .iter()
            .map(|(_, name, last)| ((*name).to_owned(), SocketAddr::from((own_ip(*last), pods))))
            .collect();
        let origin = Origin::serve(&addresses).context("the origin")?;
        for (name, address) in addresses {
            tokio::task::spawn_local(answer_datagrams(name, UdpSocket::bind(address).await?));
        }
        let cluster = ApiServer::start(&Settings::default())?;
        for (kind, plural, namespaced) in KINDS {
            let mut resource = Resource::custom("gateway.networking.k8s.io", &["v1"], kind, plural);
            resource.namespaced = *namespaced;
            cluster.define(resource);
        }
        let class = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "istio"},
            "spec": {"controllerName": "istio.io/gateway-controller"},
        });
        cluster.put(&class);
        cluster.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}}));
        let control = Control::start(&cluster.url()).await?;
        let (authority, strangers, number) = (tls::Authority::new()?, tls::Authority::new()?, Cell::new(0));
        let ips: Vec<_> = PODS.iter().map(|(.., last)| own_ip(*last)).collect();
        let sealed = [
            sealed::serve(&authority, false, (&ips, pods)).await?,
            sealed::serve(&authority, true, (&ips, pods)).await?,
        ];
        let mesh = needs_mesh.then(Mesh::start).transpose().context("a mesh (it needs root)")?;
        let stage =
            Rc::new(Self { cluster, origin, pods, sealed, authority, strangers, number, control, mesh });
        let watched = Rc::downgrade(&stage);
        tokio::task::spawn_local(async move {
            while let Some(stage) = watched.upgrade() {
                stage.play_cloud();
                drop(stage);
                sleep(POLL).await;
            }
        });
        Ok(stage)
    }

    /// Does what a cloud and a kubelet do about what the control plane has made for Gateways: Services have an address, and
    /// Deployments a pod that is ready.
    fn play_cloud(&self) {
        let is_made = |object: &Value| object["metadata"]["labels"][GATEWAY_NAME].is_string();
        let ingress = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
        for mut service in self.cluster.list("Service").into_iter().filter(is_made) {
            if service["spec"]["type"] == "LoadBalancer" && service["status"] != ingress {
                service["status"] = ingress.clone();
                self.cluster.put(&service);
            }
        }
        for deployment in self.cluster.list("Deployment").iter().filter(|it| is_made(it)) {
            let text =
                |pointer: &str| deployment.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
            if self.cluster.read("Pod", namespace, name).is_none() {
                let template = &deployment["spec"]["template"];
                let mut metadata = template["metadata"].clone();
                (metadata["name"], metadata["namespace"]) = (json!(name), json!(namespace));
                self.cluster.put(&json!({
                    "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"],
                    "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
                }));
            }
        }
    }

    /// Namespaces, and pods with their Services: `v1` to `v3` in `infra`, `w1` in `web`, `a1` in `app`.
    fn base(&self) -> String {
        let mut documents =
            vec!["{apiVersion: v1, kind: Namespace, metadata: {name: istio-system}}".to_owned()];
        for namespace in ["infra", "web", "app"] {
            documents.push(format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{kind: {namespace}}}}}}}"
            ));
        }
        for (namespace, name, last) in PODS {
            let (ip, port) = (own_ip(*last), self.pods);
            documents.push(format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, \
                 spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: 8080, targetPort: {port}}}, \
                 {{name: h2c, port: 8082, targetPort: {port}, appProtocol: kubernetes.io/h2c}}, \
                 {{name: ws, port: 8083, targetPort: {port}, appProtocol: kubernetes.io/ws}}, \
                 {{name: any, port: 9000, targetPort: {port}, appProtocol: tcp}}, \
                 {{name: datagrams, port: 9000, targetPort: {port}, protocol: UDP}}]}}}}"
            ));
            documents.push(format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}, \
                 spec: {{containers: [{{name: a, image: a}}]}}, status: {{podIP: {ip}, podIPs: [{{ip: {ip}}}], phase: Running, \
                 conditions: [{{type: Ready, status: \"True\"}}]}}}}"
            ));
        }
        documents.join("\n---\n")
    }
}

impl Control {
    async fn start(url: &str) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let kubeconfig = files.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(&kubeconfig, config.to_string())?;
        let ports: [u16; 4] = free_ports()?;
        let mut command = Command::new(beside("mesh-control"));
        command.args(["--kubernetes", "--log", "info"]).env("KUBECONFIG", &kubeconfig);
        for (option, port) in ["--grpc", "--plain", "--monitoring", "--webhook"].iter().zip(ports) {
            command.arg(option).arg(format!("127.0.0.1:{port}"));
        }
        let said = File::create(files.path().join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .context("mesh-control")?;
        let control = Self { child, files };
        let [_, _, monitoring, _] = ports;
        let until = Instant::now() + START;
        loop {
            let asked = tokio::task::spawn_blocking(move || {
                let place = (Ipv4Addr::LOCALHOST, monitoring).into();
                fetch(place, &Request::get("/healthz/ready"), Duration::from_secs(2))
            });
            if asked.await?.is_ok_and(|answer| answer.status == 200) {
                return Ok(control);
            }
            ensure!(Instant::now() < until, "mesh-control is not ready:\n{}", control.log());
            sleep(POLL).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // It is gone already, or it goes now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Case {
    /// Writes `yaml` to the cluster and to files, and starts a gateway for each Gateway in it of class `istio`. Pods are
    /// not told to the cluster: those of all tests have the same addresses. Nor are the Services of Gateways, which the
    /// control plane makes there.
    pub(super) async fn begin(stage: &Rc<Stage>, yaml: &str) -> Result<Self> {
        stage.number.set(stage.number.get() + 1);
        let suffix = format!("-{}", stage.number.get());
        let yaml = stage.expand(yaml)?;
        let mut case = Self {
            stage: Rc::clone(stage),
            suffix,
            gateways: BTreeMap::new(),
            marks: Cell::new(0),
            documents: RefCell::default(),
            in_mesh: Vec::new(),
        };
        let mut documents = documents(&stage.base())?;
        documents.extend(self::documents(&yaml)?);
        let mut own = Vec::new();
        for document in &documents {
            let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            // No Service can have a name of more characters, and nothing is asked of a Gateway without one.
            let is_short = text("/metadata/name").len() <= 63;
            if text("/kind") == "Gateway" && text("/spec/gatewayClassName") == "istio" && is_short {
                own.push((text("/metadata/namespace").to_owned(), text("/metadata/name").to_owned()));
            }
        }
        documents.iter().filter(|document| document["kind"] != "Pod").for_each(|document| case.put(document));
        let mut services = BTreeMap::new();
        for (namespace, name) in own {
            let ports: [u16; PORTS.len()] = free_ports()?;
            let ports: BTreeMap<u16, u16> = PORTS.into_iter().zip(ports).collect();
            documents.push(service(&namespace, &name, &ports));
            services.insert(format!("{namespace}/{name}"), ports);
        }
        let text: Vec<_> = documents.iter().map(Value::to_string).collect();
        let files = [("all.yaml".to_owned(), text.join("\n---\n"))];
        *case.documents.borrow_mut() = documents;
        for (name, ports) in services {
            let options = ["--threads", "1", "--access-log", "json"];
            let process =
                Gateway::start_named(&name, &files, &options).await.with_context(|| name.clone())?;
            case.gateways.insert(name, Running { process, ports });
        }
        Ok(case)
    }

    /// Writes `yaml` to the cluster and to the mesh.
    pub(super) fn begin_in_mesh(stage: &Rc<Stage>, yaml: &str) -> Result<Self> {
        stage.number.set(stage.number.get() + 1);
        let mesh = stage.mesh.as_ref().context("there is no mesh")?;
        let in_mesh =
            documents(&yaml.replace("MESH-CA", &json!({"ca.crt": mesh.authority.pem()}).to_string()))?;
        let case = Self {
            stage: Rc::clone(stage),
            suffix: format!("-{}", stage.number.get()),
            gateways: BTreeMap::new(),
            marks: Cell::new(0),
            documents: RefCell::default(),
            in_mesh,
        };
        let all = documents(&bed::base())?;
        all.iter().chain(&case.in_mesh).for_each(|document| case.put(document));
        case.mesh()?.apply(&case.in_mesh)?;
        case.documents.replace(case.in_mesh.clone());
        Ok(case)
    }

    /// The mesh.
    pub(super) fn mesh(&self) -> Result<&Mesh> {
        self.stage.mesh.as_ref().context("there is no mesh")
    }

    /// Sends a request in the mesh, `(NAMESPACE, HOST)`, until its answer is the one that is wanted: nodes are told a
    /// little later than files are written.
    pub(super) async fn in_mesh(&self, (from, to): (&str, &str), request: Req, want: &Want) -> Result<()> {
        let what = format!("{} {} from {from} to {to}", request.method, request.path);
        // One that is answered by chance as it should be would be found sooner or later; twenty in a row are not.
        let once = async || {
            (0..20).try_for_each(|_| {
                let reply = self.mesh()?.send(from, to, &request)?;
                want.check(&reply).with_context(|| format!("answer {reply}"))
            })
        };
        self.soon(once).await.context(what)
    }

    /// Tries again for a while.
    pub(super) async fn soon(&self, once: impl AsyncFn() -> Result<()>) -> Result<()> {
        let until = Instant::now() + SOON;
        loop {
            let outcome = once().await;
            if outcome.is_ok() || Instant::now() > until {
                return outcome;
            }
            sleep(POLL).await;
        }
    }

    /// Writes an object to the cluster, in a namespace of this test alone.
    pub(super) fn put(&self, object: &Value) {
        let mut object = object.clone();
        self.localize(&mut object);
        self.stage.cluster.put(&object);
    }

    /// Namespaces are called differently in the cluster, where all tests are side by side.
    fn localize(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.localize(item)),
            Value::Object(fields) => {
                for (key, value) in fields.iter_mut() {
                    match value {
                        Value::String(name) if key == "namespace" => *name = self.local(name),
                        value => self.localize(value),
                    }
                }
            }
            _ => {}
        }
        let is_namespace = value["kind"] == "Namespace";
        if let Some(Value::String(name)) = value.pointer_mut("/metadata/name").filter(|_| is_namespace) {
            *name = self.local(name);
        }
    }

    /// What was made for a Gateway of `infra`, of a kind.
    pub(super) fn made(&self, kind: &str, gateway: &str) -> Vec<Value> {
        let namespace = self.local("infra");
        let is_one = |it: &Value| {
            it["metadata"]["namespace"] == *namespace && it["metadata"]["labels"][GATEWAY_NAME] == *gateway
        };
        self.stage.cluster.list(kind).into_iter().filter(is_one).collect()
    }

    fn local(&self, namespace: &str) -> String {
        if namespace == "istio-system" { namespace.to_owned() } else { format!("{namespace}{}", self.suffix) }
    }

    /// An object as it stands in the cluster; its name begins with its namespace and a slash.
    pub(super) fn read(&self, kind: &str, name: &str) -> Option<Value> {
        let (namespace, name) = name.split_once('/')?;
        let namespace = if namespace.is_empty() { String::new() } else { self.local(namespace) };
        self.stage.cluster.read(kind, &namespace, name)
    }

    /// Waits until the conditions of `what` are these: `TYPE=STATUS/REASON` each, others may be there. `what` is
    /// `HTTPRoute infra/r` for what all of its parents say, `BackendTLSPolicy infra/p` for all of its ancestors, `Gateway infra/gw`, or `Gateway infra/gw LISTENER`; with a `#`
    /// and a number, for that one parent, or for that listener as many routes are attached.
    pub(crate) async fn must_say(&self, what: &str, conditions: &str) -> Result<()> {
        let until = Instant::now() + SOON;
        loop {
            let found = self.conditions(what);
            let missing = match &found {
                Err(error) => Some(error.to_string()),
                Ok(all) if all.is_empty() => Some("nothing is said".to_owned()),
                Ok(all) => conditions.split(' ').find_map(|want| {
                    let lacks = |one: &BTreeSet<String>| !one.contains(want);
                    all.iter().any(lacks).then(|| format!("{want} is not among {all:?}"))
                }),
            };
            let Some(missing) = missing else { return Ok(()) };
            ensure!(Instant::now() < until, "{what}: {missing}\n{}", self.stage.control.log());
            sleep(POLL).await;
        }
    }

    fn conditions(&self, what: &str) -> Result<Vec<BTreeSet<String>>> {
        let (what, number) = what.split_once('#').map_or((what, None), |(what, number)| (what, Some(number)));
        let mut words = what.split(' ');
        let (kind, name) = (words.next().context("a kind")?, words.next().context("a name")?);
        let object = self.read(kind, name).with_context(|| format!("there is no {what}"))?;
        let status = &object["status"];
        let generation = &object["metadata"]["generation"];
        let shown = |conditions: &Value| -> BTreeSet<String> {
            let all = conditions.as_array().into_iter().flatten().map(|it| {
                let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
                let late = if it["observedGeneration"] == *generation { "" } else { " (outdated)" };
                format!("{}={}/{}{late}", text("type"), text("status"), text("reason"))
            });
            all.collect()
        };
        if kind.ends_with("Route") || kind.ends_with("Policy") {
            let field = if kind.ends_with("Route") { "parents" } else { "ancestors" };
            let parents = status[field].as_array().cloned().unwrap_or_default();
            let parents = match number {
                Some(number) => parents.get(number.parse::<usize>()?).cloned().into_iter().collect(),
                None => parents,
            };
            return Ok(parents.iter().map(|parent| shown(&parent["conditions"])).collect());
        }
        let Some(listener) = words.next() else { return Ok(vec![shown(&status["conditions"])]) };
        let all = status["listeners"].as_array().cloned().unwrap_or_default();
        let found =
            all.iter().find(|it| it["name"] == *listener).context("no such listener in the status")?;
        let mut conditions = shown(&found["conditions"]);
        conditions.insert(format!("attached={}", found["attachedRoutes"]));
        let kinds = found["supportedKinds"].as_array().cloned().unwrap_or_default();
        let kinds: Vec<_> = kinds.iter().filter_map(|kind| kind["kind"].as_str()).collect();
        conditions.insert(format!("kinds={}", kinds.join(",")));
        Ok(vec![conditions])
    }

    /// Sends a request to a port of a Gateway.
    pub(crate) async fn send(&self, (gateway, port): (&str, u16), request: Req) -> Result<Reply> {
        let io = self.connect((gateway, port), request.tls.as_ref(), request.h2).await?;
        let host = request.host.clone().unwrap_or_else(|| "example.com".to_owned());
        let request = Req { host: Some(host), ..request };
        if request.h2 { h2(io, &request).await } else { h1(io, &request).await }
    }

    /// A connection to a port of a Gateway.
    pub(crate) async fn connect(
        &self,
        (gateway, port): (&str, u16),
        tls: Option<&Tls>,
        h2: bool,
    ) -> Result<Box<dyn Stream>> {
        let running = self.gateways.get(gateway).with_context(|| format!("no Gateway {gateway}"))?;
        let port = running.ports.get(&port).with_context(|| format!("no port {port}"))?;
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await.context("the gateway's port")?;
        // What was reset already says so when it is used.
        let _ = tcp.set_nodelay(true);
        Ok(match tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(tls::open(tcp, self.stage.authority.pem(), tls, h2).await?),
        })
    }

    /// Where a port of a Gateway takes datagrams.
    pub(crate) fn datagram_address(&self, (gateway, port): (&str, u16)) -> Result<SocketAddr> {
        let running = self.gateways.get(gateway).with_context(|| format!("no Gateway {gateway}"))?;
        let port = running.ports.get(&port).with_context(|| format!("no port {port}"))?;
        Ok((Ipv4Addr::LOCALHOST, *port).into())
    }

    /// A certificate for a client, of our authority or of the other one.
    pub(crate) fn certificate(&self, is_ours: bool) -> Result<(String, String)> {
        let of = if is_ours { &self.stage.authority } else { &self.stage.strangers };
        let pair = of.issue(&["client.example"])?;
        Ok((pair.certificate, pair.key))
    }

    /// Sends a request and looks at what comes of it.
    pub(super) async fn ask(&self, at: (&str, u16), request: Req, want: &Want) -> Result<()> {
        let request = request.mark(&self.mark());
        let reply = self.send(at, request).await.with_context(|| self.said(at.0))?;
        want.check(&reply).with_context(|| format!("answer {reply}\n{}", self.said(at.0)))
    }

    /// Something that no other request is marked with.
    pub(crate) fn mark(&self) -> String {
        self.marks.set(self.marks.get() + 1);
        format!("case{}#{}", self.suffix, self.marks.get())
    }

    /// What origins have seen of requests with this mark.
    pub(crate) fn seen(&self, mark: &str) -> Vec<Seen> {
        self.stage.origin.seen(|seen| seen.header("user-agent").as_deref() == Some(mark))
    }

    /// How many of `count` requests each pod has answered.
    pub(crate) async fn shares(
        &self,
        at: (&str, u16),
        count: u32,
        request: Req,
    ) -> Result<BTreeMap<String, u32>> {
        let mut shares = BTreeMap::new();
        for _ in 0..count {
            let reply = self.send(at, request.clone()).await?;
            let who = if reply.status == 200 { reply.pod() } else { reply.status.to_string() };
            *shares.entry(who).or_default() += 1;
        }
        Ok(shares)
    }

    /// Writes an object over what there is of it, for the gateways and for the cluster.
    pub(crate) fn rewrite(&self, yaml: &str) -> Result<()> {
        documents(&self.stage.expand(yaml)?)?.iter().try_for_each(|document| {
            self.put(document);
            let kept = self
                .documents
                .borrow_mut()
                .iter_mut()
                .find(|it| is_same(it, document))
                .map(|it| it.clone_from(document));
            kept.context("there is no such object to write over")
        })?;
        if let Some(mesh) = self.stage.mesh.as_ref().filter(|_| !self.in_mesh.is_empty()) {
            mesh.apply(&self.documents.borrow())?;
        }
        let text: Vec<_> = self.documents.borrow().iter().map(Value::to_string).collect();
        self.gateways.values().try_for_each(|it| it.process.write("all.yaml", &text.join("\n---\n")))
    }

    /// Sends a request until its answer is the one that is wanted.
    pub(crate) async fn until(&self, at: (&str, u16), request: Req, want: &Want) -> Result<()> {
        self.soon(async || self.ask(at, request.clone(), want).await).await
    }

    /// Waits until nobody listens at a port.
    pub(crate) async fn until_closed(&self, at: (&str, u16)) -> Result<()> {
        let until = Instant::now() + SOON;
        while self.connect(at, None, false).await.is_ok() {
            ensure!(Instant::now() < until, "somebody listens at {at:?}");
            sleep(POLL).await;
        }
        Ok(())
    }

    fn said(&self, gateway: &str) -> String {
        self.gateways.get(gateway).map(|it| it.process.said()).unwrap_or_default()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        // A mesh that does not forget fails the tests that follow.
        let _ = self.mesh().map(|mesh| mesh.remove(&self.in_mesh));
    }
}

impl Stage {
    /// `SECRET(NAMESPACE NAME HOST…)` is a Secret with a certificate for these hosts, `MANUAL` an EndpointSlice that a user
    /// has written, of pod `v2` for Service `manual`, `TARGET` the port of the pods, `TLS-PORT` that where they speak TLS,
    /// `MUTUAL-PORT` that where clients have to show a certificate of our authority, `OUR-CA` and `OTHER-CA` what
    /// a ConfigMap holds that has an authority.
    fn expand(&self, yaml: &str) -> Result<String> {
        let mut out = String::new();
        let mut rest = yaml;
        while let Some((before, after)) = rest.split_once("SECRET(") {
            let (words, after) = after.split_once(')').context("a closing bracket")?;
            let words: Vec<_> = words.split(' ').collect();
            let [namespace, name, hosts @ ..] = words.as_slice() else { bail!("namespace and name") };
            let secret = tls::secret(name, &self.authority.issue(hosts)?, None);
            out.push_str(before);
            out.push_str(&secret.replace("namespace: istio-system", &format!("namespace: {namespace}")));
            rest = after;
        }
        out.push_str(rest);
        let slice = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: manual, namespace: infra, labels: \
             {{kubernetes.io/service-name: manual}}}}, addressType: IPv4, ports: [{{name: http, port: {}}}], endpoints: [{{addresses: [{}], \
             conditions: {{ready: true}}}}]}}",
            self.pods,
            own_ip(102)
        );
        let map = |authority: &tls::Authority| json!({"ca.crt": authority.pem()}).to_string();
        let out = out.replace("OUR-CA", &map(&self.authority)).replace("OTHER-CA", &map(&self.strangers));
        let [open, mutual] = self.sealed.map(|port| port.to_string());
        let out = out.replace("TLS-PORT", &open).replace("MUTUAL-PORT", &mutual);
        Ok(out.replace("MANUAL", &slice).replace("TARGET", &self.pods.to_string()))
    }
}

/// Leads to the process of a Gateway.
fn service(namespace: &str, name: &str, ports: &BTreeMap<u16, u16>) -> Value {
    let ports = ports.iter().flat_map(|(port, target)| {
        let of = |letter: char, protocol: &str| {
            json!({"name": format!("{letter}{port}"), "port": port, "targetPort": target, "protocol": protocol})
        };
        [of('p', "TCP"), of('u', "UDP")]
    });
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"gateway.networking.k8s.io/gateway-name": name}, "ports": ports.collect::<Vec<_>>(),
            "externalIPs": ["192.0.2.1"],
        },
    })
}

/// Says its name to whoever sends something.
async fn answer_datagrams(name: String, socket: UdpSocket) {
    let mut buffer = [0; 64];
    // An error is about an answer that could not be delivered.
    loop {
        if let Ok((_, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(name.as_bytes(), from).await;
        }
    }
}

fn is_same(one: &Value, other: &Value) -> bool {
    let parts = |it: &Value| {
        (it["kind"].clone(), it["metadata"]["namespace"].clone(), it["metadata"]["name"].clone())
    };
    parts(one) == parts(other)
}

fn documents(yaml: &str) -> Result<Vec<Value>> {
    let all = serde_yaml_ng::Deserializer::from_str(yaml).map(Value::deserialize);
    let all: Vec<_> = all.collect::<Result<_, _>>().with_context(|| yaml.to_owned())?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

/// Namespace, name, and last part of the address.
const PODS: &[(&str, &str, u8)] = &[
    ("infra", "v1", 101),
    ("infra", "v2", 102),
    ("infra", "v3", 103),
    ("web", "w1", 111),
    ("web", "w2", 112),
    ("app", "a1", 121),
];
/// Ports that Gateways of tests may have.
const PORTS: [u16; 9] = [80, 81, 443, 8080, 8090, 8443, 9000, 9001, 9002];
/// Kinds of the Gateway API: name, plural, and whether it lives in namespaces.
const KINDS: &[(&str, &str, bool)] = &[
    ("GatewayClass", "gatewayclasses", false),
    ("Gateway", "gateways", true),
    ("ListenerSet", "listenersets", true),
    ("HTTPRoute", "httproutes", true),
    ("GRPCRoute", "grpcroutes", true),
    ("TLSRoute", "tlsroutes", true),
    ("TCPRoute", "tcproutes", true),
    ("UDPRoute", "udproutes", true),
    ("ReferenceGrant", "referencegrants", true),
    ("BackendTLSPolicy", "backendtlspolicies", true),
];
/// What is made for a Gateway has its name in this label.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const POLL: Duration = Duration::from_millis(50);
/// How long processes may take to be ready, on a busy machine.
const START: Duration = Duration::from_secs(30);
/// How long a status may take.
const SOON: Duration = Duration::from_secs(15);
