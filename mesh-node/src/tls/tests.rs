use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::testkit::{HOUR, TestCa, bundle, id, issue, leaf_params, on_data_thread, tcp_pair, uri};
use super::*;
use crate::identity::Sign;
use crate::report::Flag;

const GOOD: &str = "spiffe://cluster.local/ns/default/sa/client";

/// A handshake between `client` and `server`, who should be `expected`; both outcomes.
async fn shake(
    client: &Svid,
    server: &Svid,
    expected: &SpiffeId,
) -> (Result<(TlsStream, Peer), TlsError>, Result<(TlsStream, Peer), TlsError>) {
    let (near, far) = tcp_pair().await;
    tokio::join!(connect(near, client, expected), accept(far, server))
}

/// The server's verdict about a client certificate with these parameters: "ok" or the reason.
async fn verdict(
    ca: &TestCa,
    params: &CertificateParams,
    alg: &'static rcgen::SignatureAlgorithm,
) -> &'static str {
    let (server, client) = (ca.svid("server"), ca.odd(params, alg));
    let (_, server) = shake(&client, &server, &id("server")).await;
    server.map_or_else(|e| e.reason(), |_| "ok")
}

#[test]
fn both_ends_learn_the_other() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let (client, server) = (ca.svid("client"), ca.svid("server"));
        let (near, far) = shake(&client, &server, &id("server")).await;
        let ((mut near, server_seen), (mut far, client_seen)) = (near.expect("client"), far.expect("server"));
        assert_eq!(server_seen.id, id("server"));
        assert_eq!(client_seen.id, id("client"));
        assert_eq!(client_seen.not_after, client.not_after());
        assert_eq!(server.server().send_tls13_tickets, 0, "nothing to resume with");
        let session = near.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        let group = session.negotiated_key_exchange_group().expect("group").name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
        let big = vec![7; 3 << 20];
        let (sent, received) = tokio::join!(
            async {
                near.write_all(&big).await?;
                near.flush().await?;
                near.shutdown().await
            },
            async {
                let mut all = Vec::new();
                far.read_to_end(&mut all).await.map(|_| all)
            }
        );
        sent.expect("send");
        assert_eq!(received.expect("receive"), big);
    });
}

#[test]
fn names_decide() {
    let dns = || SanType::DnsName("client.example".try_into().expect("name"));
    let ip = || SanType::IpAddress("10.0.0.1".parse().expect("address"));
    let mail = || SanType::Rfc822Name("a@b.c".try_into().expect("name"));
    let long = format!("spiffe://cluster.local/ns/default/sa/{}", "a".repeat(2100));
    let cases: Vec<(&str, Vec<SanType>, &str)> = vec![
        ("one id", vec![uri(GOOD)], "ok"),
        ("no names", vec![], "no_spiffe_id"),
        ("DNS name alone", vec![dns()], "no_spiffe_id"),
        ("DNS name and id", vec![dns(), uri(GOOD)], "ok"),
        ("address, mail and id", vec![ip(), mail(), uri(GOOD)], "ok"),
        ("two ids", vec![uri(GOOD), uri("spiffe://cluster.local/ns/default/sa/other")], "several_spiffe_ids"),
        ("the same id twice", vec![uri(GOOD), uri(GOOD)], "several_spiffe_ids"),
        ("id and another URI", vec![uri(GOOD), uri("https://example.com/")], "several_spiffe_ids"),
        ("another URI", vec![uri("https://example.com/")], "malformed_spiffe_id"),
        (
            "foreign trust domain",
            vec![uri("spiffe://evil.local/ns/default/sa/client")],
            "foreign_trust_domain",
        ),
        ("alias", vec![uri("spiffe://old.local/ns/default/sa/client")], "ok"),
        (
            "upper-case scheme",
            vec![uri("SPIFFE://cluster.local/ns/default/sa/client")],
            "malformed_spiffe_id",
        ),
        ("too few parts", vec![uri("spiffe://cluster.local/ns/default")], "malformed_spiffe_id"),
        ("too many parts", vec![uri("spiffe://cluster.local/ns/default/sa/client/x")], "malformed_spiffe_id"),
        ("empty part", vec![uri("spiffe://cluster.local/ns//sa/client")], "malformed_spiffe_id"),
        ("dots", vec![uri("spiffe://cluster.local/ns/../sa/client")], "malformed_spiffe_id"),
        ("percent", vec![uri("spiffe://cluster.local/ns/default/sa/cl%69ent")], "malformed_spiffe_id"),
        ("NUL", vec![uri("spiffe://cluster.local/ns/default/sa/client\0.evil")], "malformed_spiffe_id"),
        ("query", vec![uri("spiffe://cluster.local/ns/default/sa/client?x")], "malformed_spiffe_id"),
        ("too long", vec![uri(&long)], "malformed_spiffe_id"),
    ];
    on_data_thread(async {
        let ca = TestCa::new("root");
        for (name, names, expected) in cases {
            let params = leaf_params(&names);
            let client = ca.odd(&params, &PKCS_ECDSA_P256_SHA256);
            let trust = ca.trust();
            let domains =
                ["cluster.local", "old.local"].map(|d| mesh_core::id::TrustDomain::parse(d).expect("domain"));
            trust.set_domains(domains.to_vec());
            let server = issue(&ca, &id("server"), HOUR, &trust).expect("server");
            let (_, seen) = shake(&client, &server, &id("server")).await;
            assert_eq!(seen.map_or_else(|e| e.reason(), |_| "ok"), expected, "{name}");
        }
    });
}

