use std::collections::BTreeMap;

use mesh_core::resource::networking::gateway::TlsCertificate;
use mesh_core::resource::{SourceFile, Spec, parse};

use super::*;

/// Secrets by name, as manifests have them.
fn secrets(yaml: &str) -> BTreeMap<String, Arc<Secret>> {
    let parsed = parse(&SourceFile { name: "t.yaml", text: yaml });
    let secrets = parsed.objects.into_iter().filter_map(|object| match object.spec {
        Spec::Secret(secret) => Some((object.meta.name.to_string(), Arc::new(*secret))),
        _ => None,
    });
    secrets.collect()
}

fn gathered(spec: &ServerTls, yaml: &str) -> Result<Materials, String> {
    let secrets = secrets(yaml);
    let secret = |name: &str| secrets.get(name).cloned();
    Sources { files: &mut Files::default(), secret: &secret }.gather(spec)
}

fn text(bytes: Option<&Arc<[u8]>>) -> String {
    String::from_utf8_lossy(bytes.map_or(&[], |bytes| bytes)).into_owned()
}

const TLS: &str = "
apiVersion: v1
kind: Secret
metadata: { name: shop }
type: kubernetes.io/tls
stringData: { tls.crt: certificate, tls.key: key, ca.crt: own-ca }
";
const GENERIC: &str = "
apiVersion: v1
kind: Secret
metadata: { name: shop }
stringData: { cert: certificate, key: key, cacert: own-ca, crl: own-crl }
";
const CA: &str = "
apiVersion: v1
kind: Secret
metadata: { name: shop-cacert }
stringData: { cacert: other-ca }
";

fn named(mode: ServerTlsMode) -> ServerTls {
    ServerTls { mode, credential_name: "shop".to_owned(), ..ServerTls::default() }
}

#[test]
fn secrets_come_in_two_forms() {
    for (yaml, crl) in [(TLS, ""), (GENERIC, "own-crl")] {
        let materials = gathered(&named(ServerTlsMode::Mutual), yaml).unwrap();
        let pair = &materials.pairs[0];
        assert_eq!(
            (text(Some(&pair.certificate)), text(Some(&pair.key))),
            ("certificate".into(), "key".into())
        );
        assert_eq!(
            (text(materials.ca.as_ref()), text(materials.crl.as_ref())),
            ("own-ca".into(), crl.into())
        );
        assert!(gathered(&named(ServerTlsMode::Simple), yaml).unwrap().ca.is_none(), "nobody is checked");
    }
}

#[test]
fn authorities_of_their_own_come_first() {
    let both = [TLS, CA].join("---");
    let materials = gathered(&named(ServerTlsMode::OptionalMutual), &both).unwrap();
    assert_eq!(text(materials.ca.as_ref()), "other-ca");
    let spec = ServerTls { ca_cert_credential_name: "clients".to_owned(), ..named(ServerTlsMode::Mutual) };
    let clients =
        [&both, CA].join("---").replace("name: shop-cacert", "name: clients").replace("other", "third");
    assert_eq!(text(gathered(&spec, &clients).unwrap().ca.as_ref()), "third-ca");
    assert!(gathered(&spec, TLS).unwrap_err().contains("the Secret clients has no authorities"));
}

#[test]
fn what_is_missing_is_named() {
    assert!(gathered(&named(ServerTlsMode::Simple), CA).unwrap_err().contains("no Secret shop"));
    let without_ca = TLS.replace(", ca.crt: own-ca", "");
    let error = gathered(&named(ServerTlsMode::Mutual), &without_ca).unwrap_err();
    assert_eq!(error, "the Secret shop has no authorities for clients");
    let only_ca = CA.replace("shop-cacert", "shop");
    assert!(
        gathered(&named(ServerTlsMode::Simple), &only_ca).unwrap_err().contains("no certificate with a key")
    );
    let file = ServerTls {
        mode: ServerTlsMode::Simple,
        server_certificate: "/nowhere/a.crt".to_owned(),
        private_key: "/nowhere/a.key".to_owned(),
        ..ServerTls::default()
    };
    assert!(gathered(&file, "").unwrap_err().starts_with("the file /nowhere/a.crt: "));
    let map =
        ServerTls { ca_cert_credential_name: "configmap://a".to_owned(), ..named(ServerTlsMode::Mutual) };
    assert!(gathered(&map, TLS).unwrap_err().contains("ConfigMaps"));
}

#[test]
fn files_are_pairs_with_one_set_of_authorities() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, name).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pair = |name: &str| TlsCertificate {
        server_certificate: file(&format!("{name}.crt")),
        private_key: file(&format!("{name}.key")),
        ca_certificates: file("ca"),
    };
    let spec = ServerTls {
        mode: ServerTlsMode::Mutual,
        tls_certificates: vec![pair("rsa"), pair("ecdsa")],
        ca_crl: file("crl"),
        ..ServerTls::default()
    };
    let materials = gathered(&spec, "").unwrap();
    let names: Vec<_> = materials.pairs.iter().map(|pair| text(Some(&pair.certificate))).collect();
    assert_eq!(names, ["rsa.crt", "ecdsa.crt"]);
    assert_eq!((text(materials.ca.as_ref()), text(materials.crl.as_ref())), ("ca".into(), "crl".into()));
    assert_eq!(format!("{materials:?}"), "Materials { pairs: 2, .. }");
}

#[test]
fn a_file_that_is_replaced_or_written_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let name = path.to_str().unwrap();
    let mut files = Files::default();
    assert!(files.read(name).is_err());
    assert!(!files.have_changed());
    std::fs::write(&path, "1").unwrap();
    assert!(files.have_changed());
    assert_eq!(&*files.read(name).unwrap(), b"1");
    assert!(!files.have_changed());
    // As long, and in the same moment as far as the file system can tell.
    std::fs::write(&path, "2").unwrap();
    assert!(files.have_changed());
    assert_eq!(&*files.read(name).unwrap(), b"2");
    // As with mounted Secrets: the name leads elsewhere from one moment to the next.
    std::fs::write(directory.path().join("b"), "3").unwrap();
    std::fs::rename(directory.path().join("b"), &path).unwrap();
    assert!(files.have_changed());
    assert_eq!(&*files.read(name).unwrap(), b"3");
    std::fs::remove_file(&path).unwrap();
    assert!(files.have_changed());
    files.begin();
    assert!(!files.have_changed(), "nobody needs it");
    std::fs::write(&path, vec![0; 2 << 20]).unwrap();
    assert!(files.read(name).unwrap_err().contains("larger"));
}
