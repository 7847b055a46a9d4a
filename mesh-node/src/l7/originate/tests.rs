use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use mesh_core::model::{Snapshot, Workload};
use mesh_core::resource::Material;
use mesh_core::route::ClusterRef;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::super::cluster::Cluster;
use super::super::engine::Engine;
use super::super::shared::Shared;
use super::super::site::{Facts, LocalBoxFuture};
use super::super::tests::{ask, engine, get, run, snapshot};
use super::*;
use crate::report::{ReportOptions, Reporter};
use crate::run::tasks;
use crate::tls::pki::{Kind, Leaf, Pki, params};

/// Dials what it is told to, and has Secrets.
struct Direct {
    key: Arc<str>,
    secrets: RefCell<HashMap<&'static str, Arc<Secret>>>,
}

impl Client for Direct {
    fn reads_files(&self) -> bool {
        true
    }

    fn key(&self) -> &Arc<str> {
        &self.key
    }

    fn workload(&self, _: &Snapshot) -> Option<Arc<Workload>> {
        None
    }

    fn secret(&self, _: &Snapshot, name: &str) -> Option<Arc<Secret>> {
        self.secrets.borrow().get(name).cloned()
    }

    fn dial<'a>(&'a self, to: &'a Dial<'a>) -> LocalBoxFuture<'a, Result<Dialled, DialError>> {
        Box::pin(async move {
            let tcp = TcpStream::connect(to.endpoint.addr).await;
            let tcp = tcp.map_err(|error| DialError::Connect(error.to_string()))?;
            Ok(Dialled { io: Io::Tcp(tcp), encrypted: false, held: None })
        })
    }
}

/// A server, as it differs from one test to the next.
#[derive(Default)]
struct Origin {
    alpn: Vec<Vec<u8>>,
    /// Who clients must be certified by.
    clients: Option<CertificateAuthority>,
    versions: Option<&'static SupportedProtocolVersion>,
}

type CertificateAuthority = Vec<rustls_pki_types::CertificateDer<'static>>;

/// What a server has seen of a client: the name it asked for, the protocol, whether it has shown a certificate.
type Seen = Result<(Option<String>, Option<Vec<u8>>, bool), String>;

impl Origin {
    fn config(self, leaf: &Leaf) -> Arc<ServerConfig> {
        let versions = self.versions.map_or_else(|| vec![&TLS13, &TLS12], |one| vec![one]);
        let builder =
            ServerConfig::builder_with_provider(provider()).with_protocol_versions(&versions).unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let mut store = RootCertStore::empty();
                store.add_parsable_certificates(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(leaf.chain(), leaf.private_key()).unwrap();
        config.alpn_protocols = self.alpn;
        Arc::new(config)
    }

    /// Serves; says of each connection what was seen of it.
    async fn serve(self, leaf: &Leaf) -> (SocketAddr, tokio::sync::mpsc::Receiver<Seen>) {
        let acceptor = TlsAcceptor::from(self.config(leaf));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, seen) = tokio::sync::mpsc::channel(16);
        tasks::spawn_local("origin", async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let accepted = acceptor.accept(tcp).await;
                let mut io = match accepted {
                    Ok(io) => io,
                    Err(error) => {
                        let _ = sender.send(Err(error.to_string())).await;
                        continue;
                    }
                };
                let tls = io.get_ref().1;
                let shown = tls.peer_certificates().is_some();
                let facts =
                    (tls.server_name().map(str::to_owned), tls.alpn_protocol().map(<[u8]>::to_vec), shown);
                let _ = sender.send(Ok(facts)).await;
                let _ = io.write_all(b"hello").await;
                let _ = io.shutdown().await;
            }
        });
        (addr, seen)
    }
}

/// The engine with a rule for `db.shop.svc.cluster.local` at one address.
struct Bed {
    client: Rc<Direct>,
    engine: Rc<Engine>,
    /// `{dir}` of rules.
    directory: TempDir,
    config: watch::Sender<Arc<Snapshot>>,
    addr: SocketAddr,
}