#[test]
fn time_use_and_keys_decide() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let good = || leaf_params(&[uri(GOOD)]);
        let p256 = &PKCS_ECDSA_P256_SHA256;

        let mut params = good();
        params.not_after = (SystemTime::now() - Duration::from_secs(5)).into();
        assert_eq!(verdict(&ca, &params, p256).await, "certificate_expired");

        let mut params = good();
        params.not_before = (SystemTime::now() + Duration::from_secs(60)).into();
        assert_eq!(verdict(&ca, &params, p256).await, "certificate_not_yet_valid");

        let mut params = good();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(verdict(&ca, &params, p256).await, "invalid_certificate", "a CA as a leaf");

        let mut params = good();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        assert_eq!(verdict(&ca, &params, p256).await, "wrong_key_usage");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        assert_eq!(verdict(&ca, &params, p256).await, "wrong_key_usage");
        params.extended_key_usages = vec![];
        assert_eq!(verdict(&ca, &params, p256).await, "ok", "no restriction at all");

        for alg in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
            assert_eq!(verdict(&ca, &good(), alg).await, "ok", "{alg:?}");
        }
    });
}

#[test]
fn chains_decide() {
    on_data_thread(async {
        let (ours, theirs) = (TestCa::new("root"), TestCa::new("root"));
        let server = ours.svid("server");

        // A root of the same name with another key. The client trusts ours, so that the server is what decides.
        let stranger = issue(&theirs, &id("client"), HOUR, &ours.trust()).expect("svid");
        let (client, seen) = shake(&stranger, &server, &id("server")).await;
        assert_eq!(seen.expect_err("refused").reason(), "untrusted_chain");
        drop(client);

        // Self-signed.
        let key = KeyPair::generate().expect("key");
        let alone = leaf_params(&[uri(GOOD)]).self_signed(&key).expect("certificate").der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let alone =
            Svid::assemble(id("client"), vec![alone], key, ours.trust(), Protocols::default()).expect("svid");
        let (_, seen) = shake(&alone, &server, &id("server")).await;
        assert!(["untrusted_chain", "invalid_certificate"].contains(&seen.expect_err("refused").reason()));

        // Through one intermediate, through three, and through one too many.
        let mut ca = ours.intermediate("1");
        let (_, seen) = shake(&ca.svid("client"), &server, &id("server")).await;
        assert_eq!(seen.expect("chain of two").1.id, id("client"));
        ca = ca.intermediate("2").intermediate("3");
        let (_, seen) = shake(&ca.svid("client"), &server, &id("server")).await;
        assert_eq!(seen.expect("chain of four").1.id, id("client"));
        ca = ca.intermediate("4");
        let (_, seen) = shake(&ca.svid("client"), &server, &id("server")).await;
        assert_eq!(seen.expect_err("chain of five").reason(), "chain_too_long");
    });
}

#[test]
fn the_client_insists_on_whom_it_came_for() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let (client, server) = (ca.svid("client"), ca.svid("server"));
        let (near, far) = shake(&client, &server, &id("other")).await;
        let near = near.expect_err("another identity");
        assert_eq!((near.reason(), near.flag()), ("wrong_identity", Flag::TlsFailure));
        assert_eq!(far.expect_err("the server hears of it").reason(), "refused_by_peer");
    });
}

#[test]
fn trust_changes_count_from_the_next_handshake() {
    on_data_thread(async {
        let (old, new) = (TestCa::new("old"), TestCa::new("new"));
        let trust = old.trust();
        let server = issue(&old, &id("server"), HOUR, &trust).expect("server");
        let client = issue(&new, &id("client"), HOUR, &old.trust()).expect("client");
        let (_, seen) = shake(&client, &server, &id("server")).await;
        assert_eq!(seen.expect_err("not yet").reason(), "untrusted_chain");
        trust.set_bundle(bundle(&[&old, &new]));
        let (_, seen) = shake(&client, &server, &id("server")).await;
        assert_eq!(seen.expect("now").1.id, id("client"));
        trust.set_bundle(old.bundle());
        let (_, seen) = shake(&client, &server, &id("server")).await;
        assert_eq!(seen.expect_err("and no longer").reason(), "untrusted_chain");
    });
}

