//! The sample for one's own machine, as its first lines say.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_tests::http::{Request, Response, fetch, serve};

use crate::process::{Gateway, wait};

#[test]
fn the_local_sample_does_what_it_says() -> Result<()> {
    let web = TcpListener::bind("127.0.0.1:0")?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/samples/local/gateway.yaml");
    let sample = fs::read_to_string(path)?.replace("8000", &web.local_addr()?.port().to_string());
    thread::spawn(move || serve(&web, |_| Response::new(200, "text/plain", "the web")));
    let gateway = Gateway::start(&[("gateway.yaml", &sample)])?;
    let ask = |path: &str, headers: &[(&str, &str)]| -> Result<Response> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request.headers.push(*name, *value);
        }
        fetch(gateway.at(8080), &request, Duration::from_secs(5)).context(path.to_owned())
    };
    wait(Duration::from_secs(5), || ask("/hello", &[]).is_ok_and(|answer| answer.status == 200))?;
    let web = ask("/", &[])?;
    ensure!(
        web.status == 200 && web.text() == "the web" && web.headers.first("x-served-by") == Some("local"),
        "{web:?}"
    );
    ensure!(ask("/hello", &[])?.text() == "Hello.\n", "hello");
    let old = ask("/old", &[])?;
    ensure!(
        old.status == 301 && old.headers.first("location").is_some_and(|to| to.ends_with("/hello")),
        "{old:?}"
    );
    let begun = Instant::now();
    ensure!(ask("/", &[("end-user", "jason")])?.status == 418, "jason");
    ensure!(begun.elapsed() >= Duration::from_millis(450), "too soon: {:?}", begun.elapsed());
    gateway.write("gateway.yaml", &sample.replace("Hello.", "Good day."))?;
    wait(Duration::from_secs(1), || ask("/hello", &[]).is_ok_and(|answer| answer.text() == "Good day.\n"))
        .context("a change within a second")
}