impl Bed {
    fn new(addr: SocketAddr, tls: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client = Rc::new(Direct { key: "edge".into(), secrets: RefCell::default() });
        let (config, snapshots) = watch::channel(rules(addr, &directory, tls));
        let reporter = Reporter::new(ReportOptions::default(), Box::new(std::io::sink())).unwrap();
        let engine =
            Engine::new(Rc::clone(&client) as _, reporter, Arc::new(Shared::default()), snapshots, 7);
        Self { client, engine, directory, config, addr }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn put(&self, name: &'static str, secret: Secret) {
        self.client.secrets.borrow_mut().insert(name, Arc::new(secret));
    }

    fn cluster(&self) -> Rc<Cluster> {
        let to = ClusterRef { host: "db.shop.svc.cluster.local".into(), subset: None, port: Some(443) };
        self.engine.cluster(&to, 443).unwrap()
    }

    async fn dial(&self, http2: bool) -> Result<Dialled, DialError> {
        let cluster = self.cluster();
        let member = Rc::clone(&cluster.members()[0]);
        let speaks = if http2 { Speaks::Http2 } else { Speaks::Http1 };
        self.engine.dial(&cluster, &member, (speaks, None), &facts()).await
    }

    /// What a connection comes to.
    async fn hear(&self) -> Result<String, String> {
        let mut dialled = self.dial(false).await.map_err(|error| match error {
            DialError::Tls(why) => why,
            other => panic!("{other:?}"),
        })?;
        let mut heard = String::new();
        dialled.io.read_to_string(&mut heard).await.map_err(|error| error.to_string())?;
        Ok(heard)
    }
}

fn facts() -> Facts {
    Facts::stranger("10.1.2.3:4567".parse().unwrap(), Some("10.1.2.4:80".parse().unwrap()))
}

fn rules(addr: SocketAddr, directory: &TempDir, tls: &str) -> Arc<Snapshot> {
    let tls = tls.replace("{dir}", directory.path().to_str().unwrap());
    let policy = format!("connectionPool: {{tcp: {{connectTimeout: 2s}}}}, tls: {{{tls}}}");
    snapshot(&yaml("db", addr, &policy))
}

/// A service with one endpoint, and what a DestinationRule says of it.
fn yaml(name: &str, addr: SocketAddr, policy: &str) -> String {
    let port = if name == "db" { 443 } else { 80 };
    let (to, ip) = (addr.port(), addr.ip());
    format!(
        "
{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{clusterIP: 10.0.0.1, selector: {{app: {name}}}, ports: [{{name: http, port: {port}, targetPort: web}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: {name}-1, namespace: shop, labels: {{app: {name}}}}}, spec: {{containers: [{{name: a, image: a, ports: [{{name: web, containerPort: {to}}}]}}]}}, status: {{podIP: {ip}}}}}
---
{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, namespace: shop}}, spec: {{host: {name}.shop.svc.cluster.local, trafficPolicy: {{{policy}}}}}}}
"
    )
}

fn secret(certificate: Option<&Leaf>, ca: Option<&str>) -> Secret {
    let material = |text: &str| Material::new(text.as_bytes());
    Secret {
        certificate: certificate.map(|leaf| material(&leaf.certificate)),
        key: certificate.map(|leaf| material(&leaf.key)),
        ca: ca.map(material),
        ..Secret::default()
    }
}

fn roots(pki: &Pki) -> CertificateAuthority {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::pem_slice_iter(pki.pem().as_bytes()).map(Result::unwrap).collect()
}

const SIMPLE: &str = "mode: SIMPLE, caCertificates: '{dir}/ca.pem'";