/// Whoever holds a proof hears that it is one no more: of a revocation, and of a root that goes before its time.
#[test]
fn what_was_proven_is_judged_again() {
    on_data_thread(async {
        let (ca, other) = (TestCa::new("ours"), TestCa::new("other"));
        let trust = ca.trust();
        let with_list = |serials: &[&str]| {
            let bundle = mesh_ca::Bundle::parse(ca.pem().as_bytes(), ca.crl(serials).as_bytes());
            std::sync::Arc::new(bundle.expect("a bundle"))
        };
        let server = issue(&ca, &id("server"), HOUR, &trust).expect("server");
        let client = issue(&ca, &id("client"), HOUR, &ca.trust()).expect("client");
        let proof = async || shake(&client, &server, &id("server")).await.1.expect("good").1.proof;
        let soon = |proof: Proof| async move {
            tokio::time::timeout(Duration::from_millis(50), proof.refuted()).await.ok()
        };
        let held = proof().await;
        assert_eq!(soon(held.clone()).await, None, "nothing has changed");
        trust.set_bundle(with_list(&["0102"]));
        assert_eq!(soon(held.clone()).await, None, "a list that names others");
        trust.set_bundle(with_list(&["0102", client.serial()]));
        assert_eq!(soon(held).await, Some(PeerError::Revoked));
        trust.set_bundle(bundle(&[&ca, &other]));
        let held = proof().await;
        trust.set_bundle(other.bundle());
        assert_eq!(soon(held).await, Some(PeerError::Untrusted));

        trust.set_bundle(ca.bundle());
        let short = issue(&ca, &id("client"), Duration::from_secs(1), &ca.trust()).expect("client");
        let ended = shake(&short, &server, &id("server")).await.1.expect("good").1.proof;
        tokio::time::sleep(Duration::from_millis(2100)).await;
        trust.set_bundle(other.bundle());
        assert_eq!(soon(ended).await, None, "its root went after its end");
    });
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A client of rustls's own, not ours, for what ours would never do.
async fn foreign_client(
    ca: &TestCa,
    alpn: &[&[u8]],
    certificate: bool,
) -> Result<(TlsStream, Peer), TlsError> {
    let svid = ca.svid("client");
    let mut config = (*svid.client_for(&id("server"))).clone();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    if !certificate {
        config.client_auth_cert_resolver = std::sync::Arc::new(NoCertificate);
    }
    let (near, far) = tcp_pair().await;
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let server = ca.svid("server");
    let client = async {
        // Held open until the server has decided.
        let stream = TlsConnector::from(std::sync::Arc::new(config)).connect(name, near).await;
        if let Ok(mut stream) = stream {
            let _ = stream.read_u8().await;
        }
    };
    tokio::select! {
        result = accept(far, &server) => result,
        () = async { client.await; std::future::pending().await } => unreachable!(),
    }
}

#[test]
fn protocol_and_certificate_are_required() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let reason = |r: Result<_, TlsError>| r.map_or_else(|e| e.reason(), |_| "ok");
        assert_eq!(reason(foreign_client(&ca, &[b"h2"], true).await), "ok");
        assert_eq!(reason(foreign_client(&ca, &[b"http/1.1", b"h2"], true).await), "ok");
        assert_eq!(reason(foreign_client(&ca, &[], true).await), "no_h2_alpn");
        assert_eq!(reason(foreign_client(&ca, &[b"http/1.1"], true).await), "no_h2_alpn");
        assert_eq!(reason(foreign_client(&ca, &[b"h2"], false).await), "no_client_certificate");
    });
}

#[test]
fn silence_and_garbage_end_in_time() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let server = ca.svid("server");
        let short = Duration::from_millis(150);
        let reason = |r: Result<_, TlsError>| r.map_or_else(|e| e.reason(), |_| "ok");

        let (near, far) = tcp_pair().await;
        assert_eq!(reason(accept_within(far, &server, short).await), "tls_handshake_timeout", "silence");
        drop(near);

        let (near, far) = tcp_pair().await;
        drop(near);
        assert_eq!(reason(accept(far, &server).await), "tls_connection_lost");

        for text in
            ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0\0\0\0\0\0"]
        {
            let (mut near, far) = tcp_pair().await;
            near.write_all(text.as_bytes()).await.expect("write");
            assert_eq!(reason(accept_within(far, &server, short).await), "not_tls", "{text:?}");
        }

        let (near, far) = tcp_pair().await;
        let client = ca.svid("client");
        let result = connect_within(near, &client, &id("server"), short).await;
        assert_eq!(reason(result), "tls_handshake_timeout", "a silent server");
        drop(far);
    });
}

