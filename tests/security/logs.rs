//! What clients say, in logs, metrics and the admin page.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::edge::process::{HTTPS, wait};
use mesh_tests::http::{Request, fetch};
use serde_json::Value;

use crate::stand::{Stand, Wire};

/// Text that would be a line or a field of its own if it were written as it came.
pub(crate) fn injection(stand: &Stand) -> Result<()> {
    for (number, said) in FORGED.iter().enumerate() {
        let mut wire = stand.wire()?;
        let mut bytes =
            format!("GET /injection-{number} HTTP/1.1\r\nHost: injection.test\r\nConnection: close\r\n");
        bytes.push_str("User-Agent: ");
        let mut bytes = bytes.into_bytes();
        bytes.extend_from_slice(said);
        bytes.extend_from_slice(b"\r\nX-Request-Id: ");
        bytes.extend_from_slice(said);
        bytes.extend_from_slice(b"\r\n\r\n");
        wire.send(&bytes)?;
        wire.rest()?;
    }
    // In the target, the host and the method; what is refused is told as well.
    for line in [
        "GET /injection\"}{\"forged\":1} HTTP/1.1",
        "GET /injection\r{\"forged\":1} HTTP/1.1",
        "INJECTION\"} / HTTP/1.1",
    ] {
        let mut wire = stand.wire()?;
        wire.send(format!("{line}\r\nHost: injection.test\"forged\r\n\r\n").as_bytes())?;
        wire.finish();
        wire.rest()?;
    }
    server_name(stand)?;
    let has_all = || {
        FORGED
            .iter()
            .enumerate()
            .all(|(number, _)| stand.gateway.access_log().contains(&format!("/injection-{number}")))
    };
    wait(Duration::from_secs(10), has_all).context("not all is in the access log")?;
    for line in stand.gateway.access_log().lines() {
        let fields: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line:?}"))?;
        let fields = fields.as_object().with_context(|| format!("no object: {line:?}"))?;
        ensure!(!fields.contains_key("forged"), "a field of a client's own: {line}");
        ensure!(!line.chars().any(char::is_control), "control characters: {line:?}");
    }
    let log = stand.gateway.log();
    let forged =
        log.lines().find(|line| line.trim_start().starts_with("{\"forged") || line.contains('\u{1b}'));
    ensure!(forged.is_none(), "a line of a client's own: {forged:?}");
    Ok(())
}

/// A hello that asks for a name with a line end in it.
fn server_name(stand: &Stand) -> Result<()> {
    let name = b"a\n{\"forged\":1}\x1b[2J";
    let short = |length: usize| u16::try_from(length).unwrap_or(0).to_be_bytes();
    let entry = [&[0][..], &short(name.len()), name].concat();
    let names = [&short(entry.len())[..], &entry].concat();
    let extension = [&[0, 0][..], &short(names.len()), &names].concat();
    let body =
        [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &short(extension.len()), &extension].concat();
    let message = [&[1, 0][..], &short(body.len()), &body].concat();
    let mut wire: Wire = stand.wire_to(HTTPS)?;
    wire.send(&[&[0x16, 3, 1][..], &short(message.len()), &message].concat())?;
    wire.rest()?;
    Ok(())
}

/// Hosts, paths, methods and agents that nobody has used before make no series.
pub(crate) fn cardinality(stand: &Stand) -> Result<()> {
    ask(stand, 0..50)?;
    let before = series(stand)?;
    ask(stand, 50..CLIENTS)?;
    let grown = series(stand)?.len().saturating_sub(before.len());
    // Other tests run beside this one, and theirs are of a few kinds.
    ensure!(grown < 200, "{grown} series more after {CLIENTS} requests");
    let own: Vec<_> = series(stand)?.into_iter().filter(|line| line.contains("cardinality")).collect();
    ensure!(own.len() < 5, "clients name series: {own:?}");
    Ok(())
}

fn ask(stand: &Stand, numbers: std::ops::Range<u32>) -> Result<()> {
    let mut wire = stand.wire()?;
    for number in numbers {
        let mut bytes =
            format!("M{number} /cardinality-{number} HTTP/1.1\r\nHost: cardinality-{number}.test\r\n")
                .replace("M0 ", "GET ");
        bytes.extend([format!(
            "User-Agent: cardinality-{number}\r\nX-Envoy-Decorator-Operation: cardinality-{number}\r\n\r\n"
        )]);
        wire.send(bytes.as_bytes())?;
        wire.reply()?;
    }
    Ok(())
}

/// What the metrics have, without the values.
fn series(stand: &Stand) -> Result<Vec<String>> {
    let answer = fetch(stand.gateway.at(15020), &Request::get("/metrics"), Duration::from_secs(10))?;
    let text = answer.text();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name.to_owned()).collect())
}

/// The admin page is for programs of this machine that mean it, and for no web page; other ports do not have it.
pub(crate) fn admin(stand: &Stand) -> Result<()> {
    let admin = stand.gateway.admin();
    let open = TcpStream::connect(std::net::SocketAddr::new(stand.gateway.at(0).ip(), admin.port()));
    ensure!(open.is_err(), "the admin port is served at the gateway's own address");
    let mut foreign = Request::get("/config_dump");
    foreign.headers.push("host", "rebound.evil.test");
    let answer = fetch(admin, &foreign, Duration::from_secs(5))?;
    ensure!(answer.status >= 400, "a name that leads here by somebody else's leave: {}", answer.status);
    let mut page = Request::get("/config_dump");
    page.headers.push("origin", "http://evil.test");
    let answer = fetch(admin, &page, Duration::from_secs(5))?;
    ensure!(answer.headers.first("access-control-allow-origin").is_none(), "any page may read it");
    let dump = fetch(admin, &Request::get("/config_dump"), Duration::from_secs(5))?.text();
    ensure!(!dump.contains("PRIVATE KEY"), "the dump has a key");
    for port in [15020, 15021] {
        for path in ["/config_dump", "/logging", "/quitquitquit", "/debug/pprof/", "/../config_dump"] {
            let answer = fetch(stand.gateway.at(port), &Request::get(path), Duration::from_secs(5))?;
            ensure!(answer.status >= 400, "{port} has {path}: {}", answer.status);
        }
    }
    Ok(())
}

const CLIENTS: u32 = 3_000;
/// Values that fields may have. What they may not have is refused, see `smuggle.lines`.
const FORGED: &[&[u8]] = &[
    b"\"} {\"forged\":\"1",
    b"\",\"forged\":\"1",
    b"\\\",\"forged\":1,\"a\":\"",
    b"\\u000a{\"forged\":1}",
    b"%0a{\"forged\":1}",
    b"\t{\"forged\":1}",
    b"\xff\xfe\xc2\x85{\"forged\":1}",
    b"\xe2\x80\xa8{\"forged\":1}",
    b"${jndi:ldap://forged}",
];