#[test]
fn a_server_is_spoken_to_if_its_certificate_is_good() {
    run(async {
        let (pki, other) = (Pki::new("root"), Pki::new("other"));
        let mut expired = params(&["db.shop.svc.cluster.local"]);
        expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let mut uri = params(&[]);
        let name = "spiffe://cluster.local/ns/a/sa/b".try_into().unwrap();
        uri.subject_alt_names.push(rcgen::SanType::URI(name));
        let names = |names: &str| format!("{SIMPLE}, subjectAltNames: ['{names}']");
        for (tls, leaf, expected) in [
            (SIMPLE.to_owned(), pki.leaf(&["db.shop.svc.cluster.local"]), Ok("hello")),
            (SIMPLE.to_owned(), pki.leaf(&["*.shop.svc.cluster.local"]), Ok("hello")),
            (SIMPLE.to_owned(), other.leaf(&["db.shop.svc.cluster.local"]), Err("UnknownIssuer")),
            (
                SIMPLE.to_owned(),
                pki.leaf(&["x.example"]),
                Err("not valid for name \"db.shop.svc.cluster.local\""),
            ),
            (SIMPLE.to_owned(), pki.made(Kind::Ecdsa, expired), Err("Expired")),
            (format!("{SIMPLE}, sni: x.example"), pki.leaf(&["x.example"]), Ok("hello")),
            (
                format!("{SIMPLE}, sni: x.example"),
                pki.leaf(&["db.shop.svc.cluster.local"]),
                Err("\"x.example\""),
            ),
            (names("y.example"), pki.leaf(&["y.example"]), Ok("hello")),
            (
                names("y.example"),
                pki.leaf(&["db.shop.svc.cluster.local"]),
                Err("none of the subjectAltNames"),
            ),
            (names("*.deep.example"), pki.leaf(&["a.b.deep.example"]), Ok("hello")),
            (names("*.deep.example"), pki.leaf(&["deep.example"]), Err("none of the subjectAltNames")),
            (names("*.deep.example"), pki.leaf(&["a.shallowdeep.example"]), Err("subjectAltNames")),
            (names("127.0.0.1"), pki.leaf(&["127.0.0.1"]), Ok("hello")),
            (names("spiffe://cluster.local/ns/a/sa/b"), pki.made(Kind::Ecdsa, uri), Ok("hello")),
            ("mode: SIMPLE, insecureSkipVerify: true".to_owned(), other.leaf(&["x.example"]), Ok("hello")),
            ("mode: SIMPLE".to_owned(), pki.leaf(&["db.shop.svc.cluster.local"]), Err("UnknownIssuer")),
        ] {
            for version in [&TLS12, &TLS13] {
                let origin = Origin { versions: Some(version), ..Origin::default() };
                let (addr, _seen) = origin.serve(&leaf).await;
                let bed = Bed::new(addr, &tls);
                bed.write("ca.pem", &pki.pem());
                match (bed.hear().await, expected) {
                    (Ok(heard), Ok(expected)) => assert_eq!(heard, expected),
                    (Err(why), Err(expected)) => {
                        assert!(why.contains(expected), "{tls}: {why}");
                        assert!(why.contains(&addr.to_string()), "{why}");
                    }
                    (heard, _) => panic!("{tls}: {heard:?}"),
                }
            }
        }
    });
}

#[test]
fn a_certificate_that_is_its_own_authority_is_good_if_it_is_named() {
    run(async {
        let mut own = params(&["db.shop.svc.cluster.local"]);
        own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = Leaf { certificate: own.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
        let (addr, _seen) = Origin::default().serve(&leaf).await;
        let bed = Bed::new(addr, SIMPLE);
        bed.write("ca.pem", &leaf.certificate);
        assert_eq!(bed.hear().await.unwrap(), "hello");
        let bed = Bed::new(addr, SIMPLE);
        bed.write("ca.pem", &Pki::new("root").pem());
        bed.hear().await.unwrap_err();
    });
}

#[test]
fn what_is_revoked_is_refused() {
    run(async {
        let pki = Pki::new("root");
        let mut params = params(&["db.shop.svc.cluster.local"]);
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[7, 7]));
        let (addr, _seen) = Origin::default().serve(&pki.made(Kind::Ecdsa, params)).await;
        for (serial, works) in [(&[7, 7], false), (&[7, 8], true)] {
            let bed = Bed::new(addr, &format!("{SIMPLE}, caCrl: '{{dir}}/crl.pem'"));
            bed.write("ca.pem", &pki.pem());
            let why = bed.hear().await.unwrap_err();
            assert!(why.contains("/crl.pem"), "{why}");
            let bed = Bed::new(addr, &format!("{SIMPLE}, caCrl: '{{dir}}/crl.pem'"));
            bed.write("ca.pem", &pki.pem());
            bed.write("crl.pem", &pki.crl(serial));
            assert_eq!(bed.hear().await.is_ok(), works);
        }
    });
}