/// The first flight of a client of ours.
async fn client_hello(ca: &TestCa) -> Vec<u8> {
    let (near, mut far) = tcp_pair().await;
    let client = ca.svid("client");
    let server = id("server");
    let mut hello = vec![0; 8192];
    tokio::select! {
        _ = connect(near, &client, &server) => unreachable!("nobody answers"),
        n = far.read(&mut hello) => hello.truncate(n.expect("read")),
    }
    hello
}

#[test]
fn a_partial_hello_is_waited_for_and_no_longer() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let server = ca.svid("server");
        let hello = client_hello(&ca).await;
        for split in [1, 4, 5, 6, 9, 40, 100, hello.len() / 2, hello.len() - 1] {
            let (mut near, far) = tcp_pair().await;
            near.write_all(&hello[..split]).await.expect("write");
            let held = accept_within(far, &server, Duration::from_millis(60)).await.expect_err("incomplete");
            assert_eq!(held.reason(), "tls_handshake_timeout", "cut at {split}");

            let (mut near, far) = tcp_pair().await;
            near.write_all(&hello[..split]).await.expect("write");
            near.shutdown().await.expect("shutdown");
            let cut = accept(far, &server).await.expect_err("ended");
            assert_eq!(cut.reason(), "tls_connection_lost", "ended at {split}");
        }
        // Every split of the record's begin, but then complete: the server goes on to its own flight.
        for split in (1..hello.len()).step_by(97) {
            let (mut near, far) = tcp_pair().await;
            let mut answer = [0; 5];
            let client = async {
                near.write_all(&hello[..split]).await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
                near.write_all(&hello[split..]).await?;
                near.read_exact(&mut answer).await
            };
            tokio::select! {
                result = client => { result.expect("the server answers"); }
                result = accept(far, &server) => unreachable!("{:?}", result.err()),
            }
            assert_eq!(answer[0], 22, "a handshake record, split at {split}");
        }
    });
}

#[test]
fn garbage_after_the_handshake_breaks_the_stream() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let (client, server) = (ca.svid("client"), ca.svid("server"));
        let (near, far) = shake(&client, &server, &id("server")).await;
        let ((near, _), (mut far, _)) = (near.expect("client"), far.expect("server"));
        let buffered = near.get_ref().0;
        buffered.get_ref().try_write(&[0x17, 3, 3, 0, 32, 1, 2, 3]).expect("write");
        buffered.get_ref().try_write(&[9; 64]).expect("write");
        let broken = far.read_u8().await.expect_err("the record does not authenticate");
        assert_eq!(broken.kind(), io::ErrorKind::InvalidData);
    });
}

#[test]
fn a_cut_connection_is_no_clean_end() {
    on_data_thread(async {
        let ca = TestCa::new("root");
        let (client, server) = (ca.svid("client"), ca.svid("server"));
        let (near, far) = shake(&client, &server, &id("server")).await;
        let ((near, _), (mut far, _)) = (near.expect("client"), far.expect("server"));
        // The TCP connection ends without TLS's goodbye.
        drop(near);
        let cut = far.read_u8().await.expect_err("truncated");
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn every_reason_is_its_own() {
    use rustls::Error as E;
    let all = [
        TlsError::Deadline,
        TlsError::Lost(io::ErrorKind::BrokenPipe),
        TlsError::NotTls(E::General("x".into())),
        TlsError::NoAlpn,
        TlsError::NoClientCertificate,
        TlsError::Peer(PeerError::ChainTooLong),
        TlsError::Peer(PeerError::Untrusted),
        TlsError::Peer(PeerError::Expired),
        TlsError::Peer(PeerError::Revoked),
        TlsError::Peer(PeerError::NotYetValid),
        TlsError::Peer(PeerError::WrongUsage),
        TlsError::Peer(PeerError::Invalid(webpki::Error::BadDer)),
        TlsError::Peer(PeerError::MalformedNames),
        TlsError::Peer(PeerError::NoId),
        TlsError::Peer(PeerError::SeveralIds),
        TlsError::Peer(PeerError::WrongIdentity { expected: id("a"), found: id("b") }),
        TlsError::Alert(rustls::AlertDescription::UnknownCA),
        TlsError::Protocol(E::General("x".into())),
    ];
    let reasons: std::collections::BTreeSet<_> = all.iter().map(TlsError::reason).collect();
    assert_eq!(reasons.len(), all.len());
    assert!(all.iter().all(|e| e.flag() == Flag::TlsFailure && !e.to_string().is_empty()));
}
