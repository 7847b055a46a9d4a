//! An issuer of tokens, for tests: it signs with Ed25519, and serves its keys over plain HTTP.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

/// Somebody who signs tokens.
#[derive(Debug)]
pub struct Issuer {
    key: KeyPair,
}

/// A server of keys, until the process ends.
#[derive(Debug, Clone)]
pub struct KeyServer {
    address: SocketAddr,
    down: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Issuer {
    /// One with a key of its own.
    pub fn new() -> Result<Self> {
        Ok(Self { key: KeyPair::generate_for(&rcgen::PKCS_ED25519).context("a key")? })
    }

    /// Its key, as a JSON Web Key Set.
    pub fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.key.der_bytes());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "x": x}]}).to_string()
    }

    /// A token that says this.
    pub fn token(&self, payload: &Value) -> Result<String> {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","kid":"one"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload.to_string()));
        let signature = self.key.sign(signed.as_bytes()).context("signing")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Serves its keys at whatever path on loopback.
    pub fn serve(&self) -> Result<KeyServer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port")?;
        let address = listener.local_addr()?;
        let server = KeyServer { address, down: Arc::default(), asked: Arc::default() };
        let (keys, own) = (self.jwks(), server.clone());
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let mut tcp = tcp;
                let _ = tcp.set_read_timeout(Some(Duration::from_secs(2)));
                let _ = tcp.read(&mut [0; 4096]);
                own.asked.fetch_add(1, Ordering::Relaxed);
                let (status, body) =
                    if own.down.load(Ordering::Relaxed) { ("503 Down", "") } else { ("200 OK", &*keys) };
                let length = body.len();
                let _ = write!(
                    tcp,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
            }
        });
        Ok(server)
    }
}

impl KeyServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it says that it is down, from now on.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// So many seconds from now, as tokens have times.
pub fn from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX).saturating_add(seconds)
}