#[test]
fn the_server_hears_the_name_the_protocol_and_the_certificate() {
    run(async {
        let (pki, clients) = (Pki::new("root"), Pki::new("clients"));
        let leaf = pki.leaf(&["db.shop.svc.cluster.local", "x.example", "127.0.0.1"]);
        let mutual = format!(
            "{}, clientCertificate: '{{dir}}/c.crt', privateKey: '{{dir}}/c.key'",
            SIMPLE.replace("SIMPLE", "MUTUAL")
        );
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        for (tls, http2, name) in [
            (SIMPLE.to_owned(), false, Some("db.shop.svc.cluster.local")),
            (SIMPLE.to_owned(), true, Some("db.shop.svc.cluster.local")),
            (format!("{SIMPLE}, sni: x.example"), false, Some("x.example")),
            (format!("{SIMPLE}, sni: 127.0.0.1"), false, None),
            (mutual, true, Some("db.shop.svc.cluster.local")),
        ] {
            let shows = tls.contains("MUTUAL");
            let clients_ca = shows.then(|| roots(&clients));
            let origin = Origin { alpn: vec![h2.clone(), h1.clone()], clients: clients_ca, versions: None };
            let (addr, mut seen) = origin.serve(&leaf).await;
            let bed = Bed::new(addr, &tls);
            bed.write("ca.pem", &pki.pem());
            let own = clients.leaf(&["me"]);
            bed.write("c.crt", &own.certificate);
            bed.write("c.key", &own.key);
            let dialled = bed.dial(http2).await.unwrap();
            assert!(!dialled.encrypted, "the other end is nobody of the mesh");
            let protocol = if http2 { h2.clone() } else { h1.clone() };
            let expected = (name.map(str::to_owned), Some(protocol), shows);
            assert_eq!(seen.recv().await.unwrap().unwrap(), expected, "{tls}");
        }
    });
}

#[test]
fn http2_is_spoken_only_with_who_agrees_to() {
    run(async {
        let pki = Pki::new("root");
        for alpn in [vec![], vec![b"http/1.1".to_vec()]] {
            let origin = Origin { alpn, ..Origin::default() };
            let (addr, _seen) = origin.serve(&pki.leaf(&["db.shop.svc.cluster.local"])).await;
            let bed = Bed::new(addr, SIMPLE);
            bed.write("ca.pem", &pki.pem());
            assert!(matches!(bed.dial(true).await, Err(DialError::Tls(_))));
            bed.hear().await.unwrap();
        }
    });
}

#[test]
fn who_has_no_certificate_is_refused_by_who_wants_one() {
    run(async {
        let pki = Pki::new("root");
        for version in [&TLS12, &TLS13] {
            let origin = Origin { clients: Some(roots(&pki)), versions: Some(version), ..Origin::default() };
            let (addr, mut seen) = origin.serve(&pki.leaf(&["db.shop.svc.cluster.local"])).await;
            let bed = Bed::new(addr, SIMPLE);
            bed.write("ca.pem", &pki.pem());
            bed.hear().await.unwrap_err();
            seen.recv().await.unwrap().unwrap_err();
        }
    });
}

