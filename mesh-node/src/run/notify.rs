//! Tells systemd that this process is ready, where it asks to be told (`sd_notify`): units that are ordered after it wait.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use tracing::warn;

/// Tells it once `ready` is true. Without anybody to tell this ends at once.
pub async fn when(ready: impl Fn() -> bool) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    while !ready() {
        tokio::time::sleep(LOOK).await;
    }
    if let Err(error) = tell(&socket.to_string_lossy(), b"READY=1") {
        warn!(%error, "systemd cannot be told that this process is ready.");
    }
}

/// A name that begins with `@` is none of a file.
fn tell(socket: &str, message: &[u8]) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address).map(drop)
}

const LOOK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_told_at_either_kind_of_address() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("notify").display().to_string();
        let hidden = format!("@mesh-notify-{}", std::process::id());
        for name in [path, hidden] {
            let address = match name.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&name),
            };
            let socket = UnixDatagram::bind_addr(&address.expect("a name")).expect("a socket");
            tell(&name, b"READY=1").expect("told");
            let mut heard = [0; 16];
            let length = socket.recv(&mut heard).expect("heard");
            assert_eq!(&heard[..length], b"READY=1", "{name}");
        }
        assert!(tell("/nowhere/notify", b"READY=1").is_err());
    }
}
