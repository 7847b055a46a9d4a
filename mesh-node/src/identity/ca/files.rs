//! The four files of a CA: made once and as a whole, read with errors that name the file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::id::{SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CaError, StateCa};
use crate::identity::Svid;
use crate::tls::{PeerVerifier, Trust};

/// What the files say, checked one by one.
pub(super) struct Loaded {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) intermediates: Vec<CertificateDer<'static>>,
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) not_after: SystemTime,
}

type Writer<'a> = &'a mut dyn FnMut(&str, &str) -> Result<(), CaError>;

/// The CA's directory below `state`, filled through `make` if it holds none of the files.
///
/// The files appear together by one rename, under a lock that all processes of the state directory share.
pub(super) fn open_or_create(
    state: &Path,
    make: impl FnOnce(Writer<'_>) -> Result<(), CaError>,
) -> Result<PathBuf, CaError> {
    let dir = state.join("ca");
    if has_any(&dir) {
        return Ok(dir);
    }
    create_dir(state)?;
    let lock_path = state.join("ca.lock");
    let lock = private().create(true).truncate(false).open(&lock_path).map_err(io(&lock_path))?;
    lock.lock().map_err(io(&lock_path))?;
    if has_any(&dir) {
        return Ok(dir);
    }
    let draft = state.join("ca.draft");
    if draft.exists() {
        // Left by a process that died here; the lock says that it is nobody's work in progress.
        fs::remove_dir_all(&draft).map_err(io(&draft))?;
    }
    create_dir(&draft)?;
    make(&mut |name, text| write_private(&draft.join(name), text))?;
    sync(&draft)?;
    // An empty `ca` is replaced, anything else is an error.
    fs::rename(&draft, &dir).map_err(io(&dir))?;
    sync(state)?;
    tracing::info!(directory = %dir.display(), "New CA made.");
    Ok(dir)
}

/// Reads the four files.
pub(super) fn load(dir: &Path) -> Result<Loaded, CaError> {
    let roots = certificates(&dir.join(ROOT))?;
    let signer_path = dir.join(CERTIFICATE);
    let signer = certificates(&signer_path)?.swap_remove(0);
    let chain = certificates(&dir.join(CHAIN))?;
    let key = key(&dir.join(KEY))?;

    let (_, parsed) = X509Certificate::from_der(&signer).map_err(malformed(&signer_path))?;
    if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
        let reason = format!("its key is not the one of {CERTIFICATE}");
        return Err(CaError::Malformed { path: dir.join(KEY), reason });
    }
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(end);
    if not_after <= SystemTime::now() {
        return Err(CaError::Malformed { path: signer_path, reason: "it has expired".into() });
    }
    let issuer = Issuer::from_ca_cert_der(&signer, key).map_err(malformed(&signer_path))?;

    let mut intermediates: Vec<CertificateDer<'static>> = Vec::new();
    for certificate in std::iter::once(signer).chain(chain) {
        if !roots.contains(&certificate) && !intermediates.contains(&certificate) {
            intermediates.push(certificate);
        }
    }
    Ok(Loaded { issuer, intermediates, roots, not_after })
}

/// Signs a certificate that is thrown away and checks it as a peer would: a broken chain shows at the start, not at
/// the first handshake.
pub(super) fn check_chain(dir: &Path, ca: &StateCa, domain: &TrustDomain) -> Result<(), CaError> {
    let root_path = dir.join(ROOT);
    let trust = Trust::new(&ca.roots, vec![domain.clone()]).map_err(malformed(&root_path))?;
    let trust = Arc::new(trust);
    let broken = |reason: &dyn std::fmt::Display| CaError::Chain {
        path: dir.join(CERTIFICATE),
        reason: reason.to_string(),
    };
    let id = SpiffeId::new(domain, "mesh", "probe").map_err(|e| broken(&e))?;
    let svid = Svid::issue(ca, &id, PROBE_LIFETIME, &trust).map_err(|e| broken(&e))?;
    let (leaf, intermediates) = svid.chain().split_first().expect("an issued chain has a leaf");
    PeerVerifier::any(trust)
        .verify_client_cert(leaf, intermediates, UnixTime::now())
        .map_err(|e| broken(&e))?;
    Ok(())
}

fn has_any(dir: &Path) -> bool {
    [ROOT, CERTIFICATE, CHAIN, KEY].iter().any(|name| dir.join(name).exists())
}

fn read(path: &Path) -> Result<Vec<u8>, CaError> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_FILE => Err(CaError::Malformed {
            path: path.into(),
            reason: format!("it is larger than {MAX_FILE} bytes"),
        }),
        Ok(_) => fs::read(path).map_err(io(path)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(CaError::Missing { path: path.into() }),
        Err(e) => Err(io(path)(e)),
    }
}

/// At least one certificate.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let text = read(path)?;
    let list =
        CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().map_err(malformed(path))?;
    if list.is_empty() {
        return Err(CaError::Malformed { path: path.into(), reason: "it holds no certificate".into() });
    }
    for certificate in &list {
        X509Certificate::from_der(certificate).map_err(malformed(path))?;
    }
    Ok(list)
}

fn key(path: &Path) -> Result<KeyPair, CaError> {
    let text = read(path)?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(malformed(path))?;
    KeyPair::try_from(&der).map_err(malformed(path))
}

fn write_private(path: &Path, text: &str) -> Result<(), CaError> {
    let mut file = private().create_new(true).open(path).map_err(io(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io(path))
}

/// For our eyes only.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn create_dir(path: &Path) -> Result<(), CaError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))
}

fn sync(dir: &Path) -> Result<(), CaError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io(dir))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CaError + use<> {
    let path = path.to_owned();
    move |source| CaError::Io { path, source }
}

fn malformed<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> CaError + use<E> {
    let path = path.to_owned();
    move |e| CaError::Malformed { path, reason: e.to_string() }
}

/// One or more roots.
pub(super) const ROOT: &str = "root-cert.pem";
/// The certificate that signs.
pub(super) const CERTIFICATE: &str = "ca-cert.pem";
/// From the one that signs up to a root.
pub(super) const CHAIN: &str = "cert-chain.pem";
/// The key of the one that signs.
pub(super) const KEY: &str = "ca-key.pem";
/// A bundle of a few hundred roots; anything larger is not one.
const MAX_FILE: u64 = 1 << 20;
const PROBE_LIFETIME: Duration = Duration::from_secs(60);