#[test]
fn secrets_are_used_and_followed_and_what_is_missing_is_named() {
    run(async {
        let (pki, clients) = (Pki::new("root"), Pki::new("clients"));
        let origin = Origin { clients: Some(roots(&clients)), ..Origin::default() };
        let (addr, mut seen) = origin.serve(&pki.leaf(&["db.shop.svc.cluster.local"])).await;
        let bed = Bed::new(addr, "mode: MUTUAL, credentialName: own");
        let why = bed.hear().await.unwrap_err();
        assert!(why.contains("there is no Secret own"), "{why}");
        bed.put("own", secret(None, Some(&pki.pem())));
        let why = bed.hear().await.unwrap_err();
        assert!(why.contains("the Secret own has no certificate with a key"), "{why}");
        let leaf = clients.leaf(&["me"]);
        bed.put("own", secret(Some(&leaf), None));
        let why = bed.hear().await.unwrap_err();
        assert!(why.contains("the Secret own has no authorities"), "{why}");
        bed.put("own-cacert", secret(None, Some(&pki.pem())));
        assert_eq!(bed.hear().await.unwrap(), "hello");
        let shown = loop {
            // Those before have hung up.
            if let Ok((_, _, shown)) = seen.recv().await.unwrap() {
                break shown;
            }
        };
        assert!(shown);
        bed.put("own-cacert", secret(None, Some(&clients.pem())));
        let why = bed.hear().await.unwrap_err();
        assert!(why.contains("UnknownIssuer"), "{why}");
        bed.client.secrets.borrow_mut().clear();
        assert!(bed.hear().await.unwrap_err().contains("no Secret own"));
        let bed = Bed::new(addr, "mode: SIMPLE, credentialName: 'configmap://roots'");
        assert!(bed.hear().await.unwrap_err().contains("ConfigMap"));
    });
}

#[test]
fn files_are_followed_and_half_a_replacement_changes_nothing() {
    run(async {
        let pki = Pki::new("root");
        let origin = Origin { clients: Some(roots(&pki)), ..Origin::default() };
        let (addr, _seen) = origin.serve(&pki.leaf(&["db.shop.svc.cluster.local"])).await;
        let bed = Bed::new(
            addr,
            "mode: MUTUAL, caCertificates: '{dir}/ca.pem', clientCertificate: '{dir}/c.crt', privateKey: '{dir}/c.key'",
        );
        let why = bed.hear().await.unwrap_err();
        assert!(why.contains("/c.crt"), "{why}");
        let (first, second) = (pki.leaf(&["one"]), pki.leaf(&["two"]));
        bed.write("ca.pem", &pki.pem());
        bed.write("c.crt", &first.certificate);
        bed.write("c.key", &first.key);
        bed.hear().await.unwrap_err();
        let later = async || tokio::time::sleep(LOOK + Duration::from_millis(50)).await;
        later().await;
        assert_eq!(bed.hear().await.unwrap(), "hello");
        bed.write("c.crt", &second.certificate);
        later().await;
        assert_eq!(bed.hear().await.unwrap(), "hello", "the key is still that of the first");
        bed.write("c.key", &second.key);
        bed.write("ca.pem", &Pki::new("other").pem());
        later().await;
        assert!(bed.hear().await.unwrap_err().contains("UnknownIssuer"));
    });
}

#[test]
fn the_mesh_s_own_tls_is_not_replaced_by_none() {
    run(async {
        let (addr, _seen) =
            Origin::default().serve(&Pki::new("root").leaf(&["db.shop.svc.cluster.local"])).await;
        let bed = Bed::new(addr, "mode: ISTIO_MUTUAL");
        let why = bed.hear().await.unwrap_err();
        assert!(why.contains("mutual TLS of the mesh") && why.contains(&addr.to_string()), "{why}");
        let bed = Bed::new(addr, "mode: DISABLE");
        assert!(matches!(bed.dial(false).await.unwrap().io, Io::Tcp(_)));
    });
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bed = Bed::new(listener.local_addr().unwrap(), "mode: SIMPLE, insecureSkipVerify: true");
        let why = bed.hear().await.unwrap_err();
        assert!(why.contains("within 2s"), "{why}");
    });
}

