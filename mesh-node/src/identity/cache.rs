//! Certificates and keys in memory that outlives this process: a node that starts again while its CA cannot be reached
//! serves with what it had.
//!
//! Invariant: keys are never written to a disk. The directory must be on a file system that is memory (`/run` is), and
//! is refused otherwise. Only root can read the files.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mesh_ca::bundle::pem;
use mesh_core::id::SpiffeId;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::sys::fs::is_memory;

/// A directory of certificates with their keys.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Kept {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS #8.
    pub key: PrivatePkcs8KeyDer<'static>,
}

impl Cache {
    /// Makes and opens `directory`, which must be in memory.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        if is_memory(directory)? {
            return Ok(Self { directory: directory.to_owned() });
        }
        let text = format!(
            "{} is on a disk, where keys must not be; name a directory of a tmpfs",
            directory.display()
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    /// What was kept for `id`. Whatever cannot be read is as good as nothing: the CA makes it anew.
    pub fn load(&self, id: &SpiffeId) -> Option<Kept> {
        let text = fs::read(self.path(id)).ok()?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().ok()?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&text).ok()?;
        let named = mesh_ca::chain::identity(chain.first()?).ok()?;
        (named == *id).then_some(Kept { chain, key })
    }

    /// The one certificate that was kept, if it is of an identity of `namespace`; for those who learn their identity by it.
    pub fn load_only(&self, namespace: &str) -> Option<Kept> {
        let entries = fs::read_dir(&self.directory).ok()?.flatten().map(|entry| entry.path());
        let mut kept = entries.filter(|path| path.extension().is_some_and(|it| it == EXTENSION));
        let path = kept.next().filter(|_| kept.next().is_none())?;
        let text = fs::read(path).ok()?;
        let leaf = CertificateDer::pem_slice_iter(&text).next()?.ok()?;
        let id = mesh_ca::chain::identity(&leaf).ok().filter(|id| id.namespace() == namespace)?;
        self.load(&id)
    }

    /// Keeps a certificate for `id` in place of the last one.
    pub fn save(&self, id: &SpiffeId, chain: &[CertificateDer<'_>], key: &[u8]) -> io::Result<()> {
        let path = self.path(id);
        let fresh = path.with_extension("new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
        for certificate in chain {
            file.write_all(pem("CERTIFICATE", certificate).as_bytes())?;
        }
        file.write_all(pem("PRIVATE KEY", key).as_bytes())?;
        fs::rename(fresh, path)
    }

    /// Forgets everything but what belongs to `ids`.
    pub fn retain(&self, ids: &BTreeSet<SpiffeId>) -> io::Result<()> {
        let wanted: BTreeSet<PathBuf> = ids.iter().map(|id| self.path(id)).collect();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) && !wanted.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Identities have no character but `/` and `:` that a file name cannot have, and no `+`.
    fn path(&self, id: &SpiffeId) -> PathBuf {
        let name = id.principal().replace('/', "+");
        self.directory.join(format!("{name}.{EXTENSION}"))
    }
}

const EXTENSION: &str = "svid";

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    fn certificate(id: &SpiffeId) -> (CertificateDer<'static>, Vec<u8>) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = vec![rcgen::SanType::URI(id.uri().try_into().unwrap())];
        (params.self_signed(&key).unwrap().der().clone(), key.serialize_der())
    }

    #[test]
    fn what_is_kept_is_for_root_alone_and_comes_back_for_its_owner_alone() {
        let Ok(place) = tempfile::tempdir_in("/dev/shm") else { panic!("/dev/shm is not there") };
        let cache = Cache::open(&place.path().join("node")).unwrap();
        let (web, db) = (id("spiffe://td/ns/a/sa/web"), id("spiffe://td/ns/a/sa/db"));
        let (certificate, key) = certificate(&web);
        assert!(cache.load(&web).is_none());
        cache.save(&web, std::slice::from_ref(&certificate), &key).unwrap();
        let kept = cache.load(&web).unwrap();
        assert_eq!((kept.chain, kept.key.secret_pkcs8_der()), (vec![certificate.clone()], &*key));
        assert!(cache.load(&db).is_none());
        let mode = |path: PathBuf| {
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777
        };
        assert_eq!((mode(cache.path(&web)), mode(cache.directory.clone())), (0o600, 0o700));
        // Another identity's certificate under this one's name is not this one's.
        cache.save(&db, std::slice::from_ref(&certificate), &key).unwrap();
        assert!(cache.load(&db).is_none());
        cache.retain(&BTreeSet::from([db.clone()])).unwrap();
        assert!(cache.load(&web).is_none());
        assert!(cache.path(&db).exists());
    }

    #[test]
    fn a_disk_is_refused() {
        let place = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let refused = Cache::open(place.path()).unwrap_err();
        assert!(refused.to_string().contains("is on a disk"), "{refused}");
    }
}
