use std::sync::Arc;
use std::time::Duration;

use mesh_core::model::{CompileOptions, compile};
use mesh_core::own::Sightings;
use mesh_core::resource::{SourceFile, parse};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use super::*;
use crate::gateway::{Doors, compile::Inputs, sockets::Place};
use crate::identity::Options;
use crate::tls::files::Files;
use crate::tls::pki::{Kind, Leaf, Pki, params};
use crate::tls::strangers::provider;
use crate::tls::testkit::TestCa;

/// A gateway with one listener on port 443.
struct Bed {
    directory: TempDir,
    pki: Pki,
    files: Files,
    serving: Arc<Serving>,
    findings: Vec<String>,
}

impl Bed {
    /// A gateway with these servers, of which `{dir}` is where files are.
    fn new(servers: &str, files: &[(&str, &str)]) -> Self {
        Self::with(Pki::new("root"), servers, files)
    }

    /// A gateway that opens nothing yet.
    fn empty() -> Self {
        Self::new(&server("none", "none.example", "mode: PASSTHROUGH"), &[])
    }

    fn with(pki: Pki, servers: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let mut known = Files::default();
        let (serving, findings) = compiled(&directory, servers, &mut known, None);
        Self { directory, pki, files: known, serving, findings }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn put(&self, name: &str, leaf: &Leaf) {
        self.write(&format!("{name}.crt"), &leaf.certificate);
        self.write(&format!("{name}.key"), &leaf.key);
    }

    fn apply(&mut self, servers: &str, goes_on: bool) {
        let before = goes_on.then(|| Arc::clone(&self.serving));
        (self.serving, self.findings) = compiled(&self.directory, servers, &mut self.files, before);
    }

    /// What comes of a client on both sides.
    async fn connect(&self, client: Client<'_>) -> (Result<Greeted, Refused>, Result<Seen, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = client.dial(&self.pki, listener.local_addr().unwrap());
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let greeted = greet(tcp, &self.serving, &nobody()).await.map_err(|refusal| refusal.why);
            if let Ok(Greeted { io: Io::Tls(_), .. }) = &greeted {
                // The client reads until this is closed, to hear an alert that comes late.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            greeted
        };
        let (seen, greeted) = tokio::join!(
            async { tokio::time::timeout(Duration::from_secs(10), dial).await.unwrap() },
            async {
                let mut greeted = accept.await;
                if let Ok(Greeted { io, .. }) = &mut greeted {
                    io.shutdown().await.unwrap();
                }
                greeted
            }
        );
        (greeted, seen)
    }

    async fn sees(&self, client: Client<'_>) -> Result<Seen, String> {
        self.connect(client).await.1
    }
}

/// The certificate of a gateway without any.
fn nobody() -> IdentityStore {
    IdentityStore::new(Arc::new(TestCa::new("mesh")), Options::new(Vec::new()))
}

/// What is served with these servers, and what there is to say about it.
fn compiled(
    directory: &TempDir,
    servers: &str,
    files: &mut Files,
    before: Option<Arc<Serving>>,
) -> (Arc<Serving>, Vec<String>) {
    let servers = servers.replace("{dir}", directory.path().to_str().unwrap());
    let head = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: { name: gw }\n";
    let text = format!("{head}spec:\n  selector: {{ app: gw }}\n  servers:\n{servers}");
    let parsed = parse(&SourceFile { name: "t.yaml", text: &text });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    let snapshot = compile(&parsed.objects, &CompileOptions::default()).snapshot;
    let own = Sightings::of("default", "gw", []).own();
    let place = Place { address: "127.0.0.1:443".parse().unwrap(), udp: false };
    let inputs = Inputs {
        doors: Doors::Gateways,
        snapshot: Arc::new(snapshot),
        own: Arc::new(own),
        addresses: vec!["127.0.0.1".parse().unwrap()],
        before: before.map(|before| (place, before)).into_iter().collect(),
    };
    let mut outcome = inputs.compile(files);
    (outcome.wanted.remove(&place).unwrap(), outcome.findings.into_iter().collect())
}

/// What a client has seen.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    name: String,
    alpn: Option<String>,
    version: rustls::ProtocolVersion,
}

