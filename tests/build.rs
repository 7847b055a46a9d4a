//! Tests of a real ztunnel exist where `ZTUNNEL` names one while they are built; elsewhere they are listed as ignored.

fn main() {
    println!("cargo::rerun-if-env-changed=ZTUNNEL");
    println!("cargo::rustc-check-cfg=cfg(ztunnel)");
    if std::env::var_os("ZTUNNEL").is_some_and(|path| std::path::Path::new(&path).is_file()) {
        println!("cargo::rustc-cfg=ztunnel");
    }
}
