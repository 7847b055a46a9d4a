//! What the tests of this program attack: one `mesh-node gateway`, and an origin that tells what reached it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::edge::pki::{Leaf, Pki};
use mesh_tests::edge::process::{Gateway, HTTPS, http, https, manifest, own_address, wait};
use mesh_tests::origin::{Origin, Seen};

/// The gateway and the origin.
pub(crate) struct Stand {
    pub(crate) gateway: Gateway,
    pub(crate) origin: Origin,
    /// Who has issued the gateway's certificate, and issues those of clients on [`MUTUAL`].
    pub(crate) pki: Pki,
    /// The rules that lead everything to the origin, YAML.
    pub(crate) routes: String,
}

/// A connection to the gateway, byte by byte.
pub(crate) struct Wire(pub(crate) TcpStream);

/// An answer of HTTP/1.1.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Status line and fields.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Stand {
    /// Starts both and waits until a request comes through.
    pub(crate) fn start() -> Result<Self> {
        let address = SocketAddr::from((own_address(), 0));
        let address = TcpListener::bind(address)?.local_addr()?;
        let origin = Origin::serve(&[("origin".to_owned(), address)])?;
        let pki = Pki::new("ours");
        let gateway = Gateway::start(&[("mesh.yaml", MESH)])?;
        let Leaf { certificate, key } = pki.leaf(HOST);
        for (name, text) in [("a.crt", &certificate), ("a.key", &key), ("ca.crt", &pki.pem())] {
            gateway.put(name, text)?;
        }
        let files = "serverCertificate: '{dir}/a.crt', privateKey: '{dir}/a.key'";
        let mutual =
            https("mutual", HOST, &format!("mode: MUTUAL, {files}, caCertificates: '{{dir}}/ca.crt'"));
        let servers = [
            http(PORT),
            https("simple", HOST, &format!("mode: SIMPLE, {files}")),
            mutual.replace(&HTTPS.to_string(), &MUTUAL.to_string()),
        ];
        gateway.write("gateway.yaml", &manifest(&servers.concat()))?;
        let routes = routes(address);
        gateway.write("routes.yaml", &routes)?;
        let stand = Self { gateway, origin, pki, routes };
        wait(Duration::from_secs(10), || stand.is_whole().is_ok())
            .with_context(|| format!("nothing comes through:\n{}", stand.gateway.log()))?;
        Ok(stand)
    }

    /// Whether somebody who does nothing wrong is served, and nothing has panicked.
    pub(crate) fn is_whole(&self) -> Result<()> {
        let mut wire = self.wire()?;
        wire.send(b"GET /whole HTTP/1.1\r\nHost: whole.test\r\nConnection: close\r\n\r\n")?;
        let reply = wire.reply()?;
        ensure!(reply.status == 200, "{reply:?}");
        ensure!(self.gateway.metric("mesh_panics_total")? == 0, "{}", self.gateway.log());
        Ok(())
    }

    /// A connection to the port of plain HTTP.
    pub(crate) fn wire(&self) -> Result<Wire> {
        self.wire_to(PORT)
    }

    /// A connection to another one.
    pub(crate) fn wire_to(&self, port: u16) -> Result<Wire> {
        let tcp = TcpStream::connect(self.gateway.at(port)).context("the gateway")?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire(tcp))
    }

    /// What the origin has seen for a host, whatever its port, and whatever calls itself smuggled.
    pub(crate) fn seen(&self, host: &str) -> Vec<Seen> {
        self.origin
            .seen(|seen| seen.authority.starts_with(host) || seen.raw.contains(&format!("smuggled-{host}")))
    }

    /// Memory of the gateway, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }
}

impl Wire {
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes).context("the gateway does not take it")
    }

    /// That was all.
    pub(crate) fn finish(&mut self) {
        // It may have closed the connection already.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// An answer with a length, or without a body.
    pub(crate) fn reply(&mut self) -> Result<Reply> {
        let head = self.head()?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("a status")?;
        let mut reply = Reply { status, head, body: Vec::new() };
        let length = reply.field("content-length").map_or(Ok(0), |value| value.parse::<usize>())?;
        reply.body = vec![0; length];
        self.0.read_exact(&mut reply.body).context("the body of the answer")?;
        Ok(reply)
    }

    fn head(&mut self) -> Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(1) => head.extend(byte),
                Ok(_) => bail!("the connection ends after {:?}", String::from_utf8_lossy(&head)),
                Err(error) => bail!("{error} after {:?}", String::from_utf8_lossy(&head)),
            }
            ensure!(head.len() < 65_536, "an endless head");
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// Some bytes, if they come in this time.
    pub(crate) fn some(&mut self, patience: Duration) -> Result<Vec<u8>> {
        self.0.set_read_timeout(Some(patience))?;
        let mut some = vec![0; 4096];
        let length = self.0.read(&mut some).unwrap_or(0);
        some.truncate(length);
        self.0.set_read_timeout(Some(PATIENCE))?;
        Ok(some)
    }

    /// Everything up to the end of the connection, and how it ended: an error that means silence is one here.
    pub(crate) fn rest(&mut self) -> Result<Vec<u8>> {
        let begun = Instant::now();
        let mut all = Vec::new();
        match self.0.read_to_end(&mut all) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("it stays open for {:?} after {:?}", begun.elapsed(), String::from_utf8_lossy(&all))
            }
            // A reset is an end as well.
            _ => Ok(all),
        }
    }
}

impl Reply {
    /// The value of a field, by its name in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let found = fields.find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned())
    }

    /// What the origin has seen of the request.
    pub(crate) fn seen(&self) -> Result<Seen> {
        ensure!(self.status == 200, "{self:?}");
        serde_json::from_slice(&self.body).with_context(|| format!("{self:?}"))
    }
}

/// Every host leads to the origin, and `/nowhere` to nobody.
fn routes(origin: SocketAddr) -> String {
    let (address, port) = (origin.ip(), origin.port());
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: origin, namespace: shop }}\n\
         spec:\n  hosts: [origin.shop.test]\n  resolution: STATIC\n  location: MESH_EXTERNAL\n  \
         ports: [{{ name: http, number: 80, protocol: HTTP }}]\n  \
         endpoints: [{{ address: {address}, ports: {{ http: {port} }} }}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: all, namespace: shop }}\n\
         spec:\n  hosts: ['*']\n  gateways: [edge]\n  http:\n  \
         - {{ match: [{{ uri: {{ prefix: /nowhere }} }}], directResponse: {{ status: 404 }} }}\n  \
         - {{ route: [{{ destination: {{ host: origin.shop.test }} }}] }}\n"
    )
}

const MESH: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: istio, namespace: istio-system }\n\
                    data:\n  mesh: |\n    accessLogFile: /dev/stdout\n    accessLogEncoding: JSON\n";
/// Whose certificate the gateway shows.
pub(crate) const HOST: &str = "a.shop.test";
/// Plain HTTP.
pub(crate) const PORT: u16 = 8080;
/// TLS where clients show a certificate as well.
pub(crate) const MUTUAL: u16 = 8444;
/// Longer than any deadline of the gateway but those that the tests of slow clients are about.
const PATIENCE: Duration = Duration::from_secs(15);