#[derive(Clone, Copy)]
struct Client<'a> {
    sni: Option<&'a str>,
    alpn: &'a [&'a str],
    leaf: Option<&'a Leaf>,
    versions: &'a [&'static SupportedProtocolVersion],
    ciphers: &'a [rustls::SupportedCipherSuite],
}

impl Default for Client<'_> {
    fn default() -> Self {
        Self { sni: Some("a.example"), alpn: &[], leaf: None, versions: rustls::ALL_VERSIONS, ciphers: &[] }
    }
}

impl Client<'_> {
    fn config(&self, pki: &Pki) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let root = Leaf { certificate: pki.pem(), key: String::new() };
        root.chain().into_iter().for_each(|root| roots.add(root).unwrap());
        let mut crypto = CryptoProvider::clone(&provider());
        if !self.ciphers.is_empty() {
            crypto.cipher_suites = self.ciphers.to_vec();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto));
        let builder = builder.with_protocol_versions(self.versions).unwrap().with_root_certificates(roots);
        let mut config = match self.leaf {
            Some(leaf) => builder.with_client_auth_cert(leaf.chain(), leaf.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        config.enable_sni = self.sni.is_some();
        config
    }

    async fn dial(&self, pki: &Pki, to: std::net::SocketAddr) -> Result<Seen, String> {
        let tcp = TcpStream::connect(to).await.unwrap();
        let name = ServerName::try_from(self.sni.unwrap_or("a.example").to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config(pki)));
        let mut stream = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
        // In TLS 1.3 a client hears last of what is wrong with its certificate.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.map_err(|error| error.to_string())?;
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first).unwrap();
        let name = ClientCertificate::read(leaf, true).dns.first().cloned().unwrap_or_default();
        let alpn = session.alpn_protocol().map(|it| String::from_utf8_lossy(it).into_owned());
        Ok(Seen { name, alpn, version: session.protocol_version().unwrap() })
    }
}

fn server(name: &str, host: &str, tls: &str) -> String {
    format!(
        "  - {{ port: {{ number: 443, name: {name}, protocol: HTTPS }}, hosts: [\"{host}\"], tls: {{ {tls} }} }}\n"
    )
}

fn simple(name: &str, host: &str) -> String {
    server(
        name,
        host,
        &format!("mode: SIMPLE, serverCertificate: {{dir}}/{name}.crt, privateKey: {{dir}}/{name}.key"),
    )
}

/// A gateway with a server for `a.example` that asks for certificates of clients.
fn asking(mode: &str, more: &str) -> Bed {
    let pki = Pki::new("root");
    let leaf = pki.leaf(&["a.example"]);
    let tls = format!(
        "mode: {mode}, serverCertificate: {{dir}}/a.crt, privateKey: {{dir}}/a.key, caCertificates: {{dir}}/ca.crt{more}"
    );
    let ca = pki.pem();
    Bed::with(
        pki,
        &server("a", "a.example", &tls),
        &[("a.crt", &leaf.certificate), ("a.key", &leaf.key), ("ca.crt", &ca)],
    )
}

#[tokio::test]
async fn the_server_name_decides_which_certificate_there_is() {
    let mut bed = Bed::empty();
    for (file, name) in [
        ("exact", "a.shop.test"),
        ("wild", "*.shop.test"),
        ("deep", "*.deep.shop.test"),
        ("any", "other.test"),
    ] {
        bed.put(file, &bed.pki.leaf(&[name]));
    }
    let servers =
        [("any", "*"), ("wild", "*.shop.test"), ("exact", "a.shop.test"), ("deep", "*.deep.shop.test")];
    bed.apply(&servers.map(|(name, host)| simple(name, host)).concat(), false);
    assert!(bed.findings.is_empty(), "{:?}", bed.findings);
    for (sni, expected) in [
        ("a.shop.test", "a.shop.test"),
        ("A.Shop.Test", "a.shop.test"),
        ("b.shop.test", "*.shop.test"),
        ("x.deep.shop.test", "*.deep.shop.test"),
        ("other.test", "other.test"),
    ] {
        let client = Client { sni: Some(sni), ..Client::default() };
        assert_eq!(bed.sees(client).await.unwrap().name, expected, "{sni}");
    }
}

