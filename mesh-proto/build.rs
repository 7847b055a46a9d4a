//! Protocol definitions → Rust, without a compiler to be installed first.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "workload.proto",
        "authorization.proto",
        "discovery.proto",
        "ca.proto",
        "mesh.proto",
        "ratelimit.proto",
        "authz.proto",
        "topology.proto",
        "otlp.proto",
        "als.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    // Payloads stay in the buffer that they arrived in.
    tonic_prost_build::configure().bytes(".").codec_path("crate::codec::Codec").compile_fds(descriptors)?;
    Ok(())
}