#[test]
fn connections_under_other_rules_are_not_used_again() {
    run(async {
        let pki = Pki::new("root");
        let (addr, _seen) = Origin::default().serve(&pki.leaf(&["db.shop.svc.cluster.local"])).await;
        let bed = Bed::new(addr, SIMPLE);
        let first = bed.cluster();
        let apply = |tls: &str| bed.config.send_replace(rules(bed.addr, &bed.directory, tls));
        apply(SIMPLE);
        let same = bed.cluster();
        assert!(Rc::ptr_eq(&first.origination, &same.origination));
        assert!(Rc::ptr_eq(&first.members()[0], &same.members()[0]));
        apply("mode: SIMPLE, insecureSkipVerify: true");
        let changed = bed.cluster();
        assert!(!Rc::ptr_eq(&same.origination, &changed.origination));
        assert!(!Rc::ptr_eq(&same.members()[0], &changed.members()[0]));
    });
}

/// Serves one request on each connection, and says what came before TLS.
async fn web(leaf: &Leaf, http2: bool, announced: bool) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let alpn = if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() };
    let acceptor = TlsAcceptor::from(Origin { alpn: vec![alpn], ..Origin::default() }.config(leaf));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (sender, before) = tokio::sync::mpsc::channel(16);
    tasks::spawn_local("origin", async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut line = Vec::new();
            while announced && line.last() != Some(&b'\n') {
                line.push(tcp.read_u8().await.unwrap());
            }
            let _ = sender.send(String::from_utf8(line).unwrap()).await;
            let Ok(io) = acceptor.accept(tcp).await else { continue };
            if http2 {
                tasks::spawn_local("http/2", answer_http2(io));
            } else {
                tasks::spawn_local("http/1", answer_http1(io));
            }
        }
    });
    (addr, before)
}

async fn answer_http2(io: tokio_rustls::server::TlsStream<TcpStream>) {
    let mut connection = h2::server::handshake(io).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
        stream.send_data("secret".into(), true).unwrap();
    }
}

async fn answer_http1(mut io: tokio_rustls::server::TlsStream<TcpStream>) {
    let mut input = [0; 4096];
    while io.read(&mut input).await.is_ok_and(|read| read > 0) {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
        io.write_all(answer).await.unwrap();
    }
}

#[test]
fn requests_travel_in_tls_and_fail_as_in_envoy_where_there_is_none() {
    run(async {
        let pki = Pki::new("root");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, pki.pem()).unwrap();
        let tls = format!("tls: {{mode: SIMPLE, caCertificates: '{}'}}", path.display());
        // The host of the requests, which is also the name that is checked.
        let leaf = pki.leaf(&["web"]);
        for http2 in [false, true] {
            let upgrade = if http2 { "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}, " } else { "" };
            let (addr, mut connections) = web(&leaf, http2, false).await;
            let (edge, _config) = engine(&yaml("web", addr, &format!("{upgrade}{tls}"))).await;
            for _ in 0..2 {
                let answer = ask(edge, &get("/", "")).await;
                assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("secret"), "{answer}");
            }
            connections.recv().await.unwrap();
            assert!(connections.try_recv().is_err(), "one connection for both");
        }
        for refused in [Pki::new("other").leaf(&["web"]), pki.leaf(&["web.shop.svc.cluster.local"])] {
            let (addr, _connections) = web(&refused, false, false).await;
            let (edge, _config) = engine(&yaml("web", addr, &tls)).await;
            let answer = ask(edge, &get("/", "")).await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("reset reason:"), "{answer}");
        }
    });
}

#[test]
fn the_client_is_announced_before_tls_and_connections_are_not_shared() {
    run(async {
        let leaf = Pki::new("root").leaf(&["web"]);
        let policy = "proxyProtocol: {version: V1}, tls: {mode: SIMPLE, insecureSkipVerify: true}";
        for http2 in [false, true] {
            let upgrade = if http2 { "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}, " } else { "" };
            let (addr, mut connections) = web(&leaf, http2, true).await;
            let (edge, _config) = engine(&yaml("web", addr, &format!("{upgrade}{policy}"))).await;
            let mut lines = Vec::new();
            for _ in 0..2 {
                let answer = ask(edge, &get("/", "")).await;
                assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("secret"), "{answer}");
                lines.push(connections.recv().await.unwrap());
            }
            assert!(lines[0].starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{lines:?}");
            assert_ne!(lines[0], lines[1], "each has its own port");
        }
    });
}
