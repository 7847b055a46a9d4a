//! Network interfaces and where their other ends are (`NETLINK_ROUTE`).

use std::io;

use super::netlink::{Netlink, attributes};

/// An interface of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number there.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// The number of its other end, in whatever namespace that is; pairs (veth) have one.
    pub peer: Option<u32>,
    /// Its hardware address; zeros if it has none.
    pub hardware: [u8; 6],
}

/// The interfaces of the calling thread's network namespace.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut found = Vec::new();
    // `struct ifinfomsg`, all zeros: of any family and kind.
    Netlink::open(libc::NETLINK_ROUTE)?
        .dump(RTM_GETLINK, &[0; IFINFOMSG], |body| found.extend(read(body)))?;
    Ok(found)
}

/// Names of the interfaces of the calling thread's network namespace, loopback left out.
pub fn names() -> io::Result<Vec<String>> {
    Ok(interfaces()?.into_iter().map(|it| it.name).filter(|name| name != "lo").collect())
}

fn read(body: &[u8]) -> Option<Interface> {
    let word = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
    let mut interface =
        Interface { index: word(body.get(4..)?)?, name: String::new(), peer: None, hardware: [0; 6] };
    for (kind, value) in attributes(body.get(IFINFOMSG..)?) {
        match kind {
            IFLA_ADDRESS => interface.hardware = value.try_into().unwrap_or_default(),
            IFLA_IFNAME => interface.name = text(value),
            IFLA_LINK => interface.peer = word(value),
            _ => {}
        }
    }
    Some(interface)
}

/// Queueing disciplines of the calling thread's network namespace that could see or hold packets back: the number of the
/// interface, and the kind (`clsact` where classifiers are).
pub fn queues() -> io::Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    // `struct tcmsg`, all zeros: of any interface.
    Netlink::open(libc::NETLINK_ROUTE)?
        .dump(RTM_GETQDISC, &[0; TCMSG], |body| found.extend(read_queue(body)))?;
    found.retain(|(_, kind)| kind != "noqueue");
    Ok(found)
}

fn read_queue(body: &[u8]) -> Option<(u32, String)> {
    let interface = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let (_, kind) = attributes(body.get(TCMSG..)?).find(|(kind, _)| *kind == TCA_KIND)?;
    Some((interface, text(kind)))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

const RTM_GETLINK: u16 = 18;
const RTM_GETQDISC: u16 = 38;
const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
const IFINFOMSG: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there() {
        let all = interfaces().expect("an answer");
        let lo = all.iter().find(|it| it.name == "lo").expect("every namespace has one");
        assert_eq!((lo.index, lo.hardware), (1, [0; 6]));
    }
}
