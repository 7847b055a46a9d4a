//! TLS that the gateway makes for requests: which name it asks for, and which it accepts.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::client::get;
use crate::frames::listener;
use crate::row::{Case, Row, row};
use crate::tls::Authority;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        with_server("originate/sni-of-the-request", "", async |case, count| {
            // Two names that the certificate has, in turns: a connection for one must not carry requests of the other.
            for _ in 0..3 {
                let reply = case.send(get("/")).await?;
                ensure!(reply.text() == case.host, "{reply}");
                let reply = case.send(get("/rewritten")).await?;
                ensure!(reply.text() == "rewritten.test", "{reply}");
            }
            let made = count.load(Ordering::Relaxed);
            ensure!(made == 2, "{made} connections for two names");
            let reply = case.send(get("/").to(&format!("{}:80", case.host.to_uppercase()))).await?;
            ensure!(reply.text() == case.host, "{reply}");
            // One that it has not: the name that is asked for is the one that is checked.
            let reply = case.send(get("/wrong").mark(&case.id)).await?;
            ensure!(reply.status == 503, "{reply}");
            case.flags("UF,URX").await
        }),
        with_server("originate/sni-of-the-rule", ", sni: rewritten.test", async |case, count| {
            for path in ["/", "/rewritten", "/wrong"] {
                let reply = case.send(get(path)).await?;
                ensure!(reply.text() == "rewritten.test", "{path}: {reply}");
            }
            let made = count.load(Ordering::Relaxed);
            ensure!(made == 1, "{made} connections for one name");
            Ok(())
        }),
        with_server("originate/names-of-the-rule", ", subjectAltNames: [rewritten.test]", async |case, _| {
            // What is asked for comes from the request all the same; what is accepted does not.
            let reply = case.send(get("/wrong")).await?;
            ensure!(reply.text() == "wrong.test", "{reply}");
            Ok(())
        }),
        with_server("originate/no-sni-of-an-address", ", insecureSkipVerify: true", async |case, _| {
            let reply = case.send(get("/address")).await?;
            ensure!(reply.text() == "none", "{reply}");
            let reply = case.send(get("/wrong")).await?;
            ensure!(reply.text() == "wrong.test", "{reply}");
            Ok(())
        }),
    ]
}

/// A row whose server says which name was asked for.
fn with_server<F: Future<Output = Result<()>> + 'static>(
    id: &str,
    more: &str,
    act: impl FnOnce(Case, Arc<AtomicUsize>) -> F + 'static,
) -> Row {
    let (listener, authority) = (listener(), Authority::new().expect("a key of P-256"));
    let files = tempfile::tempdir().expect("a place for files");
    let roots = files.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).expect("room for a file");
    let trust = if more.contains("insecure") {
        String::new()
    } else {
        format!(", caCertificates: {}", roots.display())
    };
    let service = crate::row::slug(id);
    let to = format!("route: [{{destination: {{host: {service}}}}}]");
    let rewrite = |path: &str, host: &str| {
        format!("{{match: [{{uri: {{prefix: /{path}}}}}], rewrite: {{authority: {host}}}, {to}}}")
    };
    let rules = format!(
        "[{}, {}, {}, {{{to}}}]",
        rewrite("rewritten", "rewritten.test"),
        rewrite("wrong", "wrong.test"),
        rewrite("address", "'127.0.0.1:443'")
    );
    row(id).on_server(&listener, &format!("tls: {{mode: SIMPLE{trust}{more}}}"), "http").http(&rules).act(
        async move |case| {
            let count = serve(listener, &authority, &case.host)?;
            let done = act(case, count).await;
            drop(files);
            done
        },
    )
}

/// Answers every request with the server name of its connection; connections are counted.
pub(crate) fn serve(listener: TcpListener, authority: &Authority, host: &str) -> Result<Arc<AtomicUsize>> {
    let pair = authority.issue(&[host, "rewritten.test"])?;
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(
        vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes())?],
        PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?,
    )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    tokio::task::spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
            tokio::task::spawn_local(async move {
                let tls = acceptor.accept(tcp).await?;
                counted.fetch_add(1, Ordering::Relaxed);
                name_it(tls).await
            });
        }
    });
    Ok(count)
}

async fn name_it(mut tls: TlsStream<TcpStream>) -> std::io::Result<()> {
    let name = tls.get_ref().1.server_name().unwrap_or("none").to_owned();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
    let mut input = Vec::new();
    while tls.read_buf(&mut input).await? > 0 {
        if input.ends_with(b"\r\n\r\n") {
            input.clear();
            tls.write_all(answer.as_bytes()).await?;
            tls.flush().await?;
        }
    }
    Ok(())
}
