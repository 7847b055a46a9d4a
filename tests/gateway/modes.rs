//! Who gets in, and with which certificate.

use std::time::Duration;

use anyhow::Result;

use crate::pki::{Leaf, Pki};
use crate::process::{Answer, Gateway, HTTPS, https, manifest, wait};

/// A gateway with a server of this mode for `a.shop.test`, and a client of its authority and one of another.
struct Bed {
    gateway: Gateway,
}

const TLS: &str =
    "serverCertificate: '{dir}/a.crt', privateKey: '{dir}/a.key', caCertificates: '{dir}/ca.crt'";

impl Bed {
    fn new(tls: &str) -> Result<Self> {
        let servers = https("a", "a.shop.test", &format!("{TLS}, {tls}"));
        let gateway = Gateway::start(&[])?;
        let (ours, others) = (Pki::new("ours"), Pki::new("others"));
        gateway.put("ca.crt", &ours.pem())?;
        for (name, Leaf { certificate, key }) in [
            ("a", ours.leaf("a.shop.test")),
            ("client", ours.leaf("client.test")),
            ("stranger", others.leaf("client.test")),
        ] {
            gateway.put(&format!("{name}.crt"), &certificate)?;
            gateway.put(&format!("{name}.key"), &key)?;
        }
        gateway.write("gateway.yaml", &manifest(&servers))?;
        wait(Duration::from_secs(5), || std::net::TcpStream::connect(gateway.at(HTTPS)).is_ok())?;
        Ok(Self { gateway })
    }

    /// What a client sees that shows this certificate.
    fn ask(&self, client: Option<&str>, more: &[&str]) -> Result<Answer> {
        let file = |name: &str| self.gateway.file(name).display().to_string();
        let mut options = vec!["--cacert".to_owned(), file("ca.crt")];
        if let Some(name) = client {
            let (certificate, key) = (file(&format!("{name}.crt")), file(&format!("{name}.key")));
            options.extend(["--cert".to_owned(), certificate, "--key".to_owned(), key]);
        }
        let options: Vec<_> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.gateway.curl("a.shop.test", HTTPS, &options)
    }
}

#[test]
fn clients_get_in_with_what_the_mode_asks_for() -> Result<()> {
    for (mode, without, stranger) in
        [("SIMPLE", true, true), ("MUTUAL", false, false), ("OPTIONAL_MUTUAL", true, false)]
    {
        let bed = Bed::new(&format!("mode: {mode}"))?;
        for (client, works) in [(None, without), (Some("stranger"), stranger), (Some("client"), true)] {
            let answer = bed.ask(client, &[])?;
            assert_eq!(answer.status, if works { 404 } else { 0 }, "{mode} {client:?}: {answer:?}");
            assert_eq!(answer.exit == 0, works, "{mode} {client:?}: {answer:?}");
        }
        let refused = "mesh_gateway_handshakes_refused_total{reason=\"client_certificate\"}";
        let expected = [without, stranger].iter().filter(|works| !**works).count();
        let expected = u64::try_from(expected)?;
        // What has ended is counted a moment after its client knows.
        let counted =
            wait(Duration::from_secs(3), || bed.gateway.metric(refused).is_ok_and(|it| it >= expected));
        assert_eq!(bed.gateway.metric(refused)?, expected, "{mode}: {counted:?}");
    }
    Ok(())
}

#[test]
fn versions_older_than_asked_for_are_refused() -> Result<()> {
    let bed = Bed::new("mode: SIMPLE, minProtocolVersion: TLSV1_3")?;
    assert_eq!(bed.ask(None, &["--tls-max", "1.2"])?.exit, 35);
    assert_eq!(bed.ask(None, &["--tlsv1.3"])?.status, 404);
    let bed = Bed::new("mode: SIMPLE")?;
    assert_eq!(bed.ask(None, &["--tls-max", "1.2"])?.status, 404);
    assert_eq!(bed.ask(None, &["--tls-max", "1.2", "--http1.1"])?.version, "1.1");
    assert_eq!(bed.ask(None, &[])?.version, "2");
    Ok(())
}

#[test]
fn the_server_name_decides() -> Result<()> {
    let gateway = Gateway::start(&[])?;
    let pki = Pki::new("ours");
    gateway.put("ca.crt", &pki.pem())?;
    let mut servers = String::new();
    for (name, host) in [("any", "*.shop.test"), ("exact", "a.shop.test"), ("other", "b.other.test")] {
        let Leaf { certificate, key } = pki.leaf(host);
        gateway.put(&format!("{name}.crt"), &certificate)?;
        gateway.put(&format!("{name}.key"), &key)?;
        let tls = "mode: SIMPLE, serverCertificate: '{dir}/NAME.crt', privateKey: '{dir}/NAME.key'";
        servers.push_str(&https(name, host, &tls.replace("NAME", name)));
    }
    gateway.write("gateway.yaml", &manifest(&servers))?;
    wait(Duration::from_secs(5), || std::net::TcpStream::connect(gateway.at(HTTPS)).is_ok())?;
    let ca = gateway.file("ca.crt").display().to_string();
    for (host, status, exit) in
        [("a.shop.test", 404, 0), ("x.shop.test", 404, 0), ("b.other.test", 404, 0), ("c.other.test", 0, 35)]
    {
        let answer = gateway.curl(host, HTTPS, &["--cacert", &ca])?;
        assert_eq!((answer.status, answer.exit), (status, exit), "{host}");
    }
    Ok(())
}
