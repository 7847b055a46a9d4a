//! Ports come and go with the configuration, and what cannot be had costs nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::process::{Gateway, http, manifest, wait};

/// An edit takes effect within a second, on a machine that has nothing else to do.
const SOON: Duration = Duration::from_secs(3);

fn listens(gateway: &Gateway, port: u16) -> bool {
    TcpStream::connect(gateway.at(port)).is_ok()
}

/// Asks on a connection that is kept, and returns the first line of the answer.
fn ask(connection: &mut TcpStream) -> Result<String> {
    connection.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
    let mut buffer = [0; 4096];
    let read = connection.read(&mut buffer)?;
    let text = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned();
    Ok(text.lines().next().context("the connection has ended")?.to_owned())
}

#[test]
fn what_is_not_changed_goes_on() -> Result<()> {
    let gateway = Gateway::start(&[("gateway.yaml", &manifest(&[http(8080), http(8081)].concat()))])?;
    let (mut kept, mut ending) =
        (TcpStream::connect(gateway.at(8080))?, TcpStream::connect(gateway.at(8081))?);
    assert!(ask(&mut kept)?.contains(" 404 ") && ask(&mut ending)?.contains(" 404 "));
    gateway.write("gateway.yaml", &manifest(&[http(8080), http(8082)].concat()))?;
    wait(SOON, || listens(&gateway, 8082) && !listens(&gateway, 8081))?;
    assert!(ask(&mut kept)?.contains(" 404 "), "it was not about this one");
    // The one whose port is gone is told to end, and does so between two requests.
    ending.set_read_timeout(Some(SOON))?;
    ensure!(ending.read(&mut [0; 1])? == 0, "an idle connection of a port that is gone ends");
    let dump = gateway.dump()?;
    let open = dump["listeners"].as_array().context("listeners")?.len();
    assert_eq!((open, dump["config"]["gateway"]["knownBy"].as_str()), (2, Some("convention")));
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_had_when_it_is_free() -> Result<()> {
    let gateway = Gateway::start(&[])?;
    // Somebody who would share the port with everybody of the same user, and get a part of the connections.
    let taken = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    taken.set_reuse_port(true)?;
    taken.bind(&gateway.at(8080).into())?;
    taken.listen(1)?;
    gateway.write("gateway.yaml", &manifest(&[http(8080), http(8081)].concat()))?;
    wait(SOON, || listens(&gateway, 8081))?;
    wait(SOON, || gateway.metric("mesh_gateway_listeners{state=\"failed\"}").is_ok_and(|count| count == 1))?;
    let finding = format!("Gateway shop/edge: {} cannot be listened on: ", gateway.at(8080));
    assert!(gateway.dump()?["findings"].to_string().contains(&finding) && gateway.log().contains(&finding));
    drop(taken);
    wait(Duration::from_secs(5), || {
        gateway.metric("mesh_gateway_listeners{state=\"open\"}").is_ok_and(|count| count == 2)
    })?;
    assert!(ask(&mut TcpStream::connect(gateway.at(8080))?)?.contains(" 404 "));
    assert!(gateway.log().contains("Mended: "));
    Ok(())
}

#[test]
fn it_needs_no_privilege() -> Result<()> {
    let is_root = std::fs::metadata("/proc/self")?.uid() == 0;
    let by: &[&str] =
        if is_root { &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] } else { &[] };
    let files = [("gateway.yaml", &*manifest(&[http(8080), http(81)].concat()))];
    let gateway = Gateway::start_as(&files, by)?;
    assert!(ask(&mut TcpStream::connect(gateway.at(8080))?)?.contains(" 404 "));
    let first_free = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
    if first_free.trim().parse::<u16>()? > 81 {
        assert!(gateway.dump()?["findings"].to_string().contains("CAP_NET_BIND_SERVICE"));
    }
    Ok(())
}

#[test]
fn it_stops_when_nobody_is_left() -> Result<()> {
    let mut gateway = Gateway::start(&[("gateway.yaml", &manifest(&http(8080)))])?;
    let mut kept = TcpStream::connect(gateway.at(8080))?;
    assert!(ask(&mut kept)?.contains(" 404 "));
    let status = gateway.stop(Duration::from_secs(5))?;
    assert!(status.success(), "{status}: {}", gateway.log());
    assert_eq!(kept.read(&mut [0; 1])?, 0);
    Ok(())
}
