use super::*;

fn entries(names: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
    names.iter().map(|(name, data)| ((*name).to_owned(), data.as_bytes().to_vec())).collect()
}

#[test]
fn a_self_signed_ca_is_its_own_root_and_chain() {
    let completed = completed(entries(&[("ca-cert.pem", "c"), ("ca-key.pem", "k")]));
    assert_eq!(completed["root-cert.pem"], b"c");
    assert_eq!(completed["cert-chain.pem"], b"c");
}

#[test]
fn what_is_half_there_is_not_guessed() {
    for given in [
        entries(&[("ca-cert.pem", "c")]),
        entries(&[("ca-cert.pem", "c"), ("ca-key.pem", "k"), ("root-cert.pem", "r")]),
        entries(&[("ca-key.pem", "k")]),
        entries(&[]),
    ] {
        assert_eq!(completed(given.clone()), given);
    }
}

#[test]
fn a_patch_names_its_version_and_removes_what_goes() {
    let base = Contents::new(String::new(), "n@7".into(), entries(&[("a", "1"), ("b", "2")]));
    let patch = merge("7", &base, &[Change::remove("a"), Change::put("c", "3")]);
    assert_eq!(
        patch,
        json!({ "metadata": { "resourceVersion": "7" }, "data": { "a": null, "b": "Mg==", "c": "Mw==" } })
    );
}