#[tokio::test]
async fn nobody_is_served_under_a_name_that_nobody_has() {
    let bed = asking("SIMPLE", "");
    for sni in [Some("b.example"), None] {
        let (greeted, seen) = bed.connect(Client { sni, ..Client::default() }).await;
        assert_eq!(greeted.err(), Some(Refused::ServerName), "{sni:?}");
        assert!(seen.is_err());
    }
}

#[tokio::test]
async fn protocols_are_those_in_common_or_none() {
    let bed = asking("SIMPLE", "");
    for (offered, expected) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
        (&["postgresql"], None),
    ] {
        let (greeted, seen) = bed.connect(Client { alpn: offered, ..Client::default() }).await;
        assert_eq!(seen.unwrap().alpn.as_deref(), expected, "{offered:?}");
        assert_eq!(greeted.unwrap().alpn, expected.and_then(|it| Alpn::of(it.as_bytes())));
    }
}

#[tokio::test]
async fn versions_are_those_that_are_asked_for() {
    use rustls::ProtocolVersion::{TLSv1_2, TLSv1_3};
    use rustls::version::{TLS12, TLS13};
    for (more, version, expected) in [
        ("", &TLS12, Some(TLSv1_2)),
        ("", &TLS13, Some(TLSv1_3)),
        (", minProtocolVersion: TLSV1_3", &TLS12, None),
        (", maxProtocolVersion: TLSV1_2", &TLS13, None),
        (", maxProtocolVersion: TLSV1_2", &TLS12, Some(TLSv1_2)),
    ] {
        let bed = asking("SIMPLE", more);
        let (greeted, seen) = bed.connect(Client { versions: &[version], ..Client::default() }).await;
        assert_eq!(seen.ok().map(|seen| seen.version), expected, "{more} {version:?}");
        assert_eq!(greeted.err(), if expected.is_none() { Some(Refused::Protocol) } else { None });
    }
    let bed = asking("SIMPLE", ", cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384, NOT-A-CIPHER]");
    let remark =
        "Gateway default/gw: port a: the cipher suite \"NOT-A-CIPHER\" is not known here and ignored";
    assert_eq!(bed.findings, [remark]);
    for (cipher, works) in [
        (cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, true),
        (cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false),
        (cipher_suite::TLS13_AES_128_GCM_SHA256, true),
    ] {
        let versions: &[&SupportedProtocolVersion] =
            if cipher.tls13().is_some() { &[&TLS13] } else { &[&TLS12] };
        let client = Client { ciphers: &[cipher], versions, ..Client::default() };
        assert_eq!(bed.sees(client).await.is_ok(), works, "{cipher:?}");
    }
}

#[tokio::test]
async fn clients_show_what_the_mode_asks_for() {
    for (mode, without, stranger, own) in
        [("SIMPLE", true, true, true), ("MUTUAL", false, false, true), ("OPTIONAL_MUTUAL", true, false, true)]
    {
        let bed = asking(mode, "");
        let ours = bed.pki.leaf(&["client.example"]);
        let strangers = Pki::new("strangers").leaf(&["client.example"]);
        for (leaf, works) in [(None, without), (Some(&strangers), stranger), (Some(&ours), own)] {
            let (greeted, seen) = bed.connect(Client { leaf, ..Client::default() }).await;
            assert_eq!((greeted.is_ok(), seen.is_ok()), (works, works), "{mode}");
            if let Err(refused) = &greeted {
                assert_eq!(*refused, Refused::ClientCertificate);
            }
            let client = greeted.ok().and_then(|it| it.client);
            let shown = leaf.is_some() && works && mode != "SIMPLE";
            assert_eq!(client.is_some(), shown, "{mode}");
            if let Some(client) = client {
                assert_eq!(client.dns, ["client.example"]);
                assert!(client.verified);
            }
        }
    }
}

#[tokio::test]
async fn certificates_of_clients_are_held_to_all_that_is_asked_for() {
    let skipped = asking("MUTUAL", ", insecureSkipVerify: true");
    let strangers = Pki::new("strangers").leaf(&["client.example"]);
    let (greeted, seen) = skipped.connect(Client { leaf: Some(&strangers), ..Client::default() }).await;
    assert!(seen.is_ok());
    assert!(!greeted.unwrap().client.unwrap().verified);
    assert!(skipped.sees(Client::default()).await.is_err(), "one has to be shown");

    let named = asking("MUTUAL", ", subjectAltNames: [good.example]");
    for (names, works) in
        [(&["good.example"][..], true), (&["bad.example", "good.example"], true), (&["bad.example"], false)]
    {
        let leaf = named.pki.leaf(names);
        assert_eq!(
            named.sees(Client { leaf: Some(&leaf), ..Client::default() }).await.is_ok(),
            works,
            "{names:?}"
        );
    }
}

