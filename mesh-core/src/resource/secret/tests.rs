use base64::Engine as _;

use super::*;
use crate::resource::rows::{assert_rows, yaml};
use crate::resource::{Level, Spec};

const CERT: &str = "-----BEGIN CERTIFICATE-----\nY2VydA==\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0LWtleQ==\n-----END EC PRIVATE KEY-----\n";

fn document(rest: &str) -> String {
    format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s, namespace: n}}\n{rest}\n")
}

/// The Secret in `rest`; nothing worse than `level` may be said about it.
fn secret(rest: &str, level: Level) -> Secret {
    let parsed = yaml(&document(rest));
    assert!(parsed.findings.iter().all(|it| it.level <= level), "{rest}: {:?}", parsed.findings);
    assert!(level > Level::Info || parsed.findings.is_empty(), "{rest}: {:?}", parsed.findings);
    let Spec::Secret(secret) = &parsed.objects[0].spec else { panic!("kind") };
    (**secret).clone()
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

fn exposed(material: Option<&Material>) -> Option<&str> {
    material.map(|it| std::str::from_utf8(it.expose()).expect("UTF-8"))
}

#[test]
fn kubernetes_layout_is_read() {
    let key = encoded(KEY);
    let wrapped = format!("{}\n    {}", &key[..40], &key[40..]);
    let secret = secret(
        &format!(
            "type: kubernetes.io/tls\nimmutable: true\ndata:\n  tls.crt: {}\n  tls.key: |\n    {wrapped}\n  ca.crt: {}\n  ca.crl: {}\n  tls.ocsp-staple: AAEC\n  other: bm90IHJlYWQ=\n",
            encoded(CERT),
            encoded(CERT),
            encoded("-----BEGIN X509 CRL-----\n")
        ),
        Level::Info,
    );
    assert_eq!(secret.kind, SecretKind::Tls);
    assert_eq!(exposed(secret.certificate.as_ref()), Some(CERT));
    assert_eq!(exposed(secret.key.as_ref()), Some(KEY));
    assert_eq!(exposed(secret.ca.as_ref()), Some(CERT));
    assert!(secret.crl.is_some() && !secret.is_empty());
    assert_eq!(secret.ocsp_staple.as_ref().map(Material::expose), Some(&[0, 1, 2][..]));
}

#[test]
fn istios_layout_is_read_and_never_mixed() {
    let both = secret(
        &format!(
            "stringData:\n  cert: {CERT:?}\n  key: {KEY:?}\n  cacert: {CERT:?}\n  tls.crt: other\n  tls.key: other\ndata: {{cert: b3RoZXI=}}"
        ),
        Level::Info,
    );
    assert_eq!(both.kind, SecretKind::Opaque);
    assert_eq!(exposed(both.certificate.as_ref()), Some(CERT), "stringData counts before data");
    assert_eq!(exposed(both.key.as_ref()), Some(KEY));
    assert_eq!(exposed(both.ca.as_ref()), Some(CERT));
    let half = secret(&format!("stringData: {{cert: {CERT:?}, tls.key: {KEY:?}}}"), Level::Warning);
    assert_eq!((half.certificate, exposed(half.key.as_ref())), (None, Some(KEY)));
    let ca_only = secret(&format!("stringData: {{ca.crt: {CERT:?}}}"), Level::Info);
    assert_eq!((exposed(ca_only.ca.as_ref()), ca_only.key), (Some(CERT), None));
}

#[test]
fn secrets_of_others_are_not_kept() {
    for kind in
        ["kubernetes.io/service-account-token", "kubernetes.io/dockerconfigjson", "mine.example.com/x"]
    {
        let rest = format!("type: {kind}\nstringData: {{tls.key: {KEY:?}, token: t}}");
        let parsed = yaml(&document(&rest));
        let Spec::Secret(secret) = &parsed.objects[0].spec else { panic!("kind") };
        assert!(secret.is_empty() && secret.kind == SecretKind::Other(kind.into()));
        assert_eq!(parsed.findings[0].level, Level::Info);
    }
}

#[test]
fn secrets_are_checked() {
    use Level::{Error, Info, Warning};
    assert_rows(
        document,
        &[
            ("type: kubernetes.io/tls", Error, "data[\"tls.crt\"]", "required for type kubernetes.io/tls"),
            ("type: kubernetes.io/tls", Error, "data[\"tls.key\"]", "required for type kubernetes.io/tls"),
            ("data: {tls.key: '%%%'}", Error, "data[\"tls.key\"]", "is not base64"),
            ("data: {tls.key: [a]}", Error, "data[\"tls.key\"]", "expected string"),
            (
                "data: {tls.crt: aGVsbG8=, tls.key: aGVsbG8=}",
                Warning,
                "data[\"tls.crt\"]",
                "-----BEGIN CERTIFICATE-----",
            ),
            (&format!("stringData: {{tls.crt: {CERT:?}}}"), Warning, "data", "certificate without its key"),
            ("data: {a: Yg==}", Info, "", "holds no certificate"),
            ("dta: {}", Error, "dta", "unknown field"),
        ],
    );
}

/// Whatever is wrong with a Secret, what it holds is in no finding and in no `Debug` output.
#[test]
fn key_material_is_never_shown() {
    const MARK: &str = "c3VwZXJzZWNyZXQ";
    let cases = [
        format!("data: {MARK}"),
        format!("data: [{MARK}]"),
        format!("data: {{tls.key: {{a: {MARK}}}}}"),
        format!("data: {{tls.key: '{MARK}!'}}"),
        format!("data: {{tls.crt: {MARK}, tls.key: {MARK}}}"),
        format!("stringData: {MARK}"),
        format!("stringData: {{tls.key: [{MARK}]}}"),
        format!("stringData: {{tls.key: {MARK}, tls.crt: {MARK}, ca.crt: {MARK}, ca.crl: {MARK}}}"),
        format!("type: kubernetes.io/tls\nstringData: {{tls.key: {MARK}}}"),
        format!("type: x\nstringData: {{token: {MARK}}}"),
        format!("data: {{tls.key: \"{MARK}\\n\"}}\nstringData: {{x: {MARK}}}"),
    ];
    let annotated = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  annotations: {{\"kubectl.kubernetes.io/last-applied-configuration\": '{{\"data\": {{\"tls.key\": \"{MARK}\"}}}}', keep: me}}\n"
    );
    let listed = format!(
        "apiVersion: v1\nkind: SecretList\nitems: [{{metadata: {{name: s}}, data: {{tls.key: [{MARK}]}}, stringData: {MARK}}}]\n"
    );
    for text in cases.iter().map(|rest| document(rest)).chain([annotated, listed]) {
        let parsed = yaml(&text);
        let shown = format!("{parsed:?}");
        assert!(!shown.contains(MARK) && !shown.contains("supersecret"), "{text}\n{shown}");
        assert!(!parsed.objects.is_empty() || !parsed.findings.is_empty());
    }
}

#[test]
fn a_number_in_a_secret_is_not_shown() {
    let parsed = yaml(&document("data: {tls.key: 123456789}\nstringData: {x: 987654321}"));
    let shown = format!("{parsed:?}");
    assert!(!shown.contains("123456789") && !shown.contains("987654321"), "{shown}");
}
