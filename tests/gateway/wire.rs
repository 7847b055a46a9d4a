//! A gateway under a control plane of its own process: it gets the keys of its namespace, and nobody else does.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::http::{Request, fetch};

use crate::pki::Pki;
use crate::process::{Gateway, HTTPS, Source, beside, https, manifest, own_address, wait};

/// A control plane over a directory, which ends with the value.
struct Plane {
    child: Child,
    address: std::net::Ipv4Addr,
    directory: tempfile::TempDir,
}

impl Plane {
    fn start(files: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (config, address) = (directory.path().join("config"), own_address());
        std::fs::create_dir(&config)?;
        for (name, text) in files.iter().chain(&[("pod.yaml", POD)]) {
            std::fs::write(config.join(name), text)?;
        }
        let log = std::fs::File::create(directory.path().join("log"))?;
        let mut command = Command::new(beside("mesh-control")?);
        command.arg("--config").arg(&config).arg("--state").arg(directory.path().join("state"));
        for (option, port) in [("--grpc", 15012), ("--plain", 15010), ("--monitoring", 15014)] {
            command.args([option, &SocketAddr::from((address, port)).to_string()]);
        }
        command.args(["--serve-as", &address.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        let plane = Self { child, address, directory };
        let monitoring = SocketAddr::from((address, 15014));
        let ready = || {
            let answer = fetch(monitoring, &Request::get("/healthz/ready"), Duration::from_secs(5));
            answer.is_ok_and(|answer| answer.status == 200)
        };
        wait(Duration::from_secs(10), ready).with_context(|| plane.log())?;
        Ok(plane)
    }

    /// What a gateway has to know to join as `terms` say.
    fn source(&self, terms: &[&str]) -> Result<Source> {
        let mut command = Command::new(beside("mesh-control")?);
        command.args(["join", "create"]).args(terms).arg("--state").arg(self.directory.path().join("state"));
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Source::Control {
            url: format!("https://{}:15012", self.address),
            roots: std::fs::read_to_string(self.directory.path().join("state/ca/root-cert.pem"))?,
            token: String::from_utf8(output.stdout)?,
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let fresh = self.directory.path().join("fresh");
        std::fs::write(&fresh, text)?;
        std::fs::rename(fresh, self.directory.path().join("config").join(name)).context("the configuration")
    }

    /// What a metric of the control plane says.
    fn metric(&self, name: &str) -> Result<u64> {
        let monitoring = SocketAddr::from((self.address, 15014));
        let answer = fetch(monitoring, &Request::get("/metrics"), Duration::from_secs(5))?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).with_context(|| format!("{name} is not in {text}"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

const HOST: &str = "a.shop.test";
/// The pod of the gateway, as far as the control plane can know of it.
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: { name: istio-ingressgateway, namespace: istio-system, labels: { istio: ingressgateway } }\n\
     spec: { containers: [{ name: istio-proxy, image: mesh }] }\n";
const SOON: Duration = Duration::from_secs(5);

#[test]
fn keys_come_over_the_wire_to_who_has_proven_to_be_a_gateway_there() -> Result<()> {
    let pki = Pki::new("ours");
    let first = pki.leaf(HOST);
    let servers = https("a", HOST, "mode: SIMPLE, credentialName: shop");
    let plane =
        Plane::start(&[("gateway.yaml", &manifest(&servers)), ("secret.yaml", &first.secret("shop", None))])?;
    let ours = plane.source(&["--identity", "spiffe://cluster.local/ns/istio-system/sa/default"])?;
    let gateway = Gateway::under(&ours)?;
    gateway.put("ca.crt", &pki.pem())?;
    let ca = gateway.file("ca.crt").display().to_string();
    let ask = || gateway.curl(HOST, HTTPS, &["--cacert", &ca]);
    wait(SOON, || ask().is_ok_and(|answer| answer.status == 404)).with_context(|| gateway.log())?;
    // Rotation comes the same way; the other authority tells that it has come.
    let other = Pki::new("other");
    plane.write("secret.yaml", &other.leaf(HOST).secret("shop", None))?;
    gateway.put("other.crt", &other.pem())?;
    let other = gateway.file("other.crt").display().to_string();
    wait(SOON, || gateway.curl(HOST, HTTPS, &["--cacert", &other]).is_ok_and(|answer| answer.exit == 0))?;
    // It has an identity of its own besides, and has written no key of others to its disk.
    wait(SOON, || gateway.dump().is_ok_and(|dump| dump["certificates"].to_string().contains("\"Valid\"")))?;
    let line = first.key.lines().nth(1).context("a key")?;
    for file in gateway.state_files()? {
        let bytes = std::fs::read(&file)?;
        ensure!(!String::from_utf8_lossy(&bytes).contains(line), "{} has the key", file.display());
    }
    ensure!(!gateway.log().contains(line) && !plane.log().contains(line));
    Ok(())
}

/// Whose name nobody resolves: its address is what Kubernetes tells pods of the service's namespace, and its certificate decides.
#[test]
fn a_control_plane_is_found_without_dns() -> Result<()> {
    let plane = Plane::start(&[("gateway.yaml", &manifest(&https("a", HOST, "mode: ISTIO_MUTUAL")))])?;
    let terms = ["--identity", "spiffe://cluster.local/ns/istio-system/sa/default", "--uses", "2"];
    let Source::Control { roots, token, .. } = plane.source(&terms)? else {
        anyhow::bail!("no control plane")
    };
    let source = |host: &str| Source::Control {
        url: format!("https://{host}:15012"),
        roots: roots.clone(),
        token: token.clone(),
    };
    let told = |name: &str| format!("{name}_SERVICE_HOST={}", plane.address);
    let known = told("MESH_CONTROL");
    let gateway = Gateway::under_by(&source("mesh-control.istio-system.svc"), &["env", &known])?;
    wait(SOON, || gateway.dump().is_ok_and(|dump| dump["certificates"].to_string().contains("\"Valid\"")))?;
    // Somebody else's address is no way in.
    let known = told("OTHER");
    let lost = Gateway::begin_by(&source("other.istio-system.svc"), &["env", &known])?;
    wait(SOON, || lost.log().contains("other.istio-system.svc") || lost.log().contains("lookup"))
        .with_context(|| lost.log())?;
    ensure!(!lost.is_ready(), "it trusts an address");
    Ok(())
}

#[test]
fn others_are_told_nothing() -> Result<()> {
    let servers = https("a", HOST, "mode: SIMPLE, credentialName: shop");
    let secret = Pki::new("ours").leaf(HOST).secret("shop", None);
    let plane = Plane::start(&[("gateway.yaml", &manifest(&servers)), ("secret.yaml", &secret)])?;
    for terms in [
        ["--identity", "spiffe://cluster.local/ns/elsewhere/sa/default"],
        // A node acts for everybody, and is nobody's gateway.
        ["--node", "n1"],
    ] {
        let gateway = Gateway::begin_under(&plane.source(&terms)?)?;
        let refused = || gateway.log().contains("not a gateway of istio-system");
        wait(SOON, refused).with_context(|| gateway.log())?;
        ensure!(!gateway.is_ready(), "it knows nothing");
    }
    Ok(())
}

/// Whoever has another account of the namespace, and whoever is a pod that no Gateway selects, serves nothing, and somebody hears of
/// it. It is told as soon as it is selected.
#[test]
fn keys_are_for_the_gateway_that_names_them_alone() -> Result<()> {
    let pki = Pki::new("ours");
    let servers = https("a", HOST, "mode: SIMPLE, credentialName: shop");
    let secret = pki.leaf(HOST).secret("shop", None);
    let plane = Plane::start(&[("gateway.yaml", &manifest(&servers)), ("secret.yaml", &secret)])?;
    let other = plane.source(&["--identity", "spiffe://cluster.local/ns/istio-system/sa/other"])?;
    let ours = plane.source(&["--identity", "spiffe://cluster.local/ns/istio-system/sa/default"])?;
    plane.write("pod.yaml", &POD.replace("istio: ingressgateway", "app: shop"))?;
    for (source, is_meant) in [(&other, false), (&ours, true)] {
        // It says of itself what would get it the key.
        let gateway = Gateway::under(source)?;
        gateway.put("ca.crt", &pki.pem())?;
        let ca = gateway.file("ca.crt").display().to_string();
        let ask = || gateway.curl(HOST, HTTPS, &["--cacert", &ca]);
        let said = || plane.log().matches("Keys of its namespace are not told to a gateway").count();
        wait(SOON, || said() > 0).with_context(|| plane.log())?;
        ensure!(ask().is_ok_and(|answer| answer.exit != 0), "{}", gateway.log());
        ensure!(plane.metric("mesh_control_keys_withheld_total")? > 0, "nobody counts it");
        plane.write("pod.yaml", POD)?;
        if is_meant {
            wait(SOON, || ask().is_ok_and(|answer| answer.status == 404)).with_context(|| gateway.log())?;
        } else {
            std::thread::sleep(Duration::from_secs(2));
            ensure!(ask().is_ok_and(|answer| answer.exit != 0), "{}", gateway.log());
            plane.write("pod.yaml", &POD.replace("istio: ingressgateway", "app: shop"))?;
        }
    }
    Ok(())
}

#[test]
fn a_gateway_of_the_gateway_api_is_told_what_it_may_use() -> Result<()> {
    let pki = Pki::new("ours");
    let secret = pki.leaf(HOST).secret("shop", None).replace("namespace: istio-system", "namespace: web");
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{ name: istio-ingressgateway, namespace: istio-system }}\nspec:\n  gatewayClassName: ours\n  listeners:\n\
         \x20 - name: https\n    port: {HTTPS}\n    protocol: HTTPS\n    tls: {{ certificateRefs: [{{ name: shop, namespace: web }}] }}\n\
         \x20   allowedRoutes: {{ namespaces: {{ from: Selector, selector: {{ matchLabels: {{ team: web }} }} }} }}\n"
    );
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: moved, namespace: web }\nspec:\n  \
         parentRefs: [{ name: istio-ingressgateway, namespace: istio-system }]\n  \
         rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { statusCode: 308 } }] }]\n";
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: { name: shop, namespace: web }\nspec:\n  \
         from: [{ group: gateway.networking.k8s.io, kind: Gateway, namespace: istio-system }]\n  to: [{ group: '', kind: Secret }]\n";
    let namespace = |team: &str| {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: web, labels: {{ team: {team} }} }}\n")
    };
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: { name: ours }\n\
        spec: { controllerName: istio.io/gateway-controller }\n";
    let plane = Plane::start(&[
        ("class.yaml", class),
        ("gateway.yaml", &gateway),
        ("route.yaml", route),
        ("grant.yaml", grant),
        ("secret.yaml", &secret),
        ("namespace.yaml", &namespace("web")),
    ])?;
    let ours = plane.source(&["--identity", "spiffe://cluster.local/ns/istio-system/sa/default"])?;
    let gateway = Gateway::under(&ours)?;
    gateway.put("ca.crt", &pki.pem())?;
    let ca = gateway.file("ca.crt").display().to_string();
    let ask = || gateway.curl(HOST, HTTPS, &["--cacert", &ca]);
    wait(SOON, || ask().is_ok_and(|answer| answer.status == 308)).with_context(|| gateway.log())?;
    // Namespaces are told by name, and leave takes effect as it is given.
    plane.write("namespace.yaml", &namespace("other"))?;
    wait(SOON, || ask().is_ok_and(|answer| answer.status == 404)).with_context(|| gateway.log())?;
    plane.write("grant.yaml", &grant.replace("kind: Secret", "kind: Service"))?;
    wait(SOON, || ask().is_ok_and(|answer| answer.exit != 0)).with_context(|| gateway.log())?;
    plane.write("grant.yaml", grant)?;
    wait(SOON, || ask().is_ok_and(|answer| answer.exit == 0)).with_context(|| gateway.log())
}