#[tokio::test]
async fn revoked_certificates_are_refused() {
    let mut bed = asking("MUTUAL", "");
    let mut revoked = params(&["client.example"]);
    revoked.serial_number = Some(rcgen::SerialNumber::from_slice(&[7, 7]));
    let revoked = bed.pki.made(Kind::Ecdsa, revoked);
    let good = bed.pki.leaf(&["client.example"]);
    assert!(bed.sees(Client { leaf: Some(&revoked), ..Client::default() }).await.is_ok());
    bed.write("crl.pem", &bed.pki.crl(&[7, 7]));
    let tls = "mode: MUTUAL, serverCertificate: {dir}/a.crt, privateKey: {dir}/a.key, caCertificates: {dir}/ca.crt, caCrl: {dir}/crl.pem";
    bed.apply(&server("a", "a.example", tls), true);
    assert!(bed.findings.is_empty(), "{:?}", bed.findings);
    assert!(bed.sees(Client { leaf: Some(&revoked), ..Client::default() }).await.is_err());
    assert!(bed.sees(Client { leaf: Some(&good), ..Client::default() }).await.is_ok());
}

#[tokio::test]
async fn what_is_not_opened_is_passed_on_whole() {
    let servers = server("a", "a.example", "mode: PASSTHROUGH").replace("HTTPS", "TLS");
    let bed = Bed::new(&servers, &[]);
    let (greeted, seen) = bed.connect(Client::default()).await;
    assert!(seen.is_err(), "the connection was closed, not opened");
    let greeted = greeted.unwrap();
    assert_eq!(greeted.sni.as_deref(), Some("a.example"));
    assert!(matches!(greeted.io, Io::Tcp(_)) && !greeted.served.carries_requests());
    assert_eq!(greeted.input.first(), Some(&0x16), "a record with a handshake message");
    assert!(greeted.input.windows(9).any(|window| window == b"a.example"));
}

#[tokio::test]
async fn a_first_message_may_come_in_any_pieces() {
    let bed = asking("SIMPLE", "");
    let config = Client::default().config(&bed.pki);
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("a.example").unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    for at in (1..hello.len()).step_by(97) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (first, second) = hello.split_at(at);
        let send = async {
            tcp.write_all(first).await.unwrap();
            tokio::task::yield_now().await;
            tcp.write_all(second).await.unwrap();
        };
        let (read, ()) = tokio::join!(read_hello(&mut accepted), send);
        let (accepted, input) = read.map_err(|refusal| refusal.why).unwrap();
        assert_eq!(accepted.client_hello().server_name(), Some("a.example"));
        assert_eq!(input, hello, "{at}");
    }
}

#[tokio::test]
async fn what_is_no_tls_is_refused_at_once() {
    let bed = asking("SIMPLE", "");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 4, 9, 9, 9, 9]] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        let refused = greet(accepted, &bed.serving, &nobody()).await.err().map(|refusal| refusal.why);
        assert!(matches!(refused, Some(Refused::NotTls | Refused::Protocol)), "{refused:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_let_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let refused = greet(accepted, &Bed::empty().serving, &nobody()).await.err().map(|refusal| refusal.why);
    assert_eq!(refused, Some(Refused::Deadline));
}

#[tokio::test]
async fn certificates_are_replaced_when_their_files_are() {
    let mut bed = Bed::empty();
    bed.put("a", &bed.pki.leaf(&["a.example", "first.example"]));
    let servers = simple("a", "a.example");
    bed.apply(&servers, false);
    let certificate = |bed: &Bed| {
        let served = bed.serving.select(Some("a.example")).unwrap();
        served.tls.clone().unwrap()
    };
    let first = certificate(&bed);
    bed.apply(&servers, true);
    assert!(Arc::ptr_eq(&first, &certificate(&bed)), "nothing has changed");
    let second = bed.pki.leaf(&["a.example", "second.example"]);
    // First one file, then the other: in between they do not fit.
    bed.write("a.crt", &second.certificate);
    assert!(bed.files.have_changed());
    bed.apply(&servers, true);
    assert!(bed.findings[0].ends_with("the last good certificate stays in use"), "{:?}", bed.findings);
    assert!(Arc::ptr_eq(&first, &certificate(&bed)));
    bed.write("a.key", &second.key);
    assert!(bed.files.have_changed());
    bed.apply(&servers, true);
    assert!(bed.findings.is_empty(), "{:?}", bed.findings);
    assert!(!Arc::ptr_eq(&first, &certificate(&bed)));
    assert!(bed.sees(Client::default()).await.is_ok());
    let shown = certificate(&bed);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &second.chain()[0]);
    assert_eq!(shown.certificates()[0].fingerprint, crate::tls::leaf::hex(digest.as_ref()));
}

#[tokio::test]
async fn without_a_certificate_there_is_no_handshake() {
    let bed = Bed::new(&simple("a", "a.example"), &[]);
    assert!(bed.findings[0].contains("a.crt") && bed.findings[0].ends_with("no handshake succeeds there"));
    let (greeted, seen) = bed.connect(Client::default()).await;
    assert_eq!((greeted.err(), seen.is_err()), (Some(Refused::NoCertificate), true));
    let mesh = Bed::new(&server("a", "a.example", "mode: ISTIO_MUTUAL"), &[]);
    assert_eq!(
        mesh.connect(Client::default()).await.0.err(),
        Some(Refused::NoCertificate),
        "it has no identity"
    );
}

#[tokio::test]
async fn other_settings_end_the_connections_of_a_server_and_another_certificate_does_not() {
    let mut bed = asking("SIMPLE", "");
    let drain = |bed: &Bed| bed.serving.select(Some("a.example")).unwrap().drain();
    let listener = crate::gateway::Listener::new("127.0.0.1:443".parse().unwrap(), Arc::clone(&bed.serving));
    let first = drain(&bed);
    bed.put("a", &bed.pki.leaf(&["a.example"]));
    let tls =
        "mode: SIMPLE, serverCertificate: {dir}/a.crt, privateKey: {dir}/a.key, caCertificates: {dir}/ca.crt";
    bed.apply(&server("a", "a.example", tls), true);
    listener.serve(&bed.serving);
    assert!(!first.is_draining());
    bed.apply(&server("a", "a.example", &tls.replace("SIMPLE", "MUTUAL")), true);
    listener.serve(&bed.serving);
    assert!(first.is_draining() && !drain(&bed).is_draining());
}

#[tokio::test]
async fn clients_of_the_mesh_meet_its_identity() {
    let bed = Bed::new(&server("a", "a.example", "mode: ISTIO_MUTUAL"), &[]);
    let ca = Arc::new(TestCa::new("mesh"));
    let identities =
        Arc::new(IdentityStore::new(ca.clone(), Options::new(vec![mesh_core::id::TrustDomain::default()])));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(Arc::clone(&identities).run_rotation());
    let gateway = mesh_core::id::SpiffeId::parse("spiffe://cluster.local/ns/default/sa/default").unwrap();
    identities.prepare(&[gateway.clone()].into()).await;
    for (trusted, works) in [(ca, true), (Arc::new(TestCa::new("strangers")), false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = trusted.svid("client");
        let mut config = ClientConfig::clone(&client.client_for(&gateway));
        config.enable_sni = true;
        let dial = async {
            let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let name = ServerName::try_from("a.example").unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| error.to_string())
        };
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            greet(tcp, &bed.serving, &identities).await.map_err(|refusal| refusal.why)
        };
        let (dialled, greeted) = tokio::join!(dial, accept);
        assert_eq!((dialled.is_ok(), greeted.is_ok()), (works, works), "{dialled:?}");
        if let Ok(greeted) = greeted {
            let identity = greeted.client.as_ref().and_then(|client| client.identity.clone());
            assert_eq!(identity.as_ref(), Some(client.id()));
            assert_eq!(greeted.alpn, Some(Alpn::H2));
        }
    }
    tasks.abort_all();
}
